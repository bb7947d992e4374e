//! AWS Secrets Manager, as its own SDK hears it: scripted answers instead of a network.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Builder, Credentials, HttpClient, Region};
use aws_smithy_http_client::test_util::{NeverClient, ReplayEvent, StaticReplayClient};
use aws_smithy_types::body::SdkBody;
use bakeoff_lambda::secrets::Secrets;
use serde_json::{Value, json};

/// An answer of Secrets Manager.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The secret's value.
    Secret(&'a str),
    /// A secret of bytes.
    Bytes,
    /// An error by its name in the API, with its HTTP status.
    Error(u16, &'a str),
}

/// Gives each answer once, in this order; after the last it is out of reach.
pub fn answering(answers: &[Answer]) -> (Secrets, StaticReplayClient) {
    let replay = StaticReplayClient::new(answers.iter().map(event).collect());
    (Secrets::with_client(Client::from_conf(config(replay.clone()).build())), replay)
}

/// Takes requests and never answers.
pub fn silent() -> Secrets {
    Secrets::with_client(Client::from_conf(config(NeverClient::new()).build()))
}

/// How many answers were asked for.
pub fn requests(replay: &StaticReplayClient) -> usize {
    replay.actual_requests().count()
}

fn config(http: impl HttpClient + 'static) -> Builder {
    aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("AKIAIOSFODNN7EXAMPLE", "secret", None, None, "test"))
        .http_client(http)
}

fn event(answer: &Answer) -> ReplayEvent {
    let (status, body) = match answer {
        Answer::Secret(value) => (200, json!({ "Name": "name", "SecretString": value })),
        Answer::Bytes => (200, json!({ "Name": "name", "SecretBinary": "c2VjcmV0" })),
        Answer::Error(status, name) => (*status, json!({ "__type": name, "message": "so it is" })),
    };
    ReplayEvent::new(http::Request::new(SdkBody::empty()), response(status, &body))
}

fn response(status: u16, body: &Value) -> http::Response<SdkBody> {
    let mut response = http::Response::new(SdkBody::from(body.to_string()));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("an HTTP status");
    response
}

//! A scripted AWS Secrets Manager: the SDK gets prepared responses instead of using the network.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Builder, Credentials, HttpClient, Region};
use aws_smithy_http_client::test_util::{NeverClient, ReplayEvent, StaticReplayClient};
use aws_smithy_types::body::SdkBody;
use bakeoff_lambda::secrets::Secrets;
use serde_json::{Value, json};

/// A response of Secrets Manager.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// A string secret with this value.
    Secret(&'a str),
    /// A binary secret.
    Bytes,
    /// An error: HTTP status and name in the API.
    Error(u16, &'a str),
}

/// Returns a reader of secrets that gets these answers in order. After the last one, requests fail.
pub fn secrets_with_answers(answers: &[Answer]) -> (Secrets, StaticReplayClient) {
    let replay = StaticReplayClient::new(answers.iter().map(event).collect());
    (Secrets::with_client(Client::from_conf(config(replay.clone()).build())), replay)
}

/// Returns a reader of secrets whose requests never get a response.
pub fn secrets_without_response() -> Secrets {
    Secrets::with_client(Client::from_conf(config(NeverClient::new()).build()))
}

/// Returns the number of requests so far.
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
        Answer::Error(status, name) => (*status, json!({ "__type": name, "message": "scripted error" })),
    };
    ReplayEvent::new(http::Request::new(SdkBody::empty()), response(status, &body))
}

fn response(status: u16, body: &Value) -> http::Response<SdkBody> {
    let mut response = http::Response::new(SdkBody::from(body.to_string()));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("an HTTP status");
    response
}

//! Tests of handlers: sample events as requests, and an app with its own database that serves them.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fixture::key_set;
use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::runners::allowlist::{self, NewEntry};
use bakeoff_core::runners::proof::ProvenKey;
use bakeoff_core::runners::register::{Registration, register};
use bakeoff_core::runners::runner::Admin;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::enqueue::{Enqueued, NewRun, enqueue};
use bakeoff_lambda::admin::{Command, dispatch};
use bakeoff_lambda::config::Config;
use bakeoff_lambda::serve::respond;
use bakeoff_lambda::{App, Request};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use lambda_http::{Context, RequestExt as _};
use lambda_runtime::LambdaEvent;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Database;
use crate::openapi::check_answer;

/// The service's public URL in `events/`.
pub const SERVICE: &str = "https://a1b2c3d4e5.execute-api.us-east-1.amazonaws.com";
/// The request id of every invocation.
const REQUEST_ID: &str = "8f2c7a1e-5b0d-4c3e-9a6f-0d1e2f3a4b5c";
/// Seed of the key in `events/`, which also signed the harness's runs.
const RUNNER_SEED: &str = include_str!("../../core/tests/fixtures/runner_key.seed");

/// An API Gateway event (payload format 2.0).
#[derive(Clone, Debug)]
pub struct Event(Value);

impl Event {
    /// Reads a sample from `events/`; `name` is the file name without `.json`.
    ///
    /// # Panics
    /// If the sample does not exist.
    pub fn sample(name: &str) -> Self {
        let path = format!("{}/../../events/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self(serde_json::from_str(&text).expect("a sample event is JSON"))
    }

    /// Returns the body's text.
    ///
    /// # Panics
    /// If the event has no body.
    pub fn body_text(&self) -> &str {
        self.0["body"].as_str().expect("the event has a body")
    }

    /// Returns the body as JSON, which a test can change and pass to [`Event::body`].
    pub fn body_json(&self) -> Value {
        serde_json::from_str(self.body_text()).expect("a sample's body is JSON")
    }

    /// Replaces the body.
    #[must_use]
    pub fn body(mut self, body: impl ToString) -> Self {
        self.0["body"] = json!(body.to_string());
        self.0["isBase64Encoded"] = json!(false);
        self
    }

    /// Replaces the body with bytes, which API Gateway passes on in base64.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0["body"] = json!(STANDARD.encode(bytes));
        self.0["isBase64Encoded"] = json!(true);
        self
    }

    /// Compresses the body and sets `content-encoding`.
    #[must_use]
    pub fn gzip(self) -> Self {
        let compressed = gzip(self.body_text().as_bytes());
        self.bytes(&compressed).header("content-encoding", "gzip")
    }

    /// Sets a header. The name must be in lower case, as API Gateway writes it.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.0["headers"][name] = json!(value);
        self
    }

    /// Removes a header.
    #[must_use]
    pub fn without_header(mut self, name: &str) -> Self {
        self.0["headers"].as_object_mut().expect("an event has headers").remove(name);
        self
    }

    /// Sets the bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sets a path parameter.
    #[must_use]
    pub fn path_parameter(mut self, name: &str, value: &str) -> Self {
        self.0["pathParameters"][name] = json!(value);
        self
    }

    /// Sets the query string, without the question mark.
    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.0["rawQueryString"] = json!(query);
        self
    }

    /// Sets the route key.
    #[must_use]
    pub fn route(mut self, route: &str) -> Self {
        self.0["routeKey"] = json!(route);
        self.0["requestContext"]["routeKey"] = json!(route);
        self
    }

    /// Removes the IAM authorizer's context.
    #[must_use]
    pub fn without_iam(mut self) -> Self {
        self.0["requestContext"].as_object_mut().expect("an event has a context").remove("authorizer");
        self
    }

    /// Sets the caller's ARN in the IAM authorizer's context.
    #[must_use]
    pub fn iam_user(mut self, arn: &str) -> Self {
        self.0["requestContext"]["authorizer"]["iam"]["userArn"] = json!(arn);
        self
    }

    /// Returns the event as the Lambda runtime delivers it.
    pub fn json(&self) -> &Value {
        &self.0
    }

    fn request(&self) -> lambda_http::Request {
        lambda_http::request::from_str(&self.0.to_string())
            .expect("an event of payload format 2.0")
            .with_lambda_context(context())
    }
}

/// Returns an invocation's context, with an id and a deadline in 29 s.
pub fn context() -> Context {
    let deadline = SystemTime::now() + Duration::from_secs(29);
    let mut context = Context::default();
    context.request_id = REQUEST_ID.to_owned();
    context.deadline = deadline
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| since.as_millis().try_into().ok())
        .expect("a deadline after 1970");
    context
}

/// Compresses bytes with gzip (RFC 1952).
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// A handler's HTTP response.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null where there is none, or where it is not JSON.
    pub body: Value,
    /// The body's bytes.
    pub bytes: Vec<u8>,
    headers: lambda_http::http::HeaderMap,
}

impl Answer {
    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the body of a successful response.
    ///
    /// # Panics
    /// If the response has another status or content type.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        let content_type = (!self.body.is_null()).then_some("application/json");
        assert_eq!(self.header("content-type"), content_type);
        assert_eq!(self.header("cache-control"), Some("no-store"));
        self.body
    }

    /// Returns the problem document of a refusal.
    ///
    /// # Panics
    /// If the response has another status or code, or violates the contract for problem documents.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> &Value {
        let problem = &self.body;
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert_eq!(problem["type"], format!("urn:bakeoff:problem:{code}"));
        assert_eq!(problem["status"], status);
        for member in ["title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {problem}");
        }
        assert_eq!(self.header("www-authenticate").is_some(), status == 401, "{:?}", self.headers);
        assert_eq!(self.header("retry-after").is_some(), status == 503, "{:?}", self.headers);
        problem
    }

    /// Returns the JSON pointers of all field errors of a 422.
    ///
    /// # Panics
    /// If the response is not `422 invalid_request`.
    #[track_caller]
    pub fn pointers(&self) -> Vec<&str> {
        let errors = self.problem(422, "invalid_request")["errors"].as_array().expect("a list of errors");
        errors
            .iter()
            .map(|field_error| {
                assert!(field_error["detail"].as_str().is_some_and(|text| !text.is_empty()), "{field_error}");
                field_error["pointer"].as_str().expect("a pointer")
            })
            .collect()
    }
}

/// Returns the sorted names of an object's members.
///
/// # Panics
/// If the value is not an object.
pub fn members(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// An app with its own database and with signing keys in a file.
pub struct Service {
    /// The app's database.
    pub database: Database,
    app: App,
    keys: String,
}

impl Service {
    /// Creates the database, the keys and the app.
    pub async fn start() -> Self {
        let database = Database::create().await;
        let keys = std::env::temp_dir().join(format!("bakeoff-keys-{}.json", Uuid::new_v4()));
        let keys = keys.display().to_string();
        std::fs::write(&keys, key_set([7; 32])).expect("a file for the signing keys");
        let app =
            app(&[("PUBLIC_URL", SERVICE), ("DATABASE_URL", database.url()), ("SIGNING_KEYS_FILE", &keys)]);
        Self { database, app, keys }
    }

    /// Returns the app.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Serves `event` with `handler`, from the event to the HTTP response.
    pub async fn send<'a, H, F>(&'a self, handler: H, event: &Event) -> Answer
    where
        H: Fn(&'a App, Request) -> F,
        F: Future<Output = bakeoff_lambda::Result>,
    {
        serve(&self.app, handler, event).await
    }

    /// Invokes the function directly, as `aws lambda invoke` does.
    ///
    /// # Errors
    /// The text of an invocation that failed.
    pub async fn invoke<C: Command>(&self, payload: &Value) -> Result<Value, String> {
        let payload = to_raw_value(payload).expect("a payload");
        let invoked = dispatch::<C>(&self.app, LambdaEvent::new(payload, context())).await;
        invoked.map_err(|error| error.to_string())
    }

    /// Returns the path of the file with the signing keys.
    pub fn keys_file(&self) -> &str {
        &self.keys
    }

    /// Adds the runner of `events/` to the allowlist.
    pub async fn allow_runner(&self) {
        self.allow(&Event::sample("keys-add").body_json()).await;
    }

    /// Adds an entry in the form of the admin API to the allowlist.
    pub async fn allow(&self, entry: &Value) {
        let entry = NewEntry::parse(&entry.to_string()).expect("an entry");
        allowlist::add(&self.database.client().await, &admin(), &entry).await.expect("the key is new");
    }

    /// Adds the runner of `events/` to the allowlist, registers it, and returns its token.
    pub async fn register_runner(&self) -> String {
        self.allow_runner().await;
        self.token_of("runner-amd-8060s", time::Duration::hours(1)).await
    }

    /// Registers the runner of `events/` under a name, and returns a token that is valid for `ttl`.
    pub async fn token_of(&self, runner_id: &str, ttl: time::Duration) -> String {
        let mut body = Event::sample("register").body_json();
        body["runner_id"] = json!(runner_id);
        let registration = Registration::parse(&body.to_string()).expect("a sample registration");
        let url = format!("{SERVICE}/api/runners/register");
        let proven = ProvenKey::from_proof(&proof(&proof_claims()), &url).expect("a proof of the key");
        let keys = self.app.signing_keys().await.expect("the keys in the file");
        let client = self.database.client().await;
        register(&client, &keys, SERVICE, ttl, &proven, &registration).await.expect("it is allowed").token
    }

    /// Enqueues the run of `events/`.
    pub async fn enqueue_run(&self) -> Enqueued {
        let run = NewRun::parse(Event::sample("runs-enqueue").body_text()).expect("a sample run");
        enqueue(&self.database.client().await, &admin(), &run).await.expect("the run is new")
    }

    /// Creates a service whose runner has claimed the run of `events/`, and a sample event of that runner.
    pub async fn with_claim(sample: &str) -> (Self, Event) {
        let service = Self::start().await;
        let token = service.register_runner().await;
        service.enqueue_run().await;
        service.claim_job(&token).await;
        (service, Event::sample(sample).bearer(&token))
    }

    /// Claims the run of `events/` for the runner with this token, with the claim id of `events/`.
    pub async fn claim_job(&self, token: &str) {
        let keys = self.app.signing_keys().await.expect("the keys in the file");
        let runner = keys.authenticate(SERVICE, token).expect("a valid token");
        let request = ClaimRequest::parse(Event::sample("claim").body_text()).expect("a sample claim");
        let terms = self.app.config().lease;
        let job = claim(&self.database.client().await, &runner, terms, &request).await;
        job.expect("the runner is allowed").expect("a job is eligible");
    }

    /// Cancels the run of `events/`.
    pub async fn cancel_run(&self) {
        let run_id =
            Event::sample("runs-enqueue").body_json()["run_id"].as_str().and_then(|id| id.parse().ok());
        let run_id = run_id.expect("the sample names its run");
        cancel(&self.database.client().await, &admin(), run_id, None).await.expect("the run exists");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.keys);
    }
}

/// Serves `event` with `handler` and `app`, from the event to the HTTP response.
///
/// # Panics
/// If the response lacks a header that every response must have.
pub async fn serve<'a, H, F>(app: &'a App, handler: H, event: &Event) -> Answer
where
    H: Fn(&'a App, Request) -> F,
    F: Future<Output = bakeoff_lambda::Result>,
{
    let response = respond(app, handler, event.request()).await.expect("every refusal is an answer");
    let (parts, body) = response.into_parts();
    assert_eq!(parts.headers["x-request-id"], REQUEST_ID);
    let is_json = parts.headers.get("content-type").is_some_and(|kind| kind.as_bytes().ends_with(b"json"));
    let bytes = body.to_vec();
    let body = if is_json { serde_json::from_slice(&bytes).expect("JSON") } else { Value::Null };
    let content_type = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    let route = event.0["routeKey"].as_str().unwrap_or_default();
    check_answer(route, parts.status.as_u16(), content_type, &body);
    Answer { status: parts.status.as_u16(), body, bytes, headers: parts.headers }
}

/// Creates an app from these environment variables.
///
/// # Panics
/// If a variable is invalid.
pub fn app(settings: &[(&str, &str)]) -> App {
    let setting =
        |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    App::new(Config::from_variables(&setting).expect("valid settings"))
}

fn admin() -> Admin {
    Admin::from_iam_principal("arn:aws:iam::123456789012:user/bench-admin")
}

/// Returns the claims of a fresh proof for the registration route.
pub fn proof_claims() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
    json!({
        "htm": "POST", "htu": format!("{SERVICE}/api/runners/register"), "iat": now, "jti": Uuid::new_v4(),
    })
}

/// Creates a DPoP proof (RFC 9449, section 4) with these claims, signed with the key of `events/`.
pub fn proof(claims: &Value) -> String {
    let seed = STANDARD.decode(RUNNER_SEED.trim()).ok().and_then(|seed| seed.try_into().ok());
    let key = SigningKey::from_bytes(&seed.expect("a seed of 32 bytes in base64"));
    let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
    let header = json!({
        "typ": "dpop+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": x },
    });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&header), encode(claims));
    let signature = key.sign(signed.as_bytes()).to_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

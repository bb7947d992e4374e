//! The service's HTTP contract, as a runner sees it.
//!
//! [`RunnerApi`] keeps a token and renews it by itself: before it ends, and when the service says that it has.
//! Nothing here waits or tries again, apart from that; who calls decides (`crate::back_off`).

mod error;
pub mod http;
mod messages;
mod proof;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

pub use self::error::{ApiError, FieldError, Problem};
use self::http::Http;
pub use self::messages::{
    Capabilities, Claimed, Directive, Heartbeat, Job, JobModel, JobPrompt, Registered, Registration,
    RunStatus,
};
use crate::key::RunnerKey;

const REGISTER: &str = "/api/runners/register";
/// A token is renewed this long before its end, or after nine tenths of its life if that is later.
const RENEW_BEFORE_END: Duration = Duration::from_secs(60);

/// The API as one runner uses it. Shared by the main thread and the heartbeat's.
#[derive(Debug)]
pub struct RunnerApi {
    client: Client,
    key: RunnerKey,
    registration: Registration,
    session: Mutex<Session>,
}

/// What is known since the last registration.
#[derive(Debug, Default)]
struct Session {
    token: Option<Token>,
    /// How far the service's clock is ahead of ours, in seconds.
    clock_ahead_s: i64,
}

#[derive(Debug)]
struct Token {
    bearer: HeaderValue,
    renew_at: Instant,
}

impl RunnerApi {
    /// Creates a client; sends nothing.
    pub fn new(client: Client, key: RunnerKey, registration: Registration) -> Self {
        Self { client, key, registration, session: Mutex::default() }
    }

    /// What the runner registers with.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// Registers, and keeps the token.
    ///
    /// # Errors
    /// `key_not_allowed`, `runner_id_taken`; [`ApiError::Unreachable`] and the like.
    pub fn register(&self) -> Result<Registered, ApiError> {
        let mut session = self.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.register_in(&mut session)
    }

    fn register_in(&self, session: &mut Session) -> Result<Registered, ApiError> {
        let registered = match self.try_register(session.clock_ahead_s) {
            Err(ApiError::Refused(problem)) if problem.code == "proof_stale" => {
                // Our clock is wrong: the service says by how much.
                let server = problem.server_time.as_deref();
                let server = server.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
                let Some(server) = server else { return Err(ApiError::Refused(problem)) };
                session.clock_ahead_s = server.unix_timestamp() - OffsetDateTime::now_utc().unix_timestamp();
                self.try_register(session.clock_ahead_s)?
            }
            answer => answer?,
        };
        let bearer = HeaderValue::try_from(format!("Bearer {}", registered.token));
        let bearer = bearer.map_err(|error| ApiError::Unexpected(error.to_string()))?;
        let life = Duration::try_from(registered.expires_at - registered.server_time).unwrap_or_default();
        let renew_after = life.saturating_sub(RENEW_BEFORE_END).max(life * 9 / 10);
        session.token = Some(Token { bearer, renew_at: Instant::now() + renew_after });
        Ok(registered)
    }

    fn try_register(&self, clock_ahead_s: i64) -> Result<Registered, ApiError> {
        let issued_at = OffsetDateTime::now_utc().unix_timestamp() + clock_ahead_s;
        let proof = proof::proof(&self.key, &self.client.url(REGISTER), issued_at);
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("dpop"), header_value(proof)?);
        let answer = self.client.post(REGISTER, headers, json_bytes(&self.registration)?)?;
        body(&answer)
    }

    /// Asks for a job under `claim_id`. The same id again gets the same live claim.
    ///
    /// # Errors
    /// `claim_lost`: the id was used before and its claim has ended.
    pub fn claim(&self, claim_id: Uuid, capabilities: Option<&Capabilities>) -> Result<Claimed, ApiError> {
        let mut request = json!({ "claim_id": claim_id });
        if let Some(capabilities) = capabilities {
            request["capabilities"] = json!(capabilities);
        }
        let answer = self.authorized(Method::POST, "/api/queue/claim", Body::json(&request)?)?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(Claimed::Nothing { retry_after: retry_after(&answer) });
        }
        let text = String::from_utf8(answer.body().to_vec());
        let text = text.map_err(|error| ApiError::Unexpected(error.to_string()))?;
        Ok(Claimed::Job { job: Box::new(body(&answer)?), text })
    }

    /// Extends the lease and learns what to do.
    ///
    /// # Errors
    /// `claim_lost` when the claim has ended for another reason than a cancel.
    pub fn heartbeat(&self, run_id: Uuid, claim_id: Uuid, progress: &Value) -> Result<Heartbeat, ApiError> {
        let request = json!({ "claim_id": claim_id, "progress": progress });
        let path = format!("/api/queue/{run_id}/heartbeat");
        body(&self.authorized(Method::POST, &path, Body::json(&request)?)?)
    }

    /// Submits; `gzip` is the compressed request. Returns the answer's text: the receipt is kept as it came.
    ///
    /// # Errors
    /// `run_finished`, `claim_lost`, or what is wrong with the result.
    pub fn submit(&self, run_id: Uuid, gzip: Bytes) -> Result<String, ApiError> {
        let path = format!("/api/queue/{run_id}/submit");
        let answer = self.authorized(Method::POST, &path, Body { bytes: gzip, gzip: true })?;
        String::from_utf8(answer.body().to_vec()).map_err(|error| ApiError::Unexpected(error.to_string()))
    }

    /// Ends the claim without a result: `failure` is its code and detail, absent if the job is just handed
    /// back.
    ///
    /// # Errors
    /// `claim_lost` when the claim has ended already.
    pub fn release(
        &self,
        run_id: Uuid,
        claim_id: Uuid,
        failure: Option<(&str, &str)>,
    ) -> Result<(), ApiError> {
        let mut request = json!({ "claim_id": claim_id });
        if let Some((code, detail)) = failure {
            request["failure"] = json!({ "code": code, "detail": detail });
        }
        let path = format!("/api/queue/{run_id}/release");
        self.authorized(Method::POST, &path, Body::json(&request)?).map(drop)
    }

    /// Where a run stands.
    ///
    /// # Errors
    /// `run_not_found`.
    pub fn status(&self, run_id: Uuid) -> Result<RunStatus, ApiError> {
        let none = Body { bytes: Bytes::new(), gzip: false };
        body(&self.authorized(Method::GET, &format!("/api/queue/{run_id}"), none)?)
    }

    /// Sends with the token; when the service refuses the token, with a new one once more.
    fn authorized(&self, method: Method, path: &str, body: Body) -> Result<Response<Bytes>, ApiError> {
        let send = |bearer: HeaderValue| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, bearer);
            if body.gzip {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            self.client.send(method.clone(), path, headers, body.bytes.clone())
        };
        let bearer = self.bearer(None)?;
        match send(bearer.clone()) {
            Err(ApiError::Refused(problem)) if problem.status == 401 => send(self.bearer(Some(&bearer))?),
            answer => answer,
        }
    }

    /// The token: a new one if there is none, if it is about to end, or if `refused` is what we have.
    fn bearer(&self, refused: Option<&HeaderValue>) -> Result<HeaderValue, ApiError> {
        let mut session = self.session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let good = |token: &&Token| Some(&token.bearer) != refused && token.renew_at > Instant::now();
        if session.token.as_ref().filter(good).is_none() {
            self.register_in(&mut session)?;
        }
        let token = session.token.as_ref().ok_or_else(|| ApiError::Unexpected("no token".into()))?;
        Ok(token.bearer.clone())
    }
}

/// A request's body.
struct Body {
    bytes: Bytes,
    gzip: bool,
}

impl Body {
    fn json(value: &Value) -> Result<Self, ApiError> {
        Ok(Self { bytes: json_bytes(value)?, gzip: false })
    }
}

/// Sends requests to the API and turns problem documents into errors.
#[derive(Debug)]
pub struct Client {
    http: Http,
    base: String,
}

impl Client {
    /// Creates a client for the API at `base`, such as `https://queue.example.org`.
    ///
    /// # Errors
    /// When it is no `http` or `https` URL.
    pub fn new(base: &str) -> Result<Self, String> {
        let base = base.trim_end_matches('/');
        let uri: Uri = base.parse().map_err(|error| format!("{base:?} is not a URL: {error}"))?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(format!("{base:?} has a path; give the API's address without one"));
        }
        Ok(Self { http: Http::new(&uri)?, base: base.to_owned() })
    }

    /// The absolute URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> &HeaderValue {
        self.http.authority()
    }

    /// Sends a `POST`.
    ///
    /// # Errors
    /// Anything but a status of success.
    pub fn post(&self, path: &str, headers: HeaderMap, body: Bytes) -> Result<Response<Bytes>, ApiError> {
        self.send(Method::POST, path, headers, body)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, ApiError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| ApiError::Unexpected(format!("the path {path:?}")))?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.http.send(request).map_err(ApiError::Unreachable)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let retry_after = retry_after(&answer);
            return Err(ApiError::Unavailable { status: status.as_u16(), retry_after });
        }
        // API Gateway itself answers `{"message": …}`: then the status is all there is.
        let text = String::from_utf8_lossy(answer.body());
        let problem: Problem = serde_json::from_slice(answer.body()).unwrap_or_default();
        if problem.code.is_empty() {
            let code = format!("status {}", status.as_u16());
            let detail = text.chars().take(300).collect();
            return Err(ApiError::Refused(Problem { status: status.as_u16(), code, detail, ..problem }));
        }
        Err(ApiError::Refused(Problem { status: status.as_u16(), ..problem }))
    }
}

/// `Retry-After` in seconds; a date (RFC 9110, section 10.2.3), which the service never sends, is ignored.
fn retry_after(answer: &Response<Bytes>) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn body<T: DeserializeOwned>(answer: &Response<Bytes>) -> Result<T, ApiError> {
    serde_json::from_slice(answer.body()).map_err(|error| ApiError::Unexpected(error.to_string()))
}

fn json_bytes(value: &impl serde::Serialize) -> Result<Bytes, ApiError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| ApiError::Unexpected(error.to_string()))
}

fn header_value(text: String) -> Result<HeaderValue, ApiError> {
    text.try_into().map_err(|_| ApiError::Unexpected("a header that is not text".into()))
}

//! A request, as a handler sees it.

use crate::problem::Refusal;
use bakeoff_core::field_error::FieldError;
use flate2::read::MultiGzDecoder;
use lambda_http::aws_lambda_events::apigw::ApiGatewayRequestAuthorizerIamDescription;
use lambda_http::request::RequestContext;
use lambda_http::{Body, RequestExt};
use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::str::Utf8Error;
use std::sync::Arc;
use uuid::Uuid;

/// The most bytes of a body as received: Lambda's 6 MB an event, before base64.
pub const RECEIVED_MAX: usize = 4_500_000;
/// The most bytes of a body after inflation.
pub const INFLATED_MAX: usize = 32_000_000;

/// A request. Cheap to clone: it may be served a second time when a connection broke.
#[derive(Clone)]
pub struct Request {
    received: Arc<lambda_http::Request>,
    fresh_id: Uuid,
}

impl From<lambda_http::Request> for Request {
    fn from(request: lambda_http::Request) -> Self {
        Self { received: Arc::new(request), fresh_id: Uuid::new_v4() }
    }
}

impl fmt::Debug for Request {
    /// Its route: headers and body hold tokens, proofs and results.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Request({})", self.route())
    }
}

impl Request {
    /// A header, if it is there once and readable. Twice is as good as not at all: whoever stands
    /// before us may have looked at the other one.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.received.headers().get_all(name).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { value.to_str().ok() }
    }

    /// An id for what the request makes, where its sender chose none: the same when the request is served
    /// a second time, so that two tries never make two of it.
    pub fn fresh_id(&self) -> Uuid {
        self.fresh_id
    }

    /// The method.
    pub fn method(&self) -> &str {
        self.received.method().as_str()
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.received.uri().path()
    }

    /// A parameter of the route's path. What holds a NUL is none: Postgres has no such text.
    pub fn path_parameter(&self, name: &str) -> Option<String> {
        let parameter = self.received.path_parameters_ref()?.first(name)?;
        (!parameter.contains('\0')).then(|| parameter.to_owned())
    }

    /// A parameter of the query.
    pub fn query(&self, name: &str) -> Option<String> {
        self.received.query_string_parameters_ref().and_then(|query| query.first(name)).map(str::to_owned)
    }

    /// The query's `limit`, if it has one.
    pub fn limit(&self) -> Result<Option<i32>, Refusal> {
        let field_error = |_| vec![FieldError::new("/limit", "is not a whole number")];
        let limit = self.query("limit").map(|limit| limit.parse().map_err(field_error)).transpose();
        Ok(limit.map_err(bakeoff_core::Error::Invalid)?)
    }

    /// The run that the path names. What is no UUID names no run.
    pub fn run_id(&self) -> Result<Uuid, Refusal> {
        self.path_parameter("run_id")
            .and_then(|text| text.parse().ok())
            .ok_or(Refusal::Refused(bakeoff_core::Error::RunNotFound))
    }

    /// The route that the gateway matched, such as `POST /api/queue/claim`.
    pub fn route(&self) -> String {
        match self.received.request_context_ref() {
            Some(RequestContext::ApiGatewayV2(context)) => {
                context.route_key.clone().unwrap_or_else(|| self.method().to_owned())
            }
            _ => self.method().to_owned(),
        }
    }

    /// What the gateway's IAM authorizer says of the caller. A header cannot fake it: it is not in the
    /// part of the event that the client writes.
    pub(crate) fn iam(&self) -> Option<&ApiGatewayRequestAuthorizerIamDescription> {
        match self.received.request_context_ref()? {
            RequestContext::ApiGatewayV2(context) => context.authorizer.as_ref()?.iam.as_ref(),
            _ => None,
        }
    }

    /// The body as text, inflated if it came gzip-encoded.
    pub fn body(&self) -> Result<Cow<'_, str>, Refusal> {
        let received: &[u8] = match self.received.body() {
            Body::Text(text) => text.as_bytes(),
            Body::Binary(bytes) => bytes,
            _ => &[],
        };
        if received.len() > RECEIVED_MAX {
            return Err(Refusal::TooLarge { size: Some(received.len()), limit: RECEIVED_MAX });
        }
        let bytes = match self.header("content-encoding").map(str::trim) {
            None | Some("" | "identity") => {
                return Ok(Cow::Borrowed(str::from_utf8(received).map_err(no_text)?));
            }
            Some(encoding) if encoding.eq_ignore_ascii_case("gzip") => inflate(received)?,
            Some(_) => return Err(Refusal::EncodingUnsupported),
        };
        String::from_utf8(bytes).map(Cow::Owned).map_err(|error| no_text(error.utf8_error()))
    }
}

fn no_text(_: Utf8Error) -> Refusal {
    Refusal::Malformed("the body is not UTF-8".into())
}

/// Inflates at most one byte past the limit: a small body must not become a large one in memory.
fn inflate(received: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut inflated = Vec::with_capacity(received.len().saturating_mul(4).min(INFLATED_MAX));
    let limit = INFLATED_MAX as u64 + 1;
    // Every member of it (RFC 1952, section 2.2): whoever stands before us may have read them all.
    MultiGzDecoder::new(received)
        .take(limit)
        .read_to_end(&mut inflated)
        .map_err(|_| Refusal::Malformed("the body is not gzip, as its Content-Encoding says".into()))?;
    if inflated.len() > INFLATED_MAX {
        return Err(Refusal::TooLarge { size: None, limit: INFLATED_MAX });
    }
    Ok(inflated)
}

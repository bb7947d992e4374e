//! The HTTP request that a handler receives.

use crate::problem::Refusal;
use bakeoff_core::document::Object;
use bakeoff_core::field_error::FieldErrors;
use flate2::read::MultiGzDecoder;
use lambda_http::aws_lambda_events::apigw::ApiGatewayRequestAuthorizerIamDescription;
use lambda_http::request::RequestContext;
use lambda_http::{Body, RequestExt};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::str::Utf8Error;
use std::sync::Arc;
use uuid::Uuid;

/// Maximum bytes of a body as received: base64 of it fits into Lambda's 6 MB per event.
pub const RECEIVED_MAX: usize = 4_500_000;
/// Maximum bytes of a body after inflation.
pub const INFLATED_MAX: usize = 32_000_000;

/// An HTTP request. Cheap to clone, because it is served again if the database connection breaks.
#[derive(Clone)]
pub struct Request {
    received: Arc<lambda_http::Request>,
    generated_id: Uuid,
}

impl From<lambda_http::Request> for Request {
    fn from(request: lambda_http::Request) -> Self {
        Self { received: Arc::new(request), generated_id: Uuid::new_v4() }
    }
}

impl fmt::Debug for Request {
    /// Writes only the route, because headers and body contain tokens, proofs and results.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Request({})", self.route())
    }
}

impl Request {
    /// Returns the header's value if it occurs exactly once and is visible ASCII. A repeated header is
    /// ignored: a proxy may have acted on the other copy.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.received.headers().get_all(name).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { value.to_str().ok() }
    }

    /// Returns an id for the object that the request creates, if the sender chose none. It is the same when
    /// the request is served again, so that two attempts do not create two objects.
    pub fn generated_id(&self) -> Uuid {
        self.generated_id
    }

    /// Returns the HTTP method.
    pub fn method(&self) -> &str {
        self.received.method().as_str()
    }

    /// Returns the URL's path.
    pub fn path(&self) -> &str {
        self.received.uri().path()
    }

    /// Returns a parameter of the route's path, or `None` if it contains NUL, which Postgres text cannot.
    pub fn path_parameter(&self, name: &str) -> Option<String> {
        let parameter = self.received.path_parameters_ref()?.first(name)?;
        (!parameter.contains('\0')).then(|| parameter.to_owned())
    }

    /// Parses the query with one of the core's parsers, as if it were a JSON object of strings; `integers` are the
    /// parameters that are integers. Unknown parameters are refused like unknown fields of a body.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](bakeoff_core::Error::Invalid) with every invalid parameter.
    pub fn parse_query<T>(
        &self,
        integers: &[&str],
        read: impl FnOnce(Object, &mut FieldErrors) -> Option<T>,
    ) -> Result<T, Refusal> {
        let mut errors = FieldErrors::default();
        let mut members = Map::new();
        for (name, value) in self.received.query_string_parameters_ref().iter().flat_map(|query| query.iter())
        {
            let value = match value.parse::<i64>() {
                Ok(integer) if integers.contains(&name) => json!(integer),
                _ => json!(value),
            };
            if members.insert(name.to_owned(), value).is_some() {
                errors.push(format!("/{name}"), "occurs twice");
            }
        }
        let query = Value::Object(members).to_string();
        let parsed = Object::parse(&query, "", &mut errors).and_then(|object| read(object, &mut errors));
        Ok(errors.finish(parsed).map_err(bakeoff_core::Error::Invalid)?)
    }

    /// Returns the first query parameter with this name.
    pub fn query(&self, name: &str) -> Option<String> {
        self.received.query_string_parameters_ref().and_then(|query| query.first(name)).map(str::to_owned)
    }

    /// Returns the run id in the path. A path segment that is not a UUID is `run_not_found`.
    pub fn run_id(&self) -> Result<Uuid, Refusal> {
        self.path_parameter("run_id")
            .and_then(|text| text.parse().ok())
            .ok_or(Refusal::Operation(bakeoff_core::Error::RunNotFound))
    }

    /// Returns API Gateway's id of the request, which its access log names too.
    pub(crate) fn gateway_request_id(&self) -> Option<&str> {
        match self.received.request_context_ref()? {
            RequestContext::ApiGatewayV2(context) => context.request_id.as_deref(),
            _ => None,
        }
    }

    /// Returns the domain name under which the request reached the API, as API Gateway writes it into the event.
    pub(crate) fn domain_name(&self) -> Option<&str> {
        match self.received.request_context_ref()? {
            RequestContext::ApiGatewayV2(context) => context.domain_name.as_deref(),
            _ => None,
        }
    }

    /// Returns the route that API Gateway matched, such as `POST /api/queue/claim`.
    pub fn route(&self) -> String {
        match self.received.request_context_ref() {
            Some(RequestContext::ApiGatewayV2(context)) => {
                context.route_key.clone().unwrap_or_else(|| self.method().to_owned())
            }
            _ => self.method().to_owned(),
        }
    }

    /// Returns the caller's identity from API Gateway's IAM authorizer. A client cannot forge it, because it
    /// is in a part of the event that the client does not write.
    pub(crate) fn iam(&self) -> Option<&ApiGatewayRequestAuthorizerIamDescription> {
        match self.received.request_context_ref()? {
            RequestContext::ApiGatewayV2(context) => context.authorizer.as_ref()?.iam.as_ref(),
            _ => None,
        }
    }

    /// Returns the body as text, inflated if it is gzip-encoded.
    pub fn body(&self) -> Result<Cow<'_, str>, Refusal> {
        let body = self.received.body();
        let received: &[u8] = body;
        if received.len() > RECEIVED_MAX {
            return Err(Refusal::TooLarge { size: Some(received.len()), limit: RECEIVED_MAX });
        }
        let bytes = match self.header("content-encoding").map(str::trim) {
            None | Some("" | "identity") => {
                return Ok(Cow::Borrowed(match body {
                    Body::Text(text) => text,
                    _ => str::from_utf8(received).map_err(invalid_utf8)?,
                }));
            }
            Some(encoding) if encoding.eq_ignore_ascii_case("gzip") => inflate(received)?,
            Some(_) => return Err(Refusal::EncodingUnsupported),
        };
        String::from_utf8(bytes).map(Cow::Owned).map_err(|error| invalid_utf8(error.utf8_error()))
    }
}

fn invalid_utf8(_: Utf8Error) -> Refusal {
    Refusal::Malformed("the body is not UTF-8. Send JSON in UTF-8".into())
}

/// Inflates at most one byte more than the limit, so that a gzip bomb cannot fill the memory.
fn inflate(received: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut inflated = Vec::with_capacity(received.len().saturating_mul(4).min(INFLATED_MAX));
    let limit = INFLATED_MAX as u64 + 1;
    // Reads all gzip members (RFC 1952, section 2.2), because a proxy may have acted on all of them.
    MultiGzDecoder::new(received).take(limit).read_to_end(&mut inflated).map_err(|_| {
        Refusal::Malformed("the body is not valid gzip, which its Content-Encoding declares".into())
    })?;
    if inflated.len() > INFLATED_MAX {
        return Err(Refusal::TooLarge { size: None, limit: INFLATED_MAX });
    }
    Ok(inflated)
}

//! Functions that take two kinds of event: HTTP through API Gateway, and direct invocations by an admin
//! (`aws lambda invoke`), which IAM authorizes.

use crate::app::App;
use crate::problem::Refusal;
use crate::request::Request;
use crate::response::Reply;
use crate::serve::respond;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::lambda_runtime::LambdaEvent;
use lambda_http::request::LambdaRequest;
use lambda_http::{Body, Context, Error, RequestExt, Response};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// A direct invocation's payload is shorter, in bytes. A longer event is not read to find out what it is.
const DIRECT_MAX: usize = 100_000;

/// Whether the event comes from API Gateway.
///
/// # Errors
/// When the payload is not JSON.
pub fn is_http(event: &LambdaEvent<Box<RawValue>>) -> Result<bool, Error> {
    let payload = event.payload.get();
    if payload.len() > DIRECT_MAX {
        return Ok(true);
    }
    Ok(serde_json::from_str::<Value>(payload)?.get("requestContext").is_some())
}

/// Serves an HTTP event; returns the response of payload format 2.0, because `lambda_http` builds it only inside its
/// own runtime.
///
/// # Errors
/// When no reply can be built.
pub async fn serve_http<A, H, F>(
    app: A,
    handler: H,
    payload: ApiGatewayV2httpRequest,
    context: Context,
) -> Result<Value, Error>
where
    A: std::ops::Deref<Target = App> + Copy,
    H: Fn(A, Request) -> F,
    F: Future<Output = crate::Result>,
{
    let request = http_request(payload).with_lambda_context(context);
    as_gateway_response(respond(app, handler, request).await?)
}

/// Converts an event to a request. Moves a body of text, which `lambda_http` would copy.
fn http_request(mut payload: ApiGatewayV2httpRequest) -> lambda_http::Request {
    let text = if payload.is_base64_encoded { None } else { payload.body.take() };
    let mut request = lambda_http::Request::from(LambdaRequest::ApiGatewayV2(payload));
    if let Some(text) = text {
        *request.body_mut() = Body::Text(text);
    }
    request
}

/// Returns the outcome of a direct invocation: a refusal is returned as a problem document, and only a server error
/// (status 500 or above) fails the invocation.
///
/// # Errors
/// The problem document of a server error.
pub fn direct_outcome(outcome: crate::Result) -> Result<Value, Error> {
    let reply: Reply = outcome.unwrap_or_else(Refusal::into_reply);
    let body = match &reply.body {
        Body::Binary(bytes) => json!({ "content_base64": STANDARD.encode(bytes) }),
        body => serde_json::from_slice(body).unwrap_or_default(),
    };
    if reply.status() >= 500 { Err(body.to_string().into()) } else { Ok(body) }
}

fn as_gateway_response(response: Response<Body>) -> Result<Value, Error> {
    let headers: serde_json::Map<String, Value> = response
        .headers()
        .iter()
        .map(|(name, value)| Ok((name.to_string(), json!(value.to_str()?))))
        .collect::<Result<_, Error>>()?;
    let (body, is_base64) = match response.body() {
        Body::Binary(bytes) => (STANDARD.encode(bytes), true),
        body => (str::from_utf8(body)?.to_owned(), false),
    };
    Ok(json!({
        "statusCode": response.status().as_u16(),
        "headers": headers,
        "body": body,
        "isBase64Encoded": is_base64,
    }))
}

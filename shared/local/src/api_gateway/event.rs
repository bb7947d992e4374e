//! Conversion between HTTP and API Gateway's payload format 2.0: requests to events, and function results to
//! responses.
//!
//! Follows “Working with AWS Lambda proxy integrations for HTTP APIs” in the API Gateway Developer Guide.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use crate::api_gateway::route::RouteMatch;

/// The AWS account id in events and ARNs.
pub(crate) const ACCOUNT_ID: &str = "000000000000";
/// The IAM user of the local key pair.
const IAM_USER_ARN: &str = "arn:aws:iam::000000000000:user/local";
const IAM_USER_ID: &str = "AIDALOCAL";

/// A received request with its complete body.
#[derive(Debug)]
pub struct ReceivedRequest<'a> {
    /// Method, path and headers.
    pub parts: &'a http::request::Parts,
    /// The body as sent, possibly compressed.
    pub body: &'a [u8],
    /// The client's address.
    pub peer: SocketAddr,
    /// The time of receipt.
    pub at: OffsetDateTime,
    /// API Gateway's id of the request.
    pub request_id: Uuid,
}

/// Builds the event for a request on a route. `access_key` is the IAM caller's, if the route requires IAM.
pub fn http_event(received: &ReceivedRequest, route_match: &RouteMatch, access_key: Option<&str>) -> Value {
    let parts = received.parts;
    let (body, is_base64) = body_field(&parts.headers, received.body);
    let mut event = json!({
        "version": "2.0",
        "routeKey": route_match.route.key(),
        "rawPath": parts.uri.path(),
        "rawQueryString": parts.uri.query().unwrap_or_default(),
        "headers": headers_field(&parts.headers),
        "requestContext": request_context(received, route_match, access_key),
        "isBase64Encoded": is_base64,
    });
    // API Gateway omits empty fields.
    let optional = [
        ("cookies", cookies_field(&parts.headers)),
        ("queryStringParameters", query_field(parts.uri.query().unwrap_or_default())),
        (
            "pathParameters",
            object(route_match.parameters.iter().map(|(name, value)| (*name, value.as_str()))),
        ),
        ("body", body),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            event[name] = value;
        }
    }
    event
}

fn request_context(received: &ReceivedRequest, route_match: &RouteMatch, access_key: Option<&str>) -> Value {
    let parts = received.parts;
    let host = header_text(&parts.headers, header::HOST).unwrap_or("localhost");
    let domain = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    let time = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
    let mut context = json!({
        "accountId": ACCOUNT_ID,
        "apiId": "local",
        "domainName": domain,
        "domainPrefix": domain.split('.').next(),
        "http": {
            "method": parts.method.as_str(),
            "path": parts.uri.path(),
            "protocol": format!("{:?}", parts.version),
            "sourceIp": received.peer.ip().to_string(),
            "userAgent": header_text(&parts.headers, header::USER_AGENT).unwrap_or_default(),
        },
        "requestId": received.request_id.to_string(),
        "routeKey": route_match.route.key(),
        "stage": "$default",
        "time": received.at.format(time).unwrap_or_default(),
        "timeEpoch": epoch_ms(received.at),
    });
    if let Some(access_key) = access_key {
        context["authorizer"] = json!({"iam": {
            "accessKey": access_key,
            "accountId": ACCOUNT_ID,
            "callerId": IAM_USER_ID,
            "cognitoIdentity": null,
            "principalOrgId": null,
            "userArn": IAM_USER_ARN,
            "userId": IAM_USER_ID,
        }});
    }
    context
}

/// Builds the event that EventBridge sends on a schedule.
pub fn scheduled_event(rule: &str, at: OffsetDateTime) -> Value {
    let time = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    json!({
        "version": "0",
        "id": Uuid::new_v4(),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT_ID,
        "time": at.format(time).unwrap_or_default(),
        "region": "us-east-1",
        "resources": [format!("arn:aws:events:us-east-1:{ACCOUNT_ID}:rule/{rule}")],
        "detail": {},
    })
}

fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

pub(crate) fn epoch_ms(at: OffsetDateTime) -> i128 {
    at.unix_timestamp_nanos() / 1_000_000
}

/// Builds the `headers` field: names in lower case, repeated headers joined by commas, without cookies, which
/// have a field of their own.
fn headers_field(headers: &HeaderMap) -> Value {
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| *name != header::COOKIE) {
        let value = String::from_utf8_lossy(value.as_bytes());
        fields.entry(name.as_str()).and_modify(|all| *all += &format!(",{value}")).or_insert(value.into());
    }
    json!(fields)
}

fn cookies_field(headers: &HeaderMap) -> Option<Value> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies: Vec<&str> = lines.flat_map(|line| line.split(';')).map(str::trim).collect();
    (!cookies.is_empty()).then(|| json!(cookies))
}

/// Builds the `queryStringParameters` field: percent-decoded, repeated names joined by commas.
fn query_field(query: &str) -> Option<Value> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value);
        fields.entry(decode(name)).and_modify(|all| *all += &format!(",{value}")).or_insert(value);
    }
    (!fields.is_empty()).then(|| json!(fields))
}

fn object<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Value> {
    let fields: Map<String, Value> = fields.map(|(name, value)| (name.to_owned(), json!(value))).collect();
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// Builds the `body` field: uncompressed text unchanged, every other body in base64.
fn body_field(headers: &HeaderMap, body: &[u8]) -> (Option<Value>, bool) {
    if body.is_empty() {
        return (None, false);
    }
    let plain = !headers.contains_key(header::CONTENT_ENCODING) && is_textual(headers);
    match std::str::from_utf8(body) {
        Ok(text) if plain => (Some(json!(text)), false),
        _ => (Some(json!(STANDARD.encode(body))), true),
    }
}

fn is_textual(headers: &HeaderMap) -> bool {
    let Some(kind) = header_text(headers, header::CONTENT_TYPE) else {
        return true;
    };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let textual = ["application/json", "application/xml", "application/javascript"];
    kind.starts_with("text/")
        || textual.contains(&kind.as_str())
        || kind == "application/x-www-form-urlencoded"
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
}

/// A function's result in payload format 2.0.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FunctionResponse {
    status_code: u16,
    #[serde(default)]
    headers: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    multi_value_headers: Option<BTreeMap<String, Vec<String>>>,
    #[serde(default)]
    cookies: Option<Vec<String>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

/// Converts a function's result to a response. A result without a `statusCode` becomes a 200 with the
/// returned JSON, as payload format 2.0 specifies. Returns `None` for an invalid result, which API Gateway
/// reports as an internal server error.
pub fn http_response(returned: &[u8]) -> Option<Response<Bytes>> {
    let value: Value = serde_json::from_slice(returned).ok()?;
    if value.get("statusCode").is_none() {
        return Some(json_response(StatusCode::OK, Bytes::copy_from_slice(returned)));
    }
    let response_fields: FunctionResponse = serde_json::from_value(value).ok()?;
    let body = match response_fields.body {
        Some(text) if response_fields.is_base64_encoded => STANDARD.decode(text).ok()?.into(),
        Some(text) => Bytes::from(text),
        None => Bytes::new(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(response_fields.status_code).ok()?;
    let headers = response.headers_mut();
    for (name, value) in response_fields.headers.unwrap_or_default() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        headers.insert(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    for (name, values) in response_fields.multi_value_headers.unwrap_or_default() {
        let name = HeaderName::try_from(name).ok()?;
        // `lambda_http` writes each header into both fields.
        headers.remove(&name);
        for value in values {
            headers.append(&name, HeaderValue::try_from(value).ok()?);
        }
    }
    for cookie in response_fields.cookies.unwrap_or_default() {
        headers.append(header::SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
    }
    // The gateway computes the length from the body.
    headers.remove(header::CONTENT_LENGTH);
    Some(response)
}

/// Builds API Gateway's own error response: `{"message": …}`.
pub(crate) fn gateway_message(status: StatusCode, message: &str) -> Response<Bytes> {
    json_response(status, json!({ "message": message }).to_string().into())
}

fn json_response(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

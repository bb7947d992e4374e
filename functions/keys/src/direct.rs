//! Event dispatch of the `keys` function: HTTP events from API Gateway, and direct invocations by an admin,
//! which IAM has authorized.

use crate::{Command, answer, execute};
use bakeoff_core::document::Object;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::runners::runner::Admin;
use bakeoff_lambda::serve::{respond, start, time_left, with_retry};
use bakeoff_lambda::{App, Refusal};
use lambda_http::{RequestExt, Response};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The audit log's principal for direct invocations, followed by the request id. Lambda does not pass the
/// caller's identity to the function; CloudTrail records it under the same request id.
const DIRECT: &str = "direct invocation";

/// Serves both kinds of event until the execution environment ends.
pub(crate) async fn serve() -> Result<(), Error> {
    let app = start()?;
    lambda_runtime::run(service_fn(
        |event: LambdaEvent<Box<RawValue>>| async move { dispatch(app, event).await },
    ))
    .await
}

pub(crate) async fn dispatch(app: &App, event: LambdaEvent<Box<RawValue>>) -> Result<Value, Error> {
    let payload = event.payload.get();
    let is_http = serde_json::from_str::<Value>(payload)?.get("requestContext").is_some();
    if is_http {
        let request = lambda_http::request::from_str(payload)?.with_lambda_context(event.context);
        return as_gateway_response(respond(app, answer, request).await?);
    }
    let request_id = &event.context.request_id;
    let admin = Admin::from_iam_principal(format!("{DIRECT} {request_id}"));
    let outcome = match parse(payload) {
        Ok(command) => with_retry(app, time_left(&event.context), || execute(app, &admin, &command)).await,
        Err(errors) => Err(Refusal::Operation(errors.into())),
    };
    let reply = outcome.unwrap_or_else(Refusal::into_reply);
    let body: Value = reply.body().map(serde_json::from_str).transpose()?.unwrap_or_default();
    // A refusal is returned as a problem document. Only a server error (status 500 or above) fails the
    // invocation.
    if reply.status() >= 500 { Err(body.to_string().into()) } else { Ok(body) }
}

/// Builds the response of payload format 2.0, because `lambda_http` builds it only inside its own runtime.
fn as_gateway_response(response: Response<lambda_http::Body>) -> Result<Value, Error> {
    let headers: serde_json::Map<String, Value> = response
        .headers()
        .iter()
        .map(|(name, value)| Ok((name.to_string(), json!(value.to_str()?))))
        .collect::<Result<_, Error>>()?;
    let body = std::str::from_utf8(response.body())?;
    Ok(json!({
        "statusCode": response.status().as_u16(),
        "headers": headers,
        "body": body,
        "isBase64Encoded": false,
    }))
}

fn parse(payload: &str) -> Result<Command, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    let command = Object::parse(payload, "", &mut errors).and_then(|mut object| {
        let command = if let Some(mut list) = object.object("list", &mut errors) {
            let cursor = list.text("cursor", 1..=200, &mut errors);
            let limit = list.integer("limit", 1..=i32::MAX, &mut errors);
            list.finish(&mut errors);
            Some(Command::List { cursor, limit })
        } else if let Some(mut revoke) = object.object("revoke", &mut errors) {
            let key_id = revoke.required_text("key_id", 1..=200, &mut errors);
            let reason = revoke.text("reason", 0..=1000, &mut errors);
            revoke.finish(&mut errors);
            key_id.map(|key_id| Command::Revoke { key_id, reason })
        } else if let Some(entry) = object.raw("add") {
            Command::parse_add(entry.get())
                .map_err(|add_errors| errors.extend_with_prefix("/add", add_errors))
                .ok()
        } else {
            errors.push("", "must have exactly one of `list`, `add` and `revoke`");
            None
        };
        object.finish(&mut errors);
        command
    });
    errors.finish(command)
}

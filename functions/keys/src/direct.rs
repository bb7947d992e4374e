//! Event dispatch of the `keys` function: HTTP events from API Gateway, and direct invocations by an admin,
//! which IAM has authorized.

use crate::{Command, answer, execute};
use bakeoff_core::audit_chain::Head;
use bakeoff_core::document::Object;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::runners::runner::Admin;
use bakeoff_lambda::direct::{direct_outcome, is_http, serve_http};
use bakeoff_lambda::serve::{start, time_left, with_retry};
use bakeoff_lambda::{App, Refusal};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use serde_json::value::RawValue;

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
    if is_http(&event)? {
        return serve_http(app, answer, event).await;
    }
    let request_id = &event.context.request_id;
    let admin = Admin::from_iam_principal(format!("{DIRECT} {request_id}"));
    let outcome = match parse(event.payload.get()) {
        Ok(command) => with_retry(app, time_left(&event.context), || execute(app, &admin, &command)).await,
        Err(errors) => Err(Refusal::Operation(errors.into())),
    };
    direct_outcome(outcome)
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
        } else if let Some(mut verify) = object.object("verify_audit", &mut errors) {
            let position: Option<i64> = verify.value("position", "an integer", &mut errors);
            let sha256 = verify.text("sha256", 64..=64, &mut errors);
            if position.is_some() != sha256.is_some() {
                errors.push("/verify_audit", "must have both of `position` and `sha256`, or neither");
            }
            verify.finish(&mut errors);
            let head = position.zip(sha256).map(|(position, sha256)| Head { position, sha256 });
            Some(Command::VerifyAudit(head))
        } else if let Some(entry) = object.raw("add") {
            Command::parse_add(entry.get())
                .map_err(|add_errors| errors.extend_with_prefix("/add", add_errors))
                .ok()
        } else {
            errors.push("", "must have exactly one of `list`, `add`, `revoke` and `verify_audit`");
            None
        };
        object.finish(&mut errors);
        command
    });
    errors.finish(command)
}

//! Functions for admins. Each serves its commands in two ways: over HTTP, where API Gateway's IAM authorizer names
//! the admin, and by direct invocation (`aws lambda invoke`), which IAM has authorized.

use crate::app::App;
use crate::direct::{direct_outcome, is_http, serve_http};
use crate::problem::Refusal;
use crate::request::Request;
use crate::serve::{start, time_left, with_retry};
use bakeoff_core::document::Object;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::runners::runner::Admin;
use lambda_http::Error;
use lambda_http::lambda_runtime::{self, LambdaEvent, service_fn};
use serde_json::Value;
use serde_json::value::RawValue;

/// The audit log's principal for direct invocations, followed by the request id. Lambda does not pass the
/// caller's identity to the function; CloudTrail records it under the same request id.
const DIRECT: &str = "direct invocation";

/// What an admin can ask of a function.
pub trait Command: Sized + Send + Sync {
    /// Reads the command from an HTTP request, by its route.
    fn from_request(request: &Request) -> crate::Result<Self>;

    /// Reads the command from the payload of a direct invocation; every invalid field is listed.
    fn from_payload(payload: &str) -> Result<Self, Vec<FieldError>>;

    /// Executes the command.
    fn execute(&self, app: &App, admin: &Admin) -> impl Future<Output = crate::Result> + Send;
}

/// Serves both kinds of event until the execution environment ends.
pub async fn serve<C: Command>() -> Result<(), Error> {
    let app = start()?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Box<RawValue>>| async move {
        dispatch::<C>(app, event).await
    }))
    .await
}

/// Answers an HTTP request.
pub async fn answer<C: Command>(app: &App, request: Request) -> crate::Result {
    let admin = app.admin(&request)?;
    Ok(C::from_request(&request)?.execute(app, &admin).await?.caller(admin.principal()))
}

/// Serves one event.
pub async fn dispatch<C: Command>(app: &App, event: LambdaEvent<Box<RawValue>>) -> Result<Value, Error> {
    if is_http(&event)? {
        // `lambda_http::request::from_str` copies the event first, to try several kinds of it.
        let payload = serde_json::from_str(event.payload.get())?;
        return serve_http(app, answer::<C>, payload, event.context).await;
    }
    let admin = Admin::from_iam_principal(format!("{DIRECT} {}", event.context.request_id));
    let outcome = match C::from_payload(event.payload.get()) {
        Ok(command) => with_retry(app, time_left(&event.context), || command.execute(app, &admin)).await,
        Err(errors) => Err(Refusal::Operation(errors.into())),
    };
    direct_outcome(outcome)
}

/// Reads a payload of the form `{"NAME": …}`, with one of `names`, as the command that `read` makes of it. `read`
/// gets the name, its JSON Pointer and its value.
pub fn parse_payload<C>(
    payload: &str,
    names: &[&'static str],
    read: impl FnOnce(&'static str, &str, &RawValue, &mut FieldErrors) -> Option<C>,
) -> Result<C, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    let command = Object::parse(payload, "", &mut errors).and_then(|mut object| {
        let name = names.iter().copied().find(|name| object.has(name));
        let value = name.and_then(|name| object.raw(name));
        let command = match name.zip(value) {
            Some((name, value)) => read(name, &format!("/{name}"), value, &mut errors),
            None => {
                errors.push("", format!("must have exactly one of {}", quoted(names)));
                None
            }
        };
        object.finish(&mut errors);
        command
    });
    errors.finish(command)
}

/// Lists names as in "`list`, `add` and `revoke`".
fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

//! The queue at one moment, for admins.
//!
//! `GET /api/admin/queue`: `200` depth by requirement, live claims, unsatisfiable jobs, runners
//!
//! Requires IAM: without API Gateway's IAM context it returns `403 not_an_admin`. A direct invocation
//! (`aws lambda invoke`), which IAM authorizes too, has the payload `{"overview": {}}` and returns the route's body.

#[cfg(test)]
mod tests;

use bakeoff_core::document::Object;
use bakeoff_core::field_error::FieldError;
use bakeoff_core::queue::overview::overview;
use bakeoff_core::runners::runner::Admin;
use bakeoff_lambda::admin::{Command, parse_payload, serve};
use bakeoff_lambda::{App, Refusal, Reply, Request, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve::<Overview>().await
}

/// An admin's request.
struct Overview;

impl Command for Overview {
    fn from_request(request: &Request) -> Result<Self> {
        match request.route().as_str() {
            "GET /api/admin/queue" => Ok(Self),
            _ => Err(Refusal::NoSuchRoute),
        }
    }

    fn from_payload(payload: &str) -> std::result::Result<Self, Vec<FieldError>> {
        parse_payload(payload, &["overview"], |_, pointer, value, errors| {
            Object::parse(value.get(), pointer, errors)?.finish(errors);
            Some(Self)
        })
    }

    async fn execute(&self, app: &App, _: &Admin) -> Result {
        Reply::json(200, &overview(&*app.database().await?).await?)
    }
}

//! The audit trail, for admins: who allowed, revoked, enqueued, cancelled or changed what, and when.
//!
//! `GET /api/admin/audit?subject=&action=&actor=&cursor=&limit=`: `200` a page of entries, newest first
//!
//! Requires IAM: without API Gateway's IAM context it returns `403 not_an_admin`. A direct invocation
//! (`aws lambda invoke`), which IAM authorizes too, has the payload `{"list": {…}}` and returns the route's body.

#[cfg(test)]
mod tests;

use bakeoff_core::audit_trail::{self, Filter, list};
use bakeoff_core::document::Object;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::runners::runner::Admin;
use bakeoff_lambda::admin::{Command, parse_payload, serve};
use bakeoff_lambda::{App, Refusal, Reply, Request, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve::<List>().await
}

/// An admin's request.
struct List {
    filter: Filter,
    cursor: Option<String>,
    limit: Option<i32>,
}

impl List {
    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let filter = Filter {
            subject: object.text("subject", 1..=200, errors),
            action: object.text("action", 1..=64, errors),
            actor: object.text("actor", 1..=2048, errors),
        };
        let cursor = object.text("cursor", 1..=200, errors);
        let limit = object.integer("limit", 1..=i32::MAX, errors);
        object.finish(errors);
        Some(Self { filter, cursor, limit })
    }
}

impl Command for List {
    fn from_request(request: &Request) -> Result<Self> {
        match request.route().as_str() {
            "GET /api/admin/audit" => request.parse_query(&["limit"], Self::read),
            _ => Err(Refusal::NoSuchRoute),
        }
    }

    fn from_payload(payload: &str) -> std::result::Result<Self, Vec<FieldError>> {
        parse_payload(payload, &["list"], |_, pointer, value, errors| {
            Self::read(Object::parse(value.get(), pointer, errors)?, errors)
        })
    }

    async fn execute(&self, app: &App, _: &Admin) -> Result {
        let client = app.database().await?;
        let limit = self.limit.unwrap_or(audit_trail::PAGE_MAX);
        Reply::json(200, &list(&client, &self.filter, self.cursor.as_deref(), limit).await?)
    }
}

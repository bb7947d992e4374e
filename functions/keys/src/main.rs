//! The allowlist for admins: list, add and revoke entries.
//!
//! `GET /api/admin/keys?cursor=&limit=`: `200` a page of entries
//! `POST /api/admin/keys`: `201` the entry, `200` if it was already active · `409 key_exists` · `422`
//!   with `{"signer_policy": "<YAML>"}`: `200` the entries of the results repository's signer policy
//! `DELETE /api/admin/keys/{key_id}`: `200` · `404 key_not_found`
//!
//! All routes require IAM: without API Gateway's IAM context they return `403 not_an_admin`. A direct
//! invocation (`aws lambda invoke`), which IAM authorizes too, has the payload `{"list": {…}}`,
//! `{"add": {…}}` or `{"revoke": {"key_id", "reason"?}}` and returns the body of the corresponding route.

mod signer_policy;
#[cfg(test)]
mod tests;

use bakeoff_core::document::Object;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::runners::allowlist::{self, NewEntry, add, list};
use bakeoff_core::runners::revoke::{parse_reason, revoke};
use bakeoff_core::runners::runner::Admin;
use bakeoff_lambda::admin::{Command, parse_payload, serve};
use bakeoff_lambda::app::parse_body;
use bakeoff_lambda::{App, Refusal, Reply, Request, Result};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve::<KeysCommand>().await
}

/// An admin's request.
enum KeysCommand {
    List { cursor: Option<String>, limit: Option<i32> },
    Add(Box<NewEntry>),
    Import(Vec<NewEntry>),
    Revoke { key_id: String, reason: Option<String> },
}

impl KeysCommand {
    /// Parses the body of an addition: an entry, or a signer policy.
    fn parse_add(body: &str) -> std::result::Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let policy = Object::parse(body, "", &mut FieldErrors::default())
            .filter(|object| object.has("signer_policy"))
            .and_then(|mut object| {
                let policy: Option<String> = object.value("signer_policy", "a string", &mut errors);
                object.finish(&mut errors);
                policy
            });
        let Some(policy) = policy else {
            // Errors mean that `signer_policy` itself is invalid; otherwise the body is an entry.
            return if errors.is_empty() {
                NewEntry::parse(body).map(|entry| Self::Add(Box::new(entry)))
            } else {
                Err(errors.into_vec())
            };
        };
        match signer_policy::parse(&policy) {
            Ok(entries) => return errors.finish(Some(Self::Import(entries))),
            Err(policy_errors) => errors.extend_with_prefix("/signer_policy", policy_errors),
        }
        Err(errors.into_vec())
    }

    fn read_list(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let cursor = object.text("cursor", 1..=200, errors);
        let limit = object.integer("limit", 1..=i32::MAX, errors);
        object.finish(errors);
        Some(Self::List { cursor, limit })
    }

    fn read_revoke(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let key_id = object.required_text("key_id", 1..=200, errors);
        let reason = object.text("reason", 0..=1000, errors);
        object.finish(errors);
        Some(Self::Revoke { key_id: key_id?, reason })
    }
}

impl Command for KeysCommand {
    fn from_request(request: &Request) -> Result<Self> {
        match request.route().as_str() {
            "GET /api/admin/keys" => request.parse_query(&["limit"], Self::read_list),
            "POST /api/admin/keys" => parse_body(&request.body()?, Self::parse_add),
            "DELETE /api/admin/keys/{key_id}" => Ok(Self::Revoke {
                key_id: request.path_parameter("key_id").unwrap_or_default(),
                reason: parse_body(&request.body()?, parse_reason)?,
            }),
            _ => Err(Refusal::NoSuchRoute),
        }
    }

    fn from_payload(payload: &str) -> std::result::Result<Self, Vec<FieldError>> {
        parse_payload(payload, &["list", "add", "revoke"], |name, pointer, value, errors| match name {
            "add" => Self::parse_add(value.get())
                .map_err(|add_errors| errors.extend_with_prefix(pointer, add_errors))
                .ok(),
            "list" => Self::read_list(Object::parse(value.get(), pointer, errors)?, errors),
            _ => Self::read_revoke(Object::parse(value.get(), pointer, errors)?, errors),
        })
    }

    async fn execute(&self, app: &App, admin: &Admin) -> Result {
        let client = app.database().await?;
        match self {
            Self::List { cursor, limit } => Reply::json(
                200,
                &list(&client, cursor.as_deref(), limit.unwrap_or(allowlist::PAGE_MAX)).await?,
            ),
            Self::Add(entry) => {
                let added = add(&client, admin, entry).await?;
                Reply::json(if added.created { 201 } else { 200 }, &added.entry)
            }
            Self::Import(entries) => {
                let mut keys = Vec::new();
                for entry in entries {
                    keys.push(add(&client, admin, entry).await?.entry);
                }
                Reply::json(200, &json!({ "keys": keys }))
            }
            Self::Revoke { key_id, reason } => {
                Reply::json(200, &revoke(&client, admin, key_id, reason.as_deref()).await?)
            }
        }
    }
}

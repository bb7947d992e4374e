//! Revoking a key: requests with it are refused at once, and its live claims return to the queue.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::runners::runner::Admin;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// A revoked key.
#[derive(Clone, Debug, Serialize)]
pub struct Revoked {
    /// The key.
    pub key_id: String,
    /// When it was revoked: now, or at an earlier revocation.
    #[serde(with = "time::serde::rfc3339")]
    pub revoked_at: OffsetDateTime,
    /// Number of live claims returned to the queue.
    pub claims_returned: i64,
}

/// Parses the optional body `{"reason": …}` of an admin's request.
pub fn parse_reason(body: &str) -> Result<Option<String>, Vec<FieldError>> {
    if body.trim().is_empty() {
        return Ok(None);
    }
    let mut errors = FieldErrors::default();
    let reason = Object::parse(body, "", &mut errors).map(|mut object| {
        let reason = object.text("reason", 0..=1000, &mut errors);
        object.finish(&mut errors);
        reason
    });
    errors.finish(reason)
}

/// Revokes a key or an identity. Revoking it again changes nothing.
///
/// # Errors
///
/// [`Error::KeyNotFound`].
pub async fn revoke(
    client: &Client,
    admin: &Admin,
    key_id: &str,
    reason: Option<&str>,
) -> Result<Revoked, Error> {
    let row = client
        .query_typed_one(
            "SELECT * FROM queue_revoke($1, $2, $3)",
            &[(&key_id, Type::TEXT), (&admin.principal(), Type::TEXT), (&reason, Type::TEXT)],
        )
        .await?;
    let revoked_at: Option<OffsetDateTime> = row.get("revoked_at");
    Ok(Revoked {
        key_id: key_id.to_owned(),
        revoked_at: revoked_at.ok_or(Error::KeyNotFound)?,
        claims_returned: row.get("claims_returned"),
    })
}

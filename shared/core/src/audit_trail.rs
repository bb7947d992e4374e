//! Reading the audit log: who allowed, revoked, enqueued, cancelled or changed what, and when.

use crate::error::Error;
use crate::field_error::FieldError;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, Type};
use tokio_postgres::{Client, Row};

const LIST: &str = include_str!("audit_trail.sql");
/// The most entries of one page.
pub const PAGE_MAX: i32 = 200;

/// An entry of the audit log.
#[derive(Clone, Debug, Serialize)]
pub struct AuditEntry {
    /// Grows with time.
    pub audit_id: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// An IAM principal's ARN, or a runner_id.
    pub actor: String,
    /// What was done, such as `key.revoke`.
    pub action: String,
    /// To which run or key.
    pub subject: Option<String>,
    /// The rest, such as the reason.
    pub detail: Value,
}

/// A page of the audit log, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

/// Which entries to list; all conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The run or the key that they are about.
    pub subject: Option<String>,
    /// What was done.
    pub action: Option<String>,
    /// Who did it.
    pub actor: Option<String>,
}

/// Lists entries: at most `limit` (1 to [`PAGE_MAX`]) from `cursor` on.
///
/// # Errors
/// [`Error::Invalid`] for a cursor that is not of this list.
pub async fn list(client: &Client, filter: &Filter, cursor: Option<&str>, limit: i32) -> Result<Page, Error> {
    let before: Option<i64> = cursor
        .map(|cursor| {
            cursor.parse().map_err(|_| vec![FieldError::new("/cursor", "is not a cursor of this list")])
        })
        .transpose()?;
    let limit = limit.clamp(1, PAGE_MAX);
    let rows = client
        .query_typed(
            LIST,
            &[
                (&before, Type::INT8),
                (&filter.subject, Type::TEXT),
                (&filter.action, Type::TEXT),
                (&filter.actor, Type::TEXT),
                (&i64::from(limit + 1), Type::INT8),
            ],
        )
        .await?;
    let whole = usize::try_from(limit).unwrap_or_default();
    let next_cursor = (rows.len() > whole).then(|| rows[whole - 1].get::<_, i64>("audit_id").to_string());
    let entries = rows.iter().take(whole).map(AuditEntry::from_row).collect::<Result<_, _>>()?;
    Ok(Page { entries, next_cursor })
}

impl AuditEntry {
    fn from_row(row: &Row) -> Result<Self, Error> {
        let Json(detail) = row.try_get("detail")?;
        Ok(Self {
            audit_id: row.try_get("audit_id")?,
            at: row.try_get("at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            subject: row.try_get("subject")?,
            detail,
        })
    }
}

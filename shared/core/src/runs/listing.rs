//! Listing the queue's rows, for admins.

use crate::error::Error;
use crate::field_error::FieldError;
use serde::Serialize;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::types::{Json, Timestamp, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

const LIST: &str = include_str!("listing.sql");
/// Maximum number of rows on one page.
pub const PAGE_MAX: i32 = 200;
const INVALID_CURSOR: &str = "not a cursor of this list; use the `next_cursor` of the previous page";
/// The possible statuses of a row.
pub const STATUSES: [&str; 6] = ["PENDING", "CLAIMED", "IN_PROGRESS", "COMPLETE", "FAILED", "CANCELLED"];

/// A row of the queue.
#[derive(Clone, Debug, Serialize)]
pub struct QueueRow {
    /// The row.
    pub queue_id: Uuid,
    /// The row's run.
    pub run_id: Uuid,
    /// The row's first prompt.
    pub prompt_id: i32,
    /// One of [`STATUSES`].
    pub status: String,
    /// Lower is claimed first.
    pub priority: i32,
    /// Number of failed attempts.
    pub attempt_count: i32,
    /// Number of times a failed attempt is retried.
    pub max_attempts: i32,
    /// GPU memory required of a runner, in GB.
    pub required_vram_gb: i32,
    /// Quantizations required of a runner.
    pub quantizations: Vec<String>,
    /// Labels a runner must have.
    pub labels: BTreeMap<String, String>,
    /// The runner that holds the row or completed it.
    pub claimed_by: Option<String>,
    /// When the runner claimed it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub claimed_at: Option<OffsetDateTime>,
    /// When the claim's lease expires.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_expires_at: Option<OffsetDateTime>,
    /// When the row becomes claimable again after a failed attempt; null if it is not deferred.
    #[serde(with = "time::serde::rfc3339::option")]
    pub retry_after: Option<OffsetDateTime>,
    /// When the row ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub completed_at: Option<OffsetDateTime>,
    /// Why the last attempt failed.
    pub error_detail: Option<String>,
    /// When the row was enqueued.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Publisher of the run.
    pub publisher_id: String,
    /// Ids of the job's models, as config and records use them.
    pub models: Vec<String>,
}

/// Conditions that all listed rows meet.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// One of [`STATUSES`].
    pub status: Option<String>,
    /// A model of the job: its id in config and records, or its `model_id`.
    pub model: Option<String>,
    /// A runner that holds, completed or once claimed the row.
    pub runner_id: Option<String>,
    /// Publisher of the run.
    pub publisher_id: Option<String>,
    /// Enqueued less than this many seconds ago.
    pub newer_than_s: Option<i64>,
    /// Enqueued more than this many seconds ago.
    pub older_than_s: Option<i64>,
}

/// A page of the queue, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// The rows.
    pub rows: Vec<QueueRow>,
    /// Cursor of the next page; null on the last page.
    pub next_cursor: Option<String>,
}

/// Lists up to `limit` rows (clamped to 1..=[`PAGE_MAX`]) after `cursor` that meet `filter`.
///
/// # Errors
///
/// [`Error::Invalid`] if `filter.status` is none of [`STATUSES`], or `cursor` is not a cursor of this list.
pub async fn list(client: &Client, filter: &Filter, cursor: Option<&str>, limit: i32) -> Result<Page, Error> {
    let status = filter.status.as_deref();
    if status.is_some_and(|status| !STATUSES.contains(&status)) {
        let detail = format!("must be one of {}", STATUSES.join(", "));
        return Err(Error::Invalid(vec![FieldError::new("/status", detail)]));
    }
    let position = cursor
        .map(|cursor| {
            let (time, id) = cursor.split_once('~')?;
            Some((OffsetDateTime::parse(time, &Rfc3339).ok()?, id.parse::<Uuid>().ok()?))
        })
        .map(|position| position.ok_or_else(|| vec![FieldError::new("/cursor", INVALID_CURSOR)]))
        .transpose()?;
    let statuses = status.as_ref().map_or(STATUSES.as_slice(), std::slice::from_ref);
    let (created_before, id_before) = match position {
        Some((time, id)) => (Timestamp::Value(time), id),
        None => (Timestamp::PosInfinity, Uuid::max()),
    };
    let limit = limit.clamp(1, PAGE_MAX);
    let rows = client
        .query_typed(
            LIST,
            &[
                (&statuses, Type::TEXT_ARRAY),
                (&created_before, Type::TIMESTAMPTZ),
                (&id_before, Type::UUID),
                (&i64::from(limit + 1), Type::INT8),
                (&filter.model, Type::TEXT),
                (&filter.runner_id, Type::TEXT),
                (&filter.publisher_id, Type::TEXT),
                (&filter.newer_than_s, Type::INT8),
                (&filter.older_than_s, Type::INT8),
            ],
        )
        .await?;
    let page_size = usize::try_from(limit).unwrap_or_default();
    let mut next_cursor = None;
    if rows.len() > page_size {
        let last = QueueRow::from_row(&rows[page_size - 1])?;
        let time = last
            .created_at
            .format(&Rfc3339)
            .map_err(|error| Error::Internal(format!("formatting a row's created_at: {error}")))?;
        next_cursor = Some(format!("{time}~{}", last.queue_id));
    }
    let rows = rows.iter().take(page_size).map(QueueRow::from_row).collect::<Result<_, _>>()?;
    Ok(Page { rows, next_cursor })
}

impl QueueRow {
    fn from_row(row: &Row) -> Result<Self, Error> {
        let Json(labels) = row.try_get("labels")?;
        Ok(Self {
            queue_id: row.try_get("queue_id")?,
            run_id: row.try_get("run_id")?,
            prompt_id: row.try_get("prompt_id")?,
            status: row.try_get("status")?,
            priority: row.try_get("priority")?,
            attempt_count: row.try_get("attempt_count")?,
            max_attempts: row.try_get("max_attempts")?,
            required_vram_gb: row.try_get("required_vram_gb")?,
            quantizations: row.try_get("quantizations")?,
            labels,
            claimed_by: row.try_get("claimed_by")?,
            claimed_at: row.try_get("claimed_at")?,
            lease_expires_at: row.try_get("lease_expires_at")?,
            retry_after: row.try_get("retry_after")?,
            completed_at: row.try_get("completed_at")?,
            error_detail: row.try_get("error_detail")?,
            created_at: row.try_get("created_at")?,
            publisher_id: row.try_get("publisher_id")?,
            models: row.try_get("models")?,
        })
    }
}

//! Where a run stands, for a runner.

use crate::error::Error;
use crate::runners::runner::AuthenticatedRunner;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

const STATUS: &str = include_str!("status.sql");

/// A run and its rows.
#[derive(Clone, Debug, Serialize)]
pub struct RunStatus {
    /// The run.
    pub run_id: Uuid,
    /// The status all its rows share, or `IN_PROGRESS` while they differ.
    pub status: String,
    /// Its rows, oldest first.
    pub rows: Vec<RowStatus>,
}

/// A row.
#[derive(Clone, Debug, Serialize)]
pub struct RowStatus {
    /// The row.
    pub queue_id: Uuid,
    /// Its (first) prompt.
    pub prompt_id: i32,
    /// Its status.
    pub status: String,
    /// How many attempts have failed.
    pub attempt_count: i32,
    /// How often a failed attempt is tried again.
    pub max_attempts: i32,
    /// Whether the asking runner holds or completed it.
    pub own: bool,
    /// When the claim lapses.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_expires_at: Option<OffsetDateTime>,
    /// When it may be claimed again.
    #[serde(with = "time::serde::rfc3339::option")]
    pub retry_after: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub completed_at: Option<OffsetDateTime>,
    /// What the runner last said of its progress.
    pub progress: Option<serde_json::Value>,
    /// The asking runner's own submission.
    pub submission: Option<OwnSubmission>,
}

/// What became of the asking runner's result.
#[derive(Clone, Debug, Serialize)]
pub struct OwnSubmission {
    /// The submission.
    pub submission_id: Uuid,
    /// SHA-256 of what was signed, in hexadecimal.
    pub sha256: String,
    /// Whether the claim's lease had lapsed.
    pub late: bool,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub submitted_at: OffsetDateTime,
    /// The receipt.
    pub receipt: String,
}

/// Where the run stands. Refused: [`Error::KeyNotAllowed`], [`Error::RunNotFound`].
pub async fn status(client: &Client, runner: &AuthenticatedRunner, run_id: Uuid) -> Result<RunStatus, Error> {
    let rows = client
        .query_typed(
            STATUS,
            &[
                (&run_id, Type::UUID),
                (&runner.key().key_id().as_str(), Type::TEXT),
                (&runner.runner_id(), Type::TEXT),
            ],
        )
        .await?;
    if !rows.first().is_some_and(|row| row.get("allowed")) {
        return Err(Error::KeyNotAllowed);
    }
    let rows =
        rows.iter().filter_map(|row| RowStatus::from_row(row).transpose()).collect::<Result<Vec<_>, _>>()?;
    let first = rows.first().ok_or(Error::RunNotFound)?;
    let alike = rows.iter().all(|row| row.status == first.status);
    let status = if alike { first.status.clone() } else { "IN_PROGRESS".to_owned() };
    Ok(RunStatus { run_id, status, rows })
}

impl RowStatus {
    /// `None` where the run has no row.
    fn from_row(row: &Row) -> Result<Option<Self>, Error> {
        let Some(queue_id) = row.try_get("queue_id")? else { return Ok(None) };
        let submission_id: Option<Uuid> = row.try_get("submission_id")?;
        let submission = submission_id
            .map(|submission_id| -> Result<_, Error> {
                Ok(OwnSubmission {
                    submission_id,
                    sha256: row.try_get("sha256")?,
                    late: row.try_get("late")?,
                    submitted_at: row.try_get("submitted_at")?,
                    receipt: row.try_get("receipt")?,
                })
            })
            .transpose()?;
        let progress: Option<Json<serde_json::Value>> = row.try_get("progress")?;
        Ok(Some(Self {
            queue_id,
            prompt_id: row.try_get("prompt_id")?,
            status: row.try_get("status")?,
            attempt_count: row.try_get("attempt_count")?,
            max_attempts: row.try_get("max_attempts")?,
            own: row.try_get("own")?,
            lease_expires_at: row.try_get("lease_expires_at")?,
            retry_after: row.try_get("retry_after")?,
            completed_at: row.try_get("completed_at")?,
            progress: progress.map(|Json(progress)| progress),
            submission,
        }))
    }
}

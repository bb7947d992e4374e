//! A run's status, for runners.

use crate::error::Error;
use crate::runners::runner::AuthenticatedRunner;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

const STATUS: &str = include_str!("status.sql");

/// A run and the status of its rows.
#[derive(Clone, Debug, Serialize)]
pub struct RunStatus {
    /// The run.
    pub run_id: Uuid,
    /// The common status of all rows, or `IN_PROGRESS` while they differ.
    pub status: String,
    /// The run's rows, oldest first.
    pub rows: Vec<RowStatus>,
}

/// The status of a row.
#[derive(Clone, Debug, Serialize)]
pub struct RowStatus {
    /// The row.
    pub queue_id: Uuid,
    /// The row's first prompt.
    pub prompt_id: i32,
    /// One of [`super::listing::STATUSES`].
    pub status: String,
    /// Number of failed attempts.
    pub attempt_count: i32,
    /// Number of times a failed attempt is retried.
    pub max_attempts: i32,
    /// Whether the calling runner holds the row or completed it.
    pub own: bool,
    /// When the claim's lease expires.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_expires_at: Option<OffsetDateTime>,
    /// When the row becomes claimable again after a failed attempt; null if it is not deferred.
    #[serde(with = "time::serde::rfc3339::option")]
    pub retry_after: Option<OffsetDateTime>,
    /// When the row ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub completed_at: Option<OffsetDateTime>,
    /// The progress in the claim's latest heartbeat that had one.
    pub progress: Option<serde_json::Value>,
    /// The calling runner's own submission.
    pub submission: Option<OwnSubmission>,
}

/// The calling runner's accepted submission.
#[derive(Clone, Debug, Serialize)]
pub struct OwnSubmission {
    /// Id of the submission.
    pub submission_id: Uuid,
    /// SHA-256 of the signed bytes, in hexadecimal.
    pub sha256: String,
    /// Whether the claim had lapsed before the submit.
    pub late: bool,
    /// When the submission was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub submitted_at: OffsetDateTime,
    /// The receipt, a JWS.
    pub receipt: String,
}

/// Returns the status of a run and its rows.
///
/// # Errors
///
/// [`Error::KeyNotAllowed`], [`Error::RunNotFound`].
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
    let status =
        status_of_rows(rows.iter().map(|row| row.status.as_str())).ok_or(Error::RunNotFound)?.to_owned();
    Ok(RunStatus { run_id, status, rows })
}

/// Returns the status that all rows of a run share, or `IN_PROGRESS` while they differ; `None` without a row.
pub(crate) fn status_of_rows<'a>(mut statuses: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let first = statuses.next()?;
    Some(if statuses.all(|status| status == first) { first } else { "IN_PROGRESS" })
}

impl RowStatus {
    /// Returns `None` for the outer join's empty row: the run does not exist.
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

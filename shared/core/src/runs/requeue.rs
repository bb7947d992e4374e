//! Requeueing a failed or cancelled run.

use crate::error::Error;
use crate::runners::runner::Admin;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const REQUEUE: &str = include_str!("requeue.sql");

/// Outcome of [`requeue`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Requeued {
    /// The run.
    pub run_id: Uuid,
    /// Number of rows that are claimable again. Live rows are not among them.
    pub rows_requeued: i64,
}

/// Requeues the rows of a run that are FAILED, CANCELLED, or PENDING with a `retry_after`.
///
/// # Errors
///
/// [`Error::RunNotFound`]; [`Error::RunFinished`] if every row is COMPLETE.
pub async fn requeue(
    client: &Client,
    admin: &Admin,
    run_id: Uuid,
    reason: Option<&str>,
) -> Result<Requeued, Error> {
    match execute(client, admin, run_id, reason).await? {
        // The statement may have waited for a submit or another requeue, and found the row changed. Its snapshot is
        // from before that, so only a second statement sees what the run has come to.
        Requeued { rows_requeued: 0, .. } => execute(client, admin, run_id, reason).await,
        requeued => Ok(requeued),
    }
}

async fn execute(
    client: &Client,
    admin: &Admin,
    run_id: Uuid,
    reason: Option<&str>,
) -> Result<Requeued, Error> {
    let row = client
        .query_typed_one(
            REQUEUE,
            &[(&run_id, Type::UUID), (&admin.principal(), Type::TEXT), (&reason, Type::TEXT)],
        )
        .await?;
    if !row.get::<_, bool>("exists") {
        return Err(Error::RunNotFound);
    }
    if !row.get::<_, bool>("unfinished") {
        return Err(Error::RunFinished("all its rows are complete; enqueue a new run to repeat it"));
    }
    Ok(Requeued { run_id, rows_requeued: row.get("requeued") })
}

//! Putting a failed or cancelled run back in the queue.

use crate::error::Error;
use crate::runners::runner::Admin;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const REQUEUE: &str = include_str!("requeue.sql");

/// A requeued run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Requeued {
    /// The run.
    pub run_id: Uuid,
    /// How many of its rows are claimable again; live rows are left alone.
    pub rows_requeued: i64,
}

/// Requeues the rows of a run that are FAILED, CANCELLED, or waiting for their retry. Refused:
/// [`Error::RunNotFound`]; [`Error::RunFinished`] when every row is COMPLETE.
pub async fn requeue(
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
    if !row.get::<_, bool>("known") {
        return Err(Error::RunNotFound);
    }
    if !row.get::<_, bool>("unfinished") {
        return Err(Error::RunFinished("every row of it is complete"));
    }
    Ok(Requeued { run_id, rows_requeued: row.get("requeued") })
}

//! Cancelling a run.

use crate::error::Error;
use crate::runners::runner::Admin;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const CANCEL: &str = include_str!("cancel.sql");

/// A cancelled run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cancelled {
    /// The run.
    pub run_id: Uuid,
    /// How many of its rows were cancelled now. Runners that hold one are told at their next heartbeat.
    pub rows_cancelled: i64,
}

/// Cancels every row of a run that has not ended; a repetition changes nothing. Refused:
/// [`Error::RunNotFound`]; [`Error::RunFinished`] when every row has ended otherwise.
pub async fn cancel(
    client: &Client,
    admin: &Admin,
    run_id: Uuid,
    reason: Option<&str>,
) -> Result<Cancelled, Error> {
    match end(client, admin, run_id, reason).await {
        // Another cancel may have been under way: the statement waited for it and found nothing left to
        // do, but sees that it was a cancel only when it looks anew.
        Err(Error::RunFinished(_)) => end(client, admin, run_id, reason).await,
        answer => answer,
    }
}

async fn end(client: &Client, admin: &Admin, run_id: Uuid, reason: Option<&str>) -> Result<Cancelled, Error> {
    let row = client
        .query_typed_one(
            CANCEL,
            &[(&run_id, Type::UUID), (&admin.principal(), Type::TEXT), (&reason, Type::TEXT)],
        )
        .await?;
    if !row.get::<_, bool>("known") {
        return Err(Error::RunNotFound);
    }
    let rows_cancelled = row.get("cancelled");
    if rows_cancelled == 0 && !row.get::<_, bool>("cancelled_before") {
        return Err(Error::RunFinished("it ended before it was cancelled"));
    }
    Ok(Cancelled { run_id, rows_cancelled })
}

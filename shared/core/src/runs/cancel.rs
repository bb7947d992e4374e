//! Cancelling a run.

use crate::error::Error;
use crate::runners::runner::Admin;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const CANCEL: &str = include_str!("cancel.sql");

/// Outcome of [`cancel`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cancelled {
    /// The run.
    pub run_id: Uuid,
    /// Number of rows cancelled by this request. A runner holding one learns of it at its next heartbeat.
    pub rows_cancelled: i64,
}

/// Cancels every row of a run that has not ended. Repeating it changes nothing.
///
/// # Errors
///
/// [`Error::RunNotFound`]; [`Error::RunFinished`] if every row has ended in another way.
pub async fn cancel(
    client: &Client,
    admin: &Admin,
    run_id: Uuid,
    reason: Option<&str>,
) -> Result<Cancelled, Error> {
    match cancel_once(client, admin, run_id, reason).await {
        // Two concurrent cancels: T2 waits for T1's row locks, then updates nothing. T2's snapshot is older
        // than T1's commit and still shows the rows as not cancelled; a second statement sees them.
        Err(Error::RunFinished(_)) => cancel_once(client, admin, run_id, reason).await,
        answer => answer,
    }
}

async fn cancel_once(
    client: &Client,
    admin: &Admin,
    run_id: Uuid,
    reason: Option<&str>,
) -> Result<Cancelled, Error> {
    let row = client
        .query_typed_one(
            CANCEL,
            &[(&run_id, Type::UUID), (&admin.principal(), Type::TEXT), (&reason, Type::TEXT)],
        )
        .await?;
    if !row.get::<_, bool>("exists") {
        return Err(Error::RunNotFound);
    }
    let rows_cancelled = row.get("cancelled");
    if rows_cancelled == 0 && !row.get::<_, bool>("cancelled_before") {
        return Err(Error::RunFinished("all its rows had ended before the cancel"));
    }
    Ok(Cancelled { run_id, rows_cancelled })
}

//! Bringing a database up to date: the versioned files of `migrations/`, then the functions that
//! operations call, which stand beside them in `src/*.sql` and are replaced as a whole each time.
//!
//! One piece of code for the deploy step, the local stack and the tests.

use crate::error::Error;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// Functions called by operations. Each file is `CREATE OR REPLACE`: code, not schema, so it has no
/// version. A changed signature is a function of another name, or old code would break mid-deploy.
const FUNCTIONS: &[&str] = &[
    include_str!("runners/allowlist_admits.sql"),
    include_str!("queue/claim.sql"),
    include_str!("runs/enqueue.sql"),
    include_str!("queue/heartbeat.sql"),
    include_str!("runners/revoke.sql"),
    include_str!("results/submit.sql"),
];

/// Held while migrating, so that two processes at once apply each file once. ("bakeoff" in ASCII.)
const MIGRATION_LOCK: i64 = 0x0062_616b_656f_6666;

/// What [`apply`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Applied {
    /// The versioned files applied now, in order: `V2__queue` and so on. Empty if it was up to date.
    pub migrations: Vec<String>,
}

/// Applies what is pending. Safe to repeat, and from several processes at once; each file is one
/// transaction, so a failure leaves whole files applied and the rest pending.
///
/// Not for a pooled connection: it holds a session lock.
pub async fn apply(client: &mut Client) -> Result<Applied, Error> {
    client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    let applied = apply_locked(client).await;
    client.execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK]).await?;
    applied
}

/// Whether [`apply`] was ever run on this database.
pub async fn has_history(client: &Client) -> Result<bool, Error> {
    let found = client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await?;
    Ok(found.get(0))
}

async fn apply_locked(client: &mut Client) -> Result<Applied, Error> {
    let report = embedded::migrations::runner()
        // After a rollback the database is ahead of the code. Migrations only expand, so that is fine.
        .set_abort_missing(false)
        .run_async(client)
        .await
        .map_err(|error| Error::Internal(format!("migration: {error:?}")))?;
    let transaction = client.transaction().await?;
    for function in FUNCTIONS {
        transaction.batch_execute(function).await?;
    }
    transaction.commit().await?;
    let migrations = report.applied_migrations().iter().map(ToString::to_string).collect();
    Ok(Applied { migrations })
}

/// A text that changes whenever what [`apply`] would do changes.
pub fn fingerprint() -> String {
    let mut digest = Sha256::new();
    for migration in embedded::migrations::runner().get_migrations() {
        digest.update(migration.to_string());
        digest.update(migration.checksum().to_be_bytes());
    }
    for function in FUNCTIONS {
        digest.update(function);
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

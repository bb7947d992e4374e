//! Migrates a database: applies the versioned files of `migrations/`, replaces the SQL functions that operations call
//! (`src/*/*.sql`), and corrects the counts of rows that triggers maintain.
//!
//! The deploy step, the local stack and the tests share this code.

use crate::error::Error;
use crate::functions_role;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// SQL functions called by operations. They are code and not schema, so they have no version: each file consists of
/// `CREATE OR REPLACE FUNCTION`. A function whose signature changes needs a new name, because instances of the
/// previous version call the old one during a deploy.
const FUNCTIONS: &[&str] = &[
    include_str!("runners/allowlist_admits.sql"),
    include_str!("queue/labels.sql"),
    include_str!("queue/claim.sql"),
    include_str!("runs/enqueue.sql"),
    include_str!("runs/enqueue_many.sql"),
    include_str!("queue/overview_lanes.sql"),
    include_str!("queue/heartbeat.sql"),
    include_str!("runners/revoke.sql"),
    include_str!("results/submit.sql"),
];

/// Advisory lock held while migrating, so that two concurrent processes apply each file once. ("bakeoff" in ASCII.)
const MIGRATION_LOCK: i64 = 0x0062_616b_656f_6666;

/// Outcome of [`apply`].
#[derive(Debug, PartialEq, Eq)]
pub struct Applied {
    /// The files applied by this call, in order, such as `V2__queue`. Empty if the database was up to date.
    pub migrations: Vec<String>,
    /// How many of the counts of rows by lane and state were wrong, and are corrected.
    pub corrected_counts: u64,
}

/// Corrects the counts that the overview is read from.
const RECOUNT: &str = include_str!("recount.sql");

/// Applies the pending migrations, replaces the functions, and corrects the counts of rows. Safe to repeat, and to run
/// concurrently.
///
/// Each file is applied in a transaction of its own, so a failure leaves complete files applied and the rest
/// pending. Must not run on a pooled connection, because it holds a session-level advisory lock.
///
/// # Errors
///
/// [`Error::Database`], or [`Error::Internal`] if a migration fails.
pub async fn apply(client: &mut Client) -> Result<Applied, Error> {
    client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    let applied = apply_locked(client).await;
    client.execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK]).await?;
    applied
}

/// Returns whether [`apply`] has ever run on this database.
pub async fn has_history(client: &Client) -> Result<bool, Error> {
    let found = client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await?;
    Ok(found.get(0))
}

async fn apply_locked(client: &mut Client) -> Result<Applied, Error> {
    let report = embedded::migrations::runner()
        // After a rollback the database has migrations that the code lacks. Migrations only expand the schema, so
        // the older code still works.
        .set_abort_missing(false)
        .run_async(client)
        .await
        .map_err(|error| Error::Internal(format!("applying migrations: {error:?}")))?;
    let transaction = client.transaction().await?;
    for function in FUNCTIONS {
        transaction.batch_execute(function).await?;
    }
    transaction.batch_execute(functions_role::GRANTS).await?;
    transaction.commit().await?;
    let corrected_counts = client.execute(RECOUNT, &[]).await?;
    let migrations = report.applied_migrations().iter().map(ToString::to_string).collect();
    Ok(Applied { migrations, corrected_counts })
}

/// Returns a digest of all migrations and functions, 16 hexadecimal digits. Tests reuse a database template while it
/// is unchanged.
pub fn fingerprint() -> String {
    let mut digest = Sha256::new();
    for migration in embedded::migrations::runner().get_migrations() {
        digest.update(migration.to_string());
        digest.update(migration.checksum().to_be_bytes());
    }
    for function in FUNCTIONS {
        digest.update(function);
    }
    digest.update(functions_role::GRANTS);
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

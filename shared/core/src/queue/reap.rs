//! The reaper: requeues rows whose lease expired, ends back-offs, deletes old proofs and cursors, and measures
//! the queue. Safe to run concurrently with itself, and after any pause.

use crate::error::Error;
use crate::queue::lease::LeaseTerms;
use serde::Serialize;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

const BEGIN: &str = include_str!("reap_begin.sql");
const REAP_LAPSED: &str = include_str!("reap.sql");
const END_BACKOFFS: &str = include_str!("reap_deferred.sql");
const ADD_UP_COUNTS: &str = include_str!("reap_counts.sql");
const MEASURE: &str = include_str!("reap_measure.sql");

/// Maximum number of rows per statement. Short transactions: a long snapshot would hold back vacuum.
const BATCH: i64 = 500;
/// A runner without a heartbeat for this many lease TTLs becomes DEAD.
const DEAD_AFTER_TTLS: i32 = 3;

/// Outcome of one run of the reaper.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reaped {
    /// Lapsed claims whose rows returned to PENDING.
    pub returned: i64,
    /// Lapsed claims whose rows ended FAILED because no attempts were left.
    pub failed: i64,
    /// Rows made ready because their `retry_after` had passed.
    pub backoffs_ended: i64,
    /// Whether all work was done; false if the time budget ran out first.
    pub finished: bool,
    /// End of the grace period after an outage of the service, during which no lease is ended; null if there is
    /// none.
    #[serde(with = "time::serde::rfc3339::option")]
    pub grace_until: Option<OffsetDateTime>,
    /// Runners that became DEAD in this run.
    pub silent_runners: i64,
    /// Spent proofs deleted.
    pub forgotten_proofs: i64,
    /// Measurements of the queue after the run.
    pub queue: QueueMetrics,
}

/// Measurements of the queue, published as metrics.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueMetrics {
    /// PENDING rows, including those whose `retry_after` has not passed.
    pub depth: i64,
    /// Age of the oldest ready row, in seconds; 0 if there is none.
    pub oldest_eligible_age_s: f64,
    /// Live claims.
    pub live_claims: i64,
    /// PENDING rows that no runner with a heartbeat in the last 7 days could serve.
    pub unsatisfiable: i64,
}

/// Runs the reaper until all work is done, or until the batch during which `budget` runs out has finished.
pub async fn reap(client: &Client, terms: LeaseTerms, budget: Duration) -> Result<Reaped, Error> {
    let started = Instant::now();
    let row = client
        .query_typed_one(
            BEGIN,
            &[
                (&terms.ttl_s, Type::INT4),
                (&terms.heartbeat_interval_s, Type::INT4),
                (&(terms.ttl_s.saturating_mul(DEAD_AFTER_TTLS)), Type::INT4),
            ],
        )
        .await?;
    let mut reaped = Reaped {
        grace_until: row.get("grace_until"),
        silent_runners: row.get("silent_runners"),
        forgotten_proofs: row.get("forgotten_proofs"),
        ..Reaped::default()
    };
    let mut lapses_left = reaped.grace_until.is_none();
    let mut backoffs_left = true;
    while (lapses_left || backoffs_left) && started.elapsed() < budget {
        if lapses_left {
            let row = client.query_typed_one(REAP_LAPSED, &[(&BATCH, Type::INT8)]).await?;
            let (returned, failed): (i64, i64) = (row.get("returned"), row.get("failed"));
            reaped.returned += returned;
            reaped.failed += failed;
            lapses_left = returned + failed == BATCH;
        }
        if backoffs_left {
            let row = client.query_typed_one(END_BACKOFFS, &[(&BATCH, Type::INT8)]).await?;
            let ended: i64 = row.get("backoffs_ended");
            reaped.backoffs_ended += ended;
            backoffs_left = ended == BATCH;
        }
    }
    reaped.finished = !lapses_left && !backoffs_left;
    client.execute_typed(ADD_UP_COUNTS, &[]).await?;
    let row = client.query_typed_one(MEASURE, &[]).await?;
    reaped.queue = QueueMetrics {
        depth: row.get("depth"),
        oldest_eligible_age_s: row.get("oldest_eligible_age_s"),
        live_claims: row.get("live_claims"),
        unsatisfiable: row.get("unsatisfiable"),
    };
    Ok(reaped)
}

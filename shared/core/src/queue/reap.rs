//! The reaper: takes back what fell silent, brings back what is due, forgets what is over, and measures
//! the queue. Safe to run twice at once, and after any pause.

use crate::error::Error;
use crate::queue::lease::LeaseTerms;
use serde::Serialize;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

const BEGIN: &str = include_str!("reap_begin.sql");
const LAPSED: &str = include_str!("reap.sql");
const END_BACKOFFS: &str = include_str!("reap_deferred.sql");
const MEASURE: &str = include_str!("reap_measure.sql");

/// Rows per statement: short transactions, so that no snapshot of ours holds back a vacuum.
const BATCH: i64 = 500;
/// A runner unheard of for this many lease TTLs is DEAD.
const SILENT_TTLS: i32 = 3;

/// What a run of the reaper did, and what it saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reaped {
    /// Lapsed claims whose rows went back to PENDING.
    pub returned: i64,
    /// Lapsed claims whose rows ended FAILED, attempts spent.
    pub failed: i64,
    /// Rows whose `retry_after` had passed, back in the ready order.
    pub backoffs_ended: i64,
    /// Whether nothing was left when it stopped; false: its time ran out first.
    pub finished: bool,
    /// Set while no claim is taken back, because the service itself was away and runners must first
    /// have had the time to speak.
    #[serde(with = "time::serde::rfc3339::option")]
    pub grace_until: Option<OffsetDateTime>,
    /// Runners newly marked DEAD.
    pub silent_runners: i64,
    /// Spent proofs forgotten.
    pub forgotten_proofs: i64,
    /// The queue as it stands.
    pub queue: QueueMeasures,
}

/// The queue's own metrics.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueMeasures {
    /// PENDING rows, waiting ones included.
    pub depth: i64,
    /// Age of the oldest row that could be claimed now, in seconds; 0 when there is none.
    pub oldest_eligible_age_s: f64,
    /// Live claims.
    pub live_claims: i64,
    /// PENDING rows that no runner seen within a week could take.
    pub unsatisfiable: i64,
}

/// Runs the reaper until nothing is left or `budget` is nearly spent.
pub async fn reap(client: &Client, terms: LeaseTerms, budget: Duration) -> Result<Reaped, Error> {
    let started = Instant::now();
    let row = client
        .query_typed_one(
            BEGIN,
            &[
                (&terms.ttl_s, Type::INT4),
                (&terms.heartbeat_interval_s, Type::INT4),
                (&(terms.ttl_s.saturating_mul(SILENT_TTLS)), Type::INT4),
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
            let row = client.query_typed_one(LAPSED, &[(&BATCH, Type::INT8)]).await?;
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
    let row = client.query_typed_one(MEASURE, &[]).await?;
    reaped.queue = QueueMeasures {
        depth: row.get("depth"),
        oldest_eligible_age_s: row.get("oldest_eligible_age_s"),
        live_claims: row.get("live_claims"),
        unsatisfiable: row.get("unsatisfiable"),
    };
    Ok(reaped)
}

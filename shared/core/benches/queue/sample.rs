//! Runs operations in turns and times them.

use crate::connection::{Connection, Operation};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// Time limit of a turn: the plain design needs seconds for one claim.
const TURN_LIMIT: Duration = Duration::from_secs(1);

const RESTOCK: &str = "UPDATE run_queue
       SET status = 'PENDING', claim_id = NULL, claimed_by = NULL, claimed_at = NULL, lease_expires_at = NULL
     WHERE status = 'CLAIMED'";

/// Latencies of one operation, and the time of all its turns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    latencies: Vec<Duration>,
    elapsed: Duration,
    /// Operations that found nothing to do.
    pub(crate) empty: usize,
}

impl Sample {
    /// Returns the latency in milliseconds that this share of all does not exceed.
    fn quantile_ms(&self, share: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        // In range: a share of the length.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }

    /// Returns the median latency in milliseconds.
    pub(crate) fn median_ms(&self) -> f64 {
        self.quantile_ms(0.5)
    }

    /// Returns the latency in milliseconds that one in a hundred exceeds.
    pub(crate) fn p99_ms(&self) -> f64 {
        self.quantile_ms(0.99)
    }

    /// Returns operations per second, of all connections together.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Adds the latencies of another turn.
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.elapsed += other.elapsed;
        self.empty += other.empty;
    }
}

/// Runs the operations in turns, so that other load on the machine affects all of them.
///
/// `restock`: a connection that makes all claimed rows ready again before each turn, untimed.
pub(crate) async fn take_turns(
    connections: &mut Vec<Connection>,
    operations: &[Operation],
    rounds: usize,
    claims: usize,
    restock: Option<&Client>,
) -> Vec<Sample> {
    let least = if restock.is_some() { 1 } else { 10 };
    let each = claims.div_ceil(connections.len()).max(least);
    let mut samples = vec![Sample::default(); operations.len()];
    for round in 0..=rounds {
        for (operation, sample) in operations.iter().zip(&mut samples) {
            if let Some(client) = restock {
                client.batch_execute(RESTOCK).await.expect("claimed rows are ready again");
            }
            let turn = turn(connections, *operation, if round == 0 { 7 } else { each }).await;
            // The first turn prepares statements and plans: connections of a pool live long.
            if round > 0 {
                sample.add(turn);
            }
        }
    }
    samples
}

/// Runs an operation `times` times on every connection, all at the same time.
async fn turn(connections: &mut Vec<Connection>, operation: Operation, times: usize) -> Sample {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for mut connection in connections.drain(..) {
        running.spawn(async move {
            let mut sample = Sample::default();
            for _ in 0..times {
                let began = Instant::now();
                sample.empty += usize::from(!connection.run(operation).await);
                sample.latencies.push(began.elapsed());
                if started.elapsed() > TURN_LIMIT {
                    break;
                }
            }
            (connection, sample)
        });
    }
    let mut all = Sample::default();
    for (connection, sample) in running.join_all().await {
        connections.push(connection);
        all.add(sample);
    }
    all.elapsed = started.elapsed();
    all
}

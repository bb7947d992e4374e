//! A runner with a connection of its own, and the operations that are timed.

use crate::mix::Lanes;
use bakeoff_core::queue::claim::{ClaimRequest, Job, claim};
use bakeoff_core::queue::heartbeat::{HeartbeatRequest, heartbeat};
use bakeoff_core::session::Session as _;
use bakeoff_lambda::config::DatabaseSource;
use bakeoff_lambda::database::{Database, Session};
use bakeoff_lambda::secrets::Secrets;
use bakeoff_lambda::tls::Roots;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

const FLOOR: &str = "UPDATE bench_floor SET value = value + 1 WHERE id = $1 RETURNING id";
const COMPLETE: &str = "UPDATE run_queue
       SET status = 'COMPLETE', lease_expires_at = NULL, completed_at = now(), updated_at = now()
     WHERE claim_id = $1 AND claimed_by = $2 AND status IN ('CLAIMED', 'IN_PROGRESS')
    RETURNING queue_id";
const PLAIN: &str = include_str!("plain.sql");

/// The operations that are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// One durable update of one row by its key, prepared like a claim: no claim can cost less.
    Floor,
    /// A claim.
    Claim,
    /// A claim and the submit of its signed result.
    Cycle,
    /// A claim and the completion of its row, without result and evidence: what other queues call a job.
    Complete,
    /// Heartbeats of one claim.
    Heartbeat,
    /// A claim by the rejected design (`plain.sql`).
    Plain,
}

/// A runner, and the connection that its function would have: without a proxy, so statements are prepared.
pub(crate) struct Connection {
    client: Session,
    runner: Runner,
    number: i32,
    vram_gb: f64,
    quantizations: Vec<String>,
    live: Option<Job>,
}

/// Opens a connection that times nothing.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}

impl Operation {
    /// The name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Claim => "claim",
            Self::Cycle => "claim+submit",
            Self::Complete => "claim+complete",
            Self::Heartbeat => "heartbeat",
            Self::Plain => "plain claim",
        }
    }
}

impl Connection {
    /// Allows, registers and authenticates a runner that fits its part of `lanes`.
    pub(crate) async fn open(url: &str, number: i32, lanes: Lanes) -> Self {
        let database =
            Database::new(DatabaseSource::Url(url.to_owned()), Roots::Aws).with_prepared_statements(true);
        let client = database.client(&Secrets::default()).await.expect("the server answers");
        let (vram_gb, quantizations) = lanes.capabilities(&client).await;
        let names: Vec<&str> = quantizations.iter().map(String::as_str).collect();
        let runner = fixture::runner_with(&client, &format!("bench-{number}"), vram_gb, &names).await;
        Self { client, runner, number, vram_gb, quantizations, live: None }
    }

    /// Runs an operation once. Returns false if the queue had no row for it.
    pub(crate) async fn run(&mut self, operation: Operation) -> bool {
        match operation {
            Operation::Floor => {
                let id = [(&self.number as _, Type::INT4)];
                self.client.query_row(FLOOR, &id).await.expect("the floor's row");
                true
            }
            Operation::Claim => self.claim().await.is_some(),
            Operation::Cycle => self.cycle().await,
            Operation::Complete => self.complete().await,
            Operation::Heartbeat => self.heartbeat().await,
            Operation::Plain => self.plain().await,
        }
    }

    async fn claim(&self) -> Option<Job> {
        claim(&self.client, &self.runner.authenticated, TERMS, &ClaimRequest::default())
            .await
            .expect("the claim is answered")
            .job()
    }

    async fn cycle(&self) -> bool {
        let Some(job) = self.claim().await else { return false };
        let result = fixture::result(&job);
        fixture::submit_result(&self.client, &self.runner, &job, &result)
            .await
            .expect("the result is accepted");
        true
    }

    async fn complete(&self) -> bool {
        let Some(job) = self.claim().await else { return false };
        let fence = [(&job.claim_id as _, Type::UUID), (&self.runner.machine.name as _, Type::TEXT)];
        self.client.query_row(COMPLETE, &fence).await.expect("the row is completed");
        true
    }

    async fn heartbeat(&mut self) -> bool {
        if self.live.is_none() {
            self.live = self.claim().await;
        }
        let Some(job) = &self.live else { return false };
        let request = HeartbeatRequest { claim_id: job.claim_id, progress: None };
        heartbeat(&self.client, &self.runner.authenticated, TERMS, job.run_id, &request)
            .await
            .expect("the claim lives");
        true
    }

    async fn plain(&self) -> bool {
        let taken = self
            .client
            .query_typed(
                PLAIN,
                &[
                    (&self.runner.machine.name, Type::TEXT),
                    (&self.vram_gb, Type::FLOAT8),
                    (&self.quantizations, Type::TEXT_ARRAY),
                ],
            )
            .await;
        !taken.expect("a claim").is_empty()
    }
}

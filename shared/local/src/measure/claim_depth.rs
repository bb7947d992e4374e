//! Measures claims through the whole stack (HTTP, event, binary, Postgres) with a short queue and a long one.
//!
//! Two stacks alternate, so that other load on the machine affects both alike. In each queue, the first nine
//! tenths of the rows need more VRAM than the runner has.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::json;
use tokio_postgres::Client;

use crate::client::Api;
use crate::demo::harness_run;
use crate::error::{Error, ErrorContext, Result};
use crate::measure::cold_start::{Summary, register_runner};
use crate::postgres::connect;
use crate::stack::{Options, Stack};

/// The number of rows in each queue.
const DEPTHS: [i64; 2] = [10_000, 1_000_000];
/// A queue of 10,000 rows has 1,000 that fit the runner: enough for 9 rounds of 100 claims and the warm-up.
const ROUNDS: usize = 9;
const CLAIMS_PER_ROUND: usize = 100;
/// Maximum ratio of a claim's time on the long queue to that on the short one.
const GOAL: f64 = 1.5;

/// Measures claims at both depths and prints a table in Markdown.
///
/// # Errors
/// If a stack does not start, or a claim finds no job.
pub async fn measure() -> Result<()> {
    let options = Options { port: 0, release: true, ..Options::default() };
    let stacks = [Stack::start(&options).await?, Stack::start(&options).await?];
    let mut measured = measure_on(&stacks).await;
    for stack in stacks {
        measured = stack.stop_after(measured).await;
    }
    print!("{}", measured?);
    Ok(())
}

/// A stack with a queue of one depth, and its measurements.
struct Queue {
    depth: i64,
    api: Api,
    token: String,
    claims: Vec<Duration>,
    /// Times of requests without database access, which show the overhead of HTTP and invocation.
    without_database: Vec<Duration>,
}

async fn measure_on(stacks: &[Stack; 2]) -> Result<String> {
    let mut queues = Vec::new();
    for (stack, depth) in stacks.iter().zip(DEPTHS) {
        eprintln!("loading {depth} rows");
        queues.push(Queue::load(stack, depth).await?);
    }
    for round in 0..=ROUNDS {
        for queue in &mut queues {
            // The first round is a warm-up: processes start, connect and plan statements.
            let claims = if round == 0 { 10 } else { CLAIMS_PER_ROUND };
            for _ in 0..claims {
                let (round_trip, claim) = (queue.round_trip().await?, queue.claim().await?);
                if round > 0 {
                    queue.without_database.push(round_trip);
                    queue.claims.push(claim);
                }
            }
        }
    }
    table(queues)
}

impl Queue {
    async fn load(stack: &Stack, depth: i64) -> Result<Self> {
        let api = Api::new(&stack.url);
        let token = register_runner(&api).await?;
        let runs = harness_run::all()?;
        let run = runs.first().ok_or_else(|| Error::Failed("the demo has no run".into()))?;
        let enqueued = api.admin_post("/api/admin/runs", &run.enqueue_request()?).await?;
        enqueued.expect_status(StatusCode::CREATED)?;
        fill(&connect(&stack.database_url).await?, depth).await.context("fill the queue")?;
        Ok(Self { depth, api, token, claims: Vec::new(), without_database: Vec::new() })
    }

    async fn claim(&self) -> Result<Duration> {
        let started = Instant::now();
        let reply = self.api.post("/api/queue/claim", &self.token, &json!({})).await?;
        let took = started.elapsed();
        reply.expect_status(StatusCode::OK)?;
        Ok(took)
    }

    async fn round_trip(&self) -> Result<Duration> {
        let started = Instant::now();
        let reply = self.api.get("/api/jwks.json").await?;
        let took = started.elapsed();
        reply.expect_status(StatusCode::OK)?;
        Ok(took)
    }
}

/// Copies the enqueued row: first the rows that do not fit the runner, then those that do.
async fn fill(client: &Client, depth: i64) -> std::result::Result<(), tokio_postgres::Error> {
    client
        .batch_execute(&format!(
            "INSERT INTO queue_lanes (quantization_ids, required_vram_gb)
             SELECT l.quantization_ids, 80 FROM run_queue JOIN queue_lanes l USING (lane_id);
             INSERT INTO run_queue (run_id, prompt_id, created_at, lane_id)
             SELECT q.run_id, q.prompt_id, q.created_at - interval '1 day' + i * interval '1 ms',
                    CASE WHEN i < {depth} / 10 * 9 THEN big.lane_id ELSE q.lane_id END
               FROM run_queue q, generate_series(1, {depth} - 1) i,
                    (SELECT lane_id FROM queue_lanes WHERE required_vram_gb = 80) big;
             INSERT INTO queue_jobs (queue_id, model, models, prompts, tasks, config)
             SELECT q.queue_id, j.model, j.models, j.prompts, j.tasks, j.config
               FROM run_queue q, queue_jobs j
              WHERE q.queue_id <> j.queue_id
                AND q.lane_id = (SELECT o.lane_id FROM run_queue o WHERE o.queue_id = j.queue_id)"
        ))
        .await?;
    client.batch_execute("VACUUM (ANALYZE) run_queue").await
}

fn table(queues: Vec<Queue>) -> Result<String> {
    let mut text =
        "\n| rows in the queue | a claim over HTTP, ms: median | p99 | GET /api/jwks.json, ms: median |\n\
                    |--:|--:|--:|--:|\n"
            .to_owned();
    let mut claims = Vec::new();
    for mut queue in queues {
        let of = |times: &mut [Duration]| {
            Summary::of(times).ok_or_else(|| Error::Failed("no measurements".into()))
        };
        let (claim, round_trip) = (of(&mut queue.claims)?, of(&mut queue.without_database)?);
        text += &format!(
            "| {} | {:.2} | {:.2} | {:.2} |\n",
            queue.depth, claim.median, claim.p99, round_trip.median
        );
        claims.push(claim);
    }
    if let [shallow, deep] = claims[..] {
        let (median, p99) = (deep.median / shallow.median, deep.p99 / shallow.p99);
        let verdict = if median.max(p99) <= GOAL { "met" } else { "MISSED" };
        text += &format!(
            "\nDeep ÷ shallow: median {median:.2}, p99 {p99:.2}. Goal, at most {GOAL}: {verdict}.\n"
        );
    }
    Ok(text)
}

//! What happens to many rows at once: enqueueing, and reaping beside claimers.

use crate::connection::{Connection, Operation, connect};
use crate::mix::{Mix, load};
use crate::report::{Bound, Goal};
use crate::sample::{Sample, take_turns};
use bakeoff_core::queue::reap::reap;
use bakeoff_local::postgres::with_database;
use bakeoff_testkit::fixture::TERMS;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const HARNESS_SCHEMA: &str = include_str!("../../../../migrations/V1__harness_schema.sql");
const CLAIMERS: i32 = 8;
const ROUNDS: usize = 3;
const INSERT: &str = "INSERT INTO run_queue (run_id, prompt_id)
                      SELECT (SELECT min(run_id::text)::uuid FROM runs), (SELECT min(prompt_id) FROM prompts)
                        FROM generate_series(1, $1)";

/// The same insert into our queue and into the harness's own, in turns.
pub(crate) async fn enqueue(url: &str, ours: &Client, rows: i64) -> Goal {
    ours.batch_execute("DROP DATABASE IF EXISTS bench_harness").await.expect("no such database");
    ours.batch_execute("CREATE DATABASE bench_harness").await.expect("another database");
    let harness = connect(&with_database(url, "bench_harness")).await;
    harness.batch_execute(HARNESS_SCHEMA).await.expect("the harness's schema");
    let seed = "INSERT INTO tasks (name, natural_key_hash) VALUES ('bench', 'bench');
                INSERT INTO prompts (task_id, file_path, git_commit_hash) SELECT task_id, 'p', 'c' FROM tasks;
                INSERT INTO runs (run_id, submitted_at, publisher_id) VALUES (gen_random_uuid(), now(), 'b')";
    harness.batch_execute(seed).await.expect("a run");
    let mut took = [Duration::ZERO; 2];
    for _ in 0..ROUNDS {
        for (client, took) in [&harness, ours].into_iter().zip(&mut took) {
            let began = Instant::now();
            client.execute(INSERT, &[&i32::try_from(rows).expect("a few")]).await.expect("rows");
            *took += began.elapsed();
            client.batch_execute("CHECKPOINT").await.expect("a checkpoint");
        }
    }
    let [plain, ours] = took.map(|took| took.as_secs_f64() / ROUNDS as f64);
    println!("enqueue {rows} rows: {ours:.2} s, into the harness's own table {plain:.2} s");
    Goal {
        what: format!("enqueueing {rows} rows ÷ the same into the harness's table"),
        measured: ours / plain,
        bound: Bound::AtMost(2.5),
    }
}

/// Claims of eight runners, alone and while as many claims as `rows` lapse and are reaped.
pub(crate) async fn reaping(url: &str, client: &Client, rows: i64, claims: usize) -> Goal {
    load(client, connect(url).await, Mix::AllEligible, 2 * rows).await;
    let mut connections = Vec::new();
    for number in 0..CLAIMERS {
        connections.push(Connection::open(url, number, Mix::AllEligible.lanes()).await);
    }
    let alone = take_turns(&mut connections, &[Operation::Claim], 1, claims, None).await.remove(0);
    client
        .execute(
            "UPDATE run_queue SET status = 'CLAIMED', claimed_by = 'gone', claimed_at = now() - interval '1 h',
                    claim_id = gen_random_uuid(), lease_expires_at = now() - interval '1 s'
              WHERE queue_id IN (SELECT queue_id FROM run_queue WHERE status = 'PENDING'
                                  ORDER BY priority DESC, created_at DESC LIMIT $1)",
            &[&rows],
        )
        .await
        .expect("lapsed claims");
    // A reaper that ran a moment ago: no outage of ours, no grace.
    let ran = "UPDATE reaper_state SET last_run_at = now(), grace_until = NULL";
    client.batch_execute(ran).await.expect("the reaper's state");
    let reaper = connect(url).await;
    let reaping = tokio::spawn(async move {
        let began = Instant::now();
        let reaped = reap(&reaper, TERMS, Duration::from_secs(600)).await.expect("the reaper runs");
        (reaped.returned + reaped.failed, began.elapsed())
    });
    let mut beside = Sample::default();
    while !reaping.is_finished() {
        beside.add(take_turns(&mut connections, &[Operation::Claim], 1, 80, None).await.remove(0));
    }
    let (reaped, took) = reaping.await.expect("the reaper ends");
    let p99 = beside.p99_ms();
    println!(
        "reap beside {CLAIMERS} claimers: {reaped} rows in {:.1} s; claim p99 {p99:.2} ms, alone {:.2} ms",
        took.as_secs_f64(),
        alone.p99_ms()
    );
    Goal {
        what: format!("claim p99 while {rows} lapsed claims are reaped ÷ alone"),
        measured: p99 / alone.p99_ms(),
        bound: Bound::AtMost(2.0),
    }
}

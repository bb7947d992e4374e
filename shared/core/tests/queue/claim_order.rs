//! The order of claims against a plain `ORDER BY`, and that no row is lost behind a claim cursor (`claim.md`).

use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::queue::release::{ReleaseRequest, release};
use bakeoff_core::runners::runner::Capabilities;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use uuid::Uuid;

/// Compares every row with the runner and sorts them all: what a claim must find.
const BRUTE_FORCE: &str = "
    SELECT q.queue_id
      FROM run_queue q JOIN queue_lanes l USING (lane_id)
     WHERE q.status = 'PENDING' AND q.retry_after IS NULL AND l.required_vram_gb <= $1
       AND l.quantization_ids <@ ARRAY(SELECT quantization_id FROM quantization_methods WHERE name = ANY ($2))
     ORDER BY q.priority, q.created_at
     LIMIT 1";

/// Rows in a random order over a few priorities, in 200 lanes of one or two of six quantizations.
async fn random_queue(client: &Client, rows: i32) {
    fixture::undemanding_run(client).await;
    client
        .execute(
            "INSERT INTO queue_lanes (quantization_ids, required_vram_gb)
             SELECT DISTINCT ARRAY(SELECT DISTINCT unnest(ARRAY[1 + i % 6, 1 + i / 7 % 6]) ORDER BY 1), i % 31
               FROM generate_series(1, 200) i
             ON CONFLICT DO NOTHING",
            &[],
        )
        .await
        .unwrap();
    client
        .execute(
            "INSERT INTO run_queue (run_id, prompt_id, priority, created_at, lane_id)
             SELECT q.run_id, q.prompt_id, (random() * 4)::integer, now() - random() * interval '1 day',
                    lanes.ids[1 + (random() * random() * (cardinality(lanes.ids) - 1))::integer]
               FROM run_queue q, (SELECT array_agg(lane_id) AS ids FROM queue_lanes WHERE lane_id <> 0) lanes,
                    generate_series(1, $1)",
            &[&rows],
        )
        .await
        .unwrap();
}

/// Rows of one priority and time are claimed in the order of their lanes, and none that fits is missed among
/// the 1,200 that do not, wherever its lane stands among theirs.
#[tokio::test]
async fn rows_of_one_time_hide_none_of_another_lane() {
    let database = Database::create().await;
    let client = database.client().await;
    fixture::undemanding_run(&client).await;
    let lanes = "INSERT INTO queue_lanes (lane_id, quantization_ids, required_vram_gb)
                 SELECT 1000 + i, CASE WHEN i % 3 = 0 THEN '{1}' ELSE '{2}' END::integer[], i
                   FROM generate_series(1, 12) i";
    client.batch_execute(lanes).await.unwrap();
    let rows = "INSERT INTO run_queue (run_id, prompt_id, priority, created_at, lane_id)
                SELECT q.run_id, q.prompt_id, 1, now() - interval '1 day', 1001 + i / 150
                  FROM run_queue q, generate_series(0, 1799) i";
    client.batch_execute(rows).await.unwrap();
    let small = fixture::runner_with(&client, "small", 12.0, &["fp32"]).await;
    let fitting = "SELECT count(*) FROM run_queue JOIN queue_lanes USING (lane_id)
                    WHERE priority = 1 AND status = 'PENDING' AND quantization_ids = '{1}'";
    let mut lanes_in_order = Vec::new();
    for left in (0..600_i64).rev() {
        // Without cursors, with cursors as claims advance them, and with cursors advanced at once.
        match left % 7 {
            0 => client.batch_execute("DELETE FROM claim_cursors").await.unwrap(),
            3 => advance_cursors(&client).await,
            _ => {}
        }
        let job =
            claim(&client, &small.authenticated, TERMS, &ClaimRequest::default()).await.unwrap().unwrap();
        let lane = "SELECT lane_id FROM run_queue WHERE queue_id = $1 AND priority = 1";
        lanes_in_order.push(client.query_one(lane, &[&job.queue_id]).await.unwrap().get::<_, i32>(0));
        if left % 50 == 0 {
            assert_eq!(client.query_one(fitting, &[]).await.unwrap().get::<_, i64>(0), left);
        }
    }
    assert!(lanes_in_order.is_sorted(), "{lanes_in_order:?}");
}

/// A transaction with one snapshot for all its statements must neither advance a cursor past a row that became
/// ready after that snapshot, nor make a row ready behind a cursor that its snapshot does not show.
#[tokio::test]
async fn a_cursor_never_passes_a_row_that_a_snapshot_does_not_show() {
    const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM runners";
    let database = Database::create().await;
    let (client, other) = (database.client().await, database.client().await);
    let runner = fixture::runner(&client, "bench").await;
    let pattern = fixture::undemanding_run(&client).await;
    assert_eq!(fixture::claim_next(&client, &runner).await.run_id, pattern.run_id);
    let insert = "INSERT INTO run_queue (run_id, prompt_id, created_at)
                  SELECT run_id, prompt_id, created_at - interval '1 day' FROM run_queue LIMIT 1";

    // T1 takes its snapshot, T2 inserts a row and commits, T1 tries to advance.
    client.batch_execute("DELETE FROM claim_cursors; DELETE FROM claim_cursor_resets").await.unwrap();
    client.batch_execute("INSERT INTO claim_cursors VALUES (24, '{}', -1, '-infinity', 0)").await.unwrap();
    other.batch_execute(SNAPSHOT).await.unwrap();
    client.batch_execute(insert).await.unwrap();
    advance_cursors(&other).await;
    other.batch_execute("COMMIT").await.unwrap();
    let passed = "SELECT EXISTS (SELECT FROM claim_cursors WHERE priority > -1)";
    assert!(!client.query_one(passed, &[]).await.unwrap().get::<_, bool>(0));

    // T1 takes its snapshot, T2 advances to the end of the order and commits, T1 inserts a row.
    fixture::claim_next(&client, &runner).await;
    client.batch_execute("DELETE FROM claim_cursors WHERE vram_gb <> 24").await.unwrap();
    other.batch_execute(SNAPSHOT).await.unwrap();
    advance_cursors(&client).await;
    assert!(client.query_one(passed, &[]).await.unwrap().get::<_, bool>(0));
    other.batch_execute(insert).await.unwrap();
    other.batch_execute("COMMIT").await.unwrap();
    fixture::claim_next(&client, &runner).await;
}

/// Derives a class from a number: its bits choose among six quantizations.
async fn capabilities(client: &Client, seed: u32) -> Capabilities {
    let served: Vec<i32> = (0..6).filter(|bit| seed >> bit & 1 == 1).map(|bit| bit + 1).collect();
    let names = "SELECT name FROM quantization_methods WHERE quantization_id = ANY ($1)";
    let names = client.query(names, &[&served]).await.unwrap();
    Capabilities {
        vram_gb: f64::from(seed * 7 % 32),
        quantizations: names.iter().map(|row| row.get(0)).collect(),
        labels: None,
    }
}

#[tokio::test]
async fn every_claim_takes_what_a_sort_of_all_rows_finds_first() {
    let database = Database::create().await;
    let client = database.client().await;
    random_queue(&client, 3000).await;
    let runner = fixture::runner(&client, "bench").await;
    let mut found = 0;
    for seed in 0..640_u32 {
        let capabilities = capabilities(&client, seed).await;
        let best = client
            .query_opt(BRUTE_FORCE, &[&ceiling(capabilities.vram_gb), &capabilities.quantizations])
            .await
            .unwrap()
            .map(|row| row.get::<_, Uuid>(0));
        let request = ClaimRequest { claim_id: None, capabilities: Some(capabilities) };
        let job = claim(&client, &runner.authenticated, TERMS, &request).await.unwrap();
        assert_eq!(job.as_ref().map(|job| job.queue_id), best, "{request:?}");
        found += usize::from(job.is_some());
        disturb(&client, &runner, seed, job.map(|job| (job.run_id, job.claim_id))).await;
    }
    // Both outcomes occurred often.
    assert!((100..639).contains(&found), "{found} claims found a row");
}

/// The runner's VRAM as the integer that lanes compare with.
#[allow(clippy::cast_possible_truncation, reason = "below 32")]
fn ceiling(vram_gb: f64) -> i32 {
    vram_gb as i32
}

/// From time to time advances the cursors, releases a job, or inserts a row before all others.
async fn disturb(client: &Client, runner: &Runner, seed: u32, job: Option<(Uuid, Uuid)>) {
    if seed.is_multiple_of(9) {
        advance_cursors(client).await;
    }
    if let Some((run_id, claim_id)) = job.filter(|_| seed.is_multiple_of(5)) {
        let request = ReleaseRequest { claim_id, failure: None };
        release(client, &runner.authenticated, run_id, &request).await.unwrap();
    }
    if seed.is_multiple_of(7) {
        let insert = "INSERT INTO run_queue (run_id, prompt_id, priority, created_at, lane_id)
                      SELECT run_id, prompt_id, $1, created_at - interval '1 year', lane_id
                        FROM run_queue ORDER BY random() LIMIT 1";
        client.execute(insert, &[&i32::try_from(seed % 4).unwrap()]).await.unwrap();
    }
}

/// Advances every cursor, as claims do.
async fn advance_cursors(client: &Client) {
    let advance = "SELECT queue_advance_claim_cursor(vram_gb, quantization_ids) FROM claim_cursors";
    client.query(advance, &[]).await.unwrap();
}

/// Four producers insert rows before, between and behind those in the queue, in transactions of several
/// statements, some rolled back; six claimers release every fifth job; cursors are advanced all the time. Every
/// row is claimed once, and none is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn no_row_is_lost_behind_a_cursor() {
    const ENQUEUERS: i32 = 4;
    const ROUNDS: i32 = 30;
    let database = Database::create().await;
    let client = database.client().await;
    random_queue(&client, 100).await;
    let enqueueing = Arc::new(AtomicBool::new(true));

    let mut enqueuers = JoinSet::new();
    for number in 0..ENQUEUERS {
        let client = database.client().await;
        enqueuers.spawn(async move {
            for round in 0..ROUNDS {
                let insert = "INSERT INTO run_queue (run_id, prompt_id, priority, created_at, lane_id)
                              SELECT q.run_id, q.prompt_id, $1, now() - random() * interval '2 days', q.lane_id
                                FROM run_queue q ORDER BY random() LIMIT 3";
                client.batch_execute("BEGIN").await.unwrap();
                for row in 0..5 {
                    client.execute(insert, &[&((number + round + row) % 5)]).await.unwrap();
                }
                client.batch_execute(if round % 8 == 7 { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
            }
        });
    }
    let mut others = JoinSet::new();
    for number in 0..6 {
        let client = database.client().await;
        let runner = fixture::runner_with(
            &client,
            &format!("bench-{number}"),
            99.0,
            &["fp32", "fp16", "bf16", "q8_0", "q6_k", "q5_k_m"],
        )
        .await;
        let enqueueing = Arc::clone(&enqueueing);
        others.spawn(async move { claim_until_empty(&client, &runner, &enqueueing).await });
    }
    let advancing = {
        let (client, enqueueing) = (database.client().await, Arc::clone(&enqueueing));
        tokio::spawn(async move {
            while enqueueing.load(Ordering::Relaxed) {
                advance_cursors(&client).await;
            }
        })
    };
    enqueuers.join_all().await;
    enqueueing.store(false, Ordering::Relaxed);
    advancing.await.unwrap();
    let claimed: Vec<Uuid> = others.join_all().await.into_iter().flatten().collect();

    let distinct: HashSet<&Uuid> = claimed.iter().collect();
    assert_eq!(claimed.len(), distinct.len());
    let left = "SELECT count(*) FILTER (WHERE status = 'PENDING'), count(*) FROM run_queue";
    let row = client.query_one(left, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0, "ready rows are left");
    assert_eq!(row.get::<_, i64>(1), i64::try_from(claimed.len()).unwrap());
}

/// Claims, and releases every fifth job, until the producers have ended and the queue is empty.
async fn claim_until_empty(client: &Client, runner: &Runner, enqueueing: &AtomicBool) -> Vec<Uuid> {
    let mut kept = Vec::new();
    for turn in 1.. {
        let last = !enqueueing.load(Ordering::Relaxed);
        let job = claim(client, &runner.authenticated, TERMS, &ClaimRequest::default()).await.unwrap();
        let Some(job) = job else {
            if last {
                break;
            }
            continue;
        };
        if turn % 5 == 0 && !last {
            let request = ReleaseRequest { claim_id: job.claim_id, failure: None };
            release(client, &runner.authenticated, job.run_id, &request).await.unwrap();
        } else {
            kept.push(job.queue_id);
        }
    }
    kept
}

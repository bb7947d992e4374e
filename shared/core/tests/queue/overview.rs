//! The queue at one moment, and the counts it is read from.

use bakeoff_core::queue::overview::{RowCounts, overview};
use bakeoff_core::queue::reap::reap;
use bakeoff_core::queue::release::{Failure, ReleaseRequest, release};
use bakeoff_core::results::run_result::FailureCode;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::requeue::requeue;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, TERMS};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::Client;

/// The counts by a scan of the table, as the overview must have them.
async fn scanned(client: &Client) -> RowCounts {
    let scan =
        "SELECT status, retry_after IS NOT NULL AS deferred, count(*) AS rows FROM run_queue GROUP BY 1, 2";
    let mut counts = RowCounts::default();
    for row in client.query(scan, &[]).await.unwrap() {
        let rows: i64 = row.get("rows");
        match (row.get("status"), row.get("deferred")) {
            ("PENDING", true) => counts.deferred += rows,
            ("PENDING", false) => counts.ready += rows,
            ("CLAIMED", _) => counts.claimed += rows,
            ("IN_PROGRESS", _) => counts.in_progress += rows,
            ("COMPLETE", _) => counts.complete += rows,
            ("FAILED", _) => counts.failed += rows,
            (_, _) => counts.cancelled += rows,
        }
    }
    counts
}

#[tokio::test]
async fn the_counts_are_those_of_a_scan_after_every_transition() {
    let database = Database::create().await;
    let (client, owner) = (database.client().await, database.owner().await);
    let runner = fixture::runner(&client, "bench").await;
    let check = async |expected: [i64; 7]| {
        let counts = overview(&client).await.unwrap().rows;
        let found = [
            counts.ready,
            counts.deferred,
            counts.claimed,
            counts.in_progress,
            counts.complete,
            counts.failed,
            counts.cancelled,
        ];
        assert_eq!(found, expected);
        assert_eq!(counts, scanned(&client).await);
    };
    check([0; 7]).await;
    fixture::split_run(&client).await;
    fixture::undemanding_run(&client).await;
    check([4, 0, 0, 0, 0, 0, 0]).await;
    let job = fixture::claim_next(&client, &runner).await;
    let failing = fixture::claim_next(&client, &runner).await;
    check([2, 0, 2, 0, 0, 0, 0]).await;
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    let failure = Failure { code: FailureCode::Oom, detail: None };
    let request = ReleaseRequest { claim_id: failing.claim_id, failure: Some(failure) };
    release(&client, &runner.authenticated, failing.run_id, &request).await.unwrap();
    check([2, 1, 0, 0, 1, 0, 0]).await;
    let lapsed = fixture::claim_next(&client, &runner).await;
    owner.batch_execute("UPDATE run_queue SET max_attempts = 0 WHERE status = 'CLAIMED'").await.unwrap();
    fixture::expire_lease(&client, &lapsed).await;
    // Adds the counts up, too.
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    check([1, 1, 0, 0, 1, 1, 0]).await;
    cancel(&client, &fixture::admin(), failing.run_id, None).await.unwrap();
    let cancelled = overview(&client).await.unwrap().rows;
    assert_eq!(cancelled, scanned(&client).await);
    requeue(&client, &fixture::admin(), failing.run_id, None).await.unwrap();
    client.batch_execute("UPDATE run_queue SET retry_after = now() WHERE status = 'PENDING'").await.unwrap();
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    assert_eq!(overview(&client).await.unwrap().rows, scanned(&client).await);
    owner.batch_execute("UPDATE run_queue SET lane_id = 0").await.unwrap();
    assert_eq!(overview(&client).await.unwrap().rows, scanned(&client).await);
    owner
        .batch_execute("DELETE FROM queue_jobs; DELETE FROM run_queue WHERE status = 'PENDING'")
        .await
        .unwrap();
    assert_eq!(overview(&client).await.unwrap().rows, scanned(&client).await);
    let left = "SELECT count(*) FROM (SELECT lane_id, state FROM run_queue_counts GROUP BY 1, 2 HAVING sum(rows) < 0) n";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    owner.batch_execute("TRUNCATE run_queue CASCADE").await.unwrap();
    check([0; 7]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn adding_up_at_any_moment_loses_no_count() {
    let database = Database::create().await;
    let client = database.client().await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let insert = "INSERT INTO run_queue (run_id, prompt_id, lane_id)
                  SELECT run_id, prompt_id, lane_id FROM run_queue LIMIT 1";
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let client = database.client().await;
        writers.spawn(async move {
            for _ in 0..100 {
                client.batch_execute(insert).await.unwrap();
            }
        });
    }
    for _ in 0..2 {
        let client = database.client().await;
        writers.spawn(async move {
            for _ in 0..20 {
                reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    assert_eq!(overview(&client).await.unwrap().rows.ready, 301);
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    assert_eq!(overview(&client).await.unwrap().rows.ready, 301);
}

#[tokio::test]
async fn depth_claims_runners_and_what_nobody_can_take() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::runner_with(&client, "small", 8.0, &["q8_0"]).await;
    let mut big = fixture::run();
    big["models"] = json!([fixture::model("big", "q4_k_m", 110.0)]);
    fixture::enqueue_run(&client, &big).await;
    let mut late = fixture::run();
    late["priority"] = json!(500);
    let late = fixture::enqueue_run(&client, &late).await.run_id;
    let age = "UPDATE run_queue SET created_at = now() - interval '1 hour' WHERE run_id = $1";
    database.owner().await.execute(age, &[&late]).await.unwrap();
    fixture::split_run(&client).await;
    let job = fixture::claim_next(&client, &runner).await;
    let started =
        "UPDATE run_queue SET claimed_at = now() - interval '90 s', progress = '{\"cells_done\": 1}'
                    WHERE claim_id = $1";
    client.execute(started, &[&job.claim_id]).await.unwrap();

    let overview = overview(&client).await.unwrap();
    assert_eq!((overview.rows.ready, overview.rows.claimed), (4, 1));
    assert!((3600..3700).contains(&overview.oldest_ready_s.unwrap()), "{:?}", overview.oldest_ready_s);
    let depths: Vec<_> = overview
        .requirements
        .iter()
        .map(|depth| (depth.requirement.required_vram_gb, depth.rows.ready, depth.capable_runners))
        .collect();
    assert_eq!(depths, [(6, 3, 1), (72, 1, 0)]);
    // The oldest of a lane, though it stands last in the order of its priorities.
    assert!(overview.requirements[0].oldest_ready_s >= Some(3600));

    let [claim] = overview.live_claims.as_slice() else { panic!("{:?}", overview.live_claims) };
    assert_eq!((claim.runner_id.as_str(), claim.claim_id), ("bench", Some(job.claim_id)));
    assert_eq!((claim.models.as_slice(), claim.attempt), (["m".to_owned()].as_slice(), 1));
    assert_eq!(claim.progress, Some(json!({ "cells_done": 1 })));
    assert!((90..150).contains(&claim.held_s.unwrap()));

    let [unsatisfiable] = overview.unsatisfiable.as_slice() else { panic!("{:?}", overview.unsatisfiable) };
    assert_eq!((unsatisfiable.jobs, unsatisfiable.requirement.required_vram_gb), (1, 72));
    let detail = "needs 72 GB with q4_k_m; bench, the nearest runner, has 24 GB";
    assert_eq!(unsatisfiable.nearest_miss.detail, detail);

    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    let failing = fixture::claim_next(&client, &runner).await;
    let failure = Failure { code: FailureCode::Oom, detail: None };
    let request = ReleaseRequest { claim_id: failing.claim_id, failure: Some(failure) };
    release(&client, &runner.authenticated, failing.run_id, &request).await.unwrap();
    let lapsed = fixture::claim_next(&client, &runner).await;
    fixture::expire_lease(&client, &lapsed).await;
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    fixture::claim_next(&client, &runner).await;
    let runners = bakeoff_core::queue::overview::overview(&client).await.unwrap().runners;
    let bench = runners.iter().find(|runner| runner.runner_id == "bench").unwrap();
    assert_eq!((bench.holds, bench.completed_24h, bench.failed_24h, bench.lapsed_24h), (1, 1, 1, 1));
    assert_eq!((bench.vram_gb, bench.allowed, runners.len()), (Some(24.0), true, 2));
}

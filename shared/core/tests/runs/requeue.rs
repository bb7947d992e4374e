//! Tests of requeueing a failed or cancelled run.

use bakeoff_core::Error;
use bakeoff_core::queue::heartbeat::{Directive, HeartbeatRequest, heartbeat};
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::requeue::requeue;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

async fn directive(client: &Client, runner: &Runner, run_id: Uuid, claim_id: Uuid) -> Directive {
    let request = HeartbeatRequest { claim_id, progress: None };
    heartbeat(client, &runner.authenticated, TERMS, run_id, &request).await.unwrap().directive
}

#[tokio::test]
async fn requeue_makes_failed_and_cancelled_rows_claimable_with_no_attempts_counted() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let run_id = fixture::split_run(&client).await;
    let held = fixture::claim_next(&client, &runner).await;
    cancel(&client, &fixture::admin(), run_id, None).await.unwrap();
    client
        .batch_execute(
            "UPDATE run_queue SET status = 'FAILED', attempt_count = 5
              WHERE queue_id = (SELECT queue_id FROM run_queue WHERE claim_id IS NULL LIMIT 1)",
        )
        .await
        .unwrap();

    let requeued = requeue(&client, &fixture::admin(), run_id, Some("once more")).await.unwrap();
    assert_eq!((requeued.run_id, requeued.rows_requeued), (run_id, 3));
    // The runner of the cancelled row may not have sent a heartbeat since the cancel.
    assert_eq!(directive(&client, &runner, run_id, held.claim_id).await, Directive::Cancel);
    for _ in 0..3 {
        let job = fixture::claim_next(&client, &runner).await;
        assert_eq!((job.attempt, job.run_id), (1, run_id));
        assert_ne!(job.claim_id, held.claim_id);
    }
    // Live rows are not requeued.
    assert_eq!(requeue(&client, &fixture::admin(), run_id, None).await.unwrap().rows_requeued, 0);
    assert_eq!(fixture::statuses(&client, run_id).await, ["CLAIMED", "CLAIMED", "CLAIMED"]);
}

#[tokio::test]
async fn requeue_makes_a_deferred_row_claimable_at_once() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let run_id = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    client
        .execute("UPDATE run_queue SET retry_after = now() + interval '1 h', attempt_count = 3", &[])
        .await
        .unwrap();
    assert_eq!(requeue(&client, &fixture::admin(), run_id, None).await.unwrap().rows_requeued, 1);
    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!(job.attempt, 1);
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    let complete = requeue(&client, &fixture::admin(), run_id, None).await;
    assert!(matches!(complete, Err(Error::RunFinished(_))), "{complete:?}");
    let unknown = requeue(&client, &fixture::admin(), Uuid::new_v4(), None).await;
    assert!(matches!(unknown, Err(Error::RunNotFound)), "{unknown:?}");
}

/// T1: the claim lapses. T2: an admin requeues the row. T3: the first runner submits its result.
#[tokio::test]
async fn a_late_result_is_accepted_after_a_requeue() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let mut run = fixture::run();
    run["max_attempts"] = json!(0);
    let run_id = fixture::enqueue_run(&client, &run).await.run_id;
    let job = fixture::claim_next(&client, &runner).await;
    fixture::expire_lease(&client, &job).await;
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    requeue(&client, &fixture::admin(), run_id, None).await.unwrap();
    assert!(fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap().late);
}

//! Walks one job through every state of the README's state diagram, by the operation of each edge.

use bakeoff_core::queue::claim::Job;
use bakeoff_core::queue::heartbeat::{Directive, HeartbeatRequest, heartbeat};
use bakeoff_core::queue::reap::reap;
use bakeoff_core::queue::release::{ReleaseRequest, release};
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::requeue::requeue;
use bakeoff_core::runs::status::status;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::Client;

async fn send_heartbeat(client: &Client, runner: &Runner, job: &Job) -> Directive {
    let request = HeartbeatRequest { claim_id: job.claim_id, progress: None };
    heartbeat(client, &runner.authenticated, TERMS, job.run_id, &request).await.unwrap().directive
}

async fn release_job(client: &Client, runner: &Runner, job: &Job, failure: serde_json::Value) {
    let body = json!({ "claim_id": job.claim_id, "failure": failure });
    let request = ReleaseRequest::parse(&body.to_string()).unwrap();
    release(client, &runner.authenticated, job.run_id, &request).await.unwrap();
}

#[tokio::test]
async fn a_job_goes_through_every_state() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let mut run = fixture::run();
    run["max_attempts"] = json!(2);
    let run_id = fixture::enqueue_run(&client, &run).await.run_id;
    let run_status = async || status(&client, &runner.authenticated, run_id).await.unwrap().status;
    assert_eq!(run_status().await, "PENDING");

    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!(run_status().await, "CLAIMED");
    release_job(&client, &runner, &job, json!(null)).await;
    assert_eq!(run_status().await, "PENDING");

    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!(send_heartbeat(&client, &runner, &job).await, Directive::Continue);
    assert_eq!(run_status().await, "IN_PROGRESS");
    release_job(&client, &runner, &job, json!({ "code": "infra_error" })).await;
    assert_eq!(run_status().await, "PENDING");
    client.execute("UPDATE run_queue SET retry_after = now()", &[]).await.unwrap();
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();

    let lapsed = fixture::claim_next(&client, &runner).await;
    assert_eq!(lapsed.attempt, 2);
    fixture::expire_lease(&client, &lapsed).await;
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    assert_eq!(run_status().await, "PENDING");

    let job = fixture::claim_next(&client, &runner).await;
    release_job(&client, &runner, &job, json!({ "code": "oom" })).await;
    assert_eq!(run_status().await, "FAILED");

    requeue(&client, &fixture::admin(), run_id, None).await.unwrap();
    assert_eq!(run_status().await, "PENDING");
    let job = fixture::claim_next(&client, &runner).await;
    cancel(&client, &fixture::admin(), run_id, None).await.unwrap();
    assert_eq!(run_status().await, "CANCELLED");
    assert_eq!(send_heartbeat(&client, &runner, &job).await, Directive::Cancel);

    requeue(&client, &fixture::admin(), run_id, None).await.unwrap();
    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!(send_heartbeat(&client, &runner, &job).await, Directive::Continue);
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    assert_eq!(run_status().await, "COMPLETE");

    // All six claims have different ids, and none is lost.
    let ids = "SELECT count(*), count(DISTINCT claim_id) FROM (
                   SELECT claim_id FROM past_claims UNION ALL SELECT claim_id FROM run_queue) AS claims";
    let ids = client.query_one(ids, &[]).await.unwrap();
    assert_eq!((ids.get::<_, i64>(0), ids.get::<_, i64>(1)), (6, 6));
}

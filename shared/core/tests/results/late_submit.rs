//! Tests of late results: the claim lapsed before the submit.

use super::submit::count;
use bakeoff_core::Error;
use bakeoff_core::queue::reap::reap;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, TERMS};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

#[tokio::test]
async fn a_result_after_lease_expiry_but_before_the_reaper_is_not_late() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    fixture::expire_lease(&client, &job).await;
    assert!(!fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap().late);
}

#[tokio::test]
async fn a_late_result_completes_a_pending_row() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    fixture::lapse_and_reap(&client, &job).await;
    let result = fixture::result(&job);
    let accepted = fixture::submit_result(&client, &runner, &job, &result).await.unwrap();
    assert!(accepted.late && fixture::service_keys().verify_receipt(&accepted.receipt).unwrap().late);
    let row = fixture::queue_row(&client, &job).await;
    assert_eq!((row.get("status"), row.get::<_, Uuid>("claim_id")), ("COMPLETE", job.claim_id));
    assert_eq!(count(&client, "past_claims").await, 0);
    let again = fixture::submit_result(&client, &runner, &job, &result).await.unwrap();
    assert_eq!(again.receipt, accepted.receipt);
}

#[tokio::test]
async fn a_late_result_completes_a_row_that_another_runner_holds() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let other = fixture::runner(&client, "other").await;
    fixture::lapse_and_reap(&client, &job).await;
    let held = fixture::claim_next(&client, &other).await;
    assert_eq!(held.queue_id, job.queue_id);

    assert!(fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap().late);
    let past = client.query_one("SELECT claim_id, ended_by FROM past_claims", &[]).await.unwrap();
    assert_eq!((past.get::<_, Uuid>("claim_id"), past.get("ended_by")), (held.claim_id, "superseded"));
    // The same result again, but from another runner: the receipt belongs to the runner that submitted first.
    let refused = fixture::submit_result(&client, &other, &held, &fixture::result(&held)).await;
    assert!(matches!(refused, Err(Error::RunFinished(_))), "{refused:?}");
    let mut another = fixture::result(&held);
    another["provenance"]["seed"] = json!(1);
    let refused = fixture::submit_result(&client, &other, &held, &another).await;
    assert!(matches!(refused, Err(Error::RunFinished(_))), "{refused:?}");
}

#[tokio::test]
async fn a_late_result_completes_a_failed_row() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job_of(&client, &fixture::run_with_attempts(0)).await;
    fixture::lapse_and_reap(&client, &job).await;
    assert_eq!(fixture::queue_row(&client, &job).await.get::<_, &str>("status"), "FAILED");
    assert!(fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap().late);
    let row = fixture::queue_row(&client, &job).await;
    assert_eq!((row.get("status"), row.get::<_, Option<&str>>("error_detail")), ("COMPLETE", None));
}

/// T1: the first runner's claim lapses. T2: the second runner claims the row, and its claim lapses too. Then both
/// submit.
#[tokio::test]
async fn the_first_of_two_late_results_is_accepted() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let other = fixture::runner(&client, "other").await;
    fixture::lapse_and_reap(&client, &job).await;
    let second = fixture::claim_next(&client, &other).await;
    fixture::lapse_and_reap(&client, &second).await;
    let mut result = fixture::result(&second);
    result["provenance"]["seed"] = json!(2);
    assert!(fixture::submit_result(&client, &other, &second, &result).await.unwrap().late);
    let refused = fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await;
    assert!(matches!(refused, Err(Error::RunFinished(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_submit_concurrent_with_the_reaper_completes_the_row() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    let runner = fixture::runner(&one, "bench").await;
    for _ in 0..15 {
        fixture::enqueue_run(&one, &fixture::run()).await;
        let job = fixture::claim_next(&one, &runner).await;
        let result = fixture::result(&job);
        fixture::expire_lease(&one, &job).await;
        let (accepted, _) = tokio::join!(
            fixture::submit_result(&one, &runner, &job, &result),
            reap(&other, TERMS, Duration::from_secs(5))
        );
        let accepted = accepted.unwrap();
        let receipt = fixture::service_keys().verify_receipt(&accepted.receipt).unwrap();
        assert_eq!(accepted.late, receipt.late);
        assert_eq!(fixture::queue_row(&one, &job).await.get::<_, &str>("status"), "COMPLETE");
    }
}

//! Tests of releases: returning a job, and reporting a failed attempt.

use bakeoff_core::Error;
use bakeoff_core::queue::claim::Job;
use bakeoff_core::queue::release::{ReleaseRequest, Released, release};
use bakeoff_core::runners::revoke::revoke;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

async fn release_job(client: &Client, runner: &Runner, job: &Job) -> Result<Released, Error> {
    let request = ReleaseRequest { claim_id: job.claim_id, failure: None };
    release(client, &runner.authenticated, job.run_id, &request).await
}

async fn fail_job(client: &Client, runner: &Runner, job: &Job) -> Result<Released, Error> {
    let body = json!({ "claim_id": job.claim_id, "failure": { "code": "oom", "detail": "at layer 3" } });
    let request = ReleaseRequest::parse(&body.to_string()).unwrap();
    release(client, &runner.authenticated, job.run_id, &request).await
}

/// Seconds that the row waits for its retry.
async fn wait_s(client: &Client, job: &Job) -> Option<i32> {
    let wait =
        "SELECT extract(epoch FROM retry_after - updated_at)::integer FROM run_queue WHERE queue_id = $1";
    client.query_one(wait, &[&job.queue_id]).await.unwrap().get(0)
}

fn assert_no_claim(row: &tokio_postgres::Row) {
    assert_eq!(row.get::<_, Option<Uuid>>("claim_id"), None);
    assert_eq!(row.get::<_, Option<&str>>("claimed_by"), None);
    for time in ["claimed_at", "started_at", "lease_expires_at"] {
        assert_eq!(row.get::<_, Option<time::OffsetDateTime>>(time), None, "{time}");
    }
    assert_eq!(row.get::<_, Option<Value>>("progress"), None);
}

#[tokio::test]
async fn a_released_job_keeps_its_position_and_counts_no_attempt() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let first = fixture::enqueue_run(&client, &fixture::run()).await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let job = fixture::claim_next(&client, &runner).await;

    let released = release_job(&client, &runner, &job).await.unwrap();
    assert_eq!((released.status.as_str(), released.attempt_count), ("PENDING", 0));
    assert_eq!((released.queue_id, released.retry_after), (job.queue_id, None));
    assert_no_claim(&fixture::queue_row(&client, &job).await);
    let again = fixture::claim_next(&client, &runner).await;
    assert_eq!((again.run_id, again.attempt, again.priority), (first.run_id, 1, 100));
}

/// The harness's retry rule: a back-off of 5 min and a priority of +5, each times the number of failed attempts.
#[tokio::test]
async fn each_failed_attempt_has_a_longer_back_off_and_a_lower_priority_until_failed() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run_with_attempts(3)).await;

    for (attempt, priority) in [(1, 105), (2, 115), (3, 130)] {
        let job = fixture::claim_next(&client, &runner).await;
        assert_eq!(job.attempt, attempt);
        let released = fail_job(&client, &runner, &job).await.unwrap();
        assert_eq!((released.status.as_str(), released.attempt_count), ("PENDING", attempt));
        let row = fixture::queue_row(&client, &job).await;
        assert_no_claim(&row);
        assert_eq!(row.get::<_, i32>("priority"), priority);
        assert_eq!(wait_s(&client, &job).await, Some(300 * attempt));
        assert_eq!(row.get::<_, &str>("error_detail"), "oom: at layer 3");
        assert!(released.retry_after.is_some());
        client.execute("UPDATE run_queue SET retry_after = now()", &[]).await.unwrap();
    }

    let job = fixture::claim_next(&client, &runner).await;
    let released = fail_job(&client, &runner, &job).await.unwrap();
    assert_eq!((released.status.as_str(), released.attempt_count), ("FAILED", 3));
    let row = fixture::queue_row(&client, &job).await;
    assert_no_claim(&row);
    assert!(row.get::<_, Option<time::OffsetDateTime>>("completed_at").is_some());
    assert_eq!(row.get::<_, i32>("priority"), 130);
    assert_eq!(wait_s(&client, &job).await, None);
}

#[tokio::test]
async fn with_max_attempts_0_the_first_failure_is_final() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job_of(&client, &fixture::run_with_attempts(0)).await;
    let released = fail_job(&client, &runner, &job).await.unwrap();
    assert_eq!((released.status.as_str(), released.attempt_count), ("FAILED", 0));
}

#[tokio::test]
async fn a_repeated_release_returns_the_same_and_changes_nothing() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;

    let first = release_job(&client, &runner, &job).await.unwrap();
    let again = release_job(&client, &runner, &job).await.unwrap();
    assert_eq!(format!("{first:?}"), format!("{again:?}"));

    let job = fixture::claim_next(&client, &runner).await;
    let first = fail_job(&client, &runner, &job).await.unwrap();
    let again = fail_job(&client, &runner, &job).await.unwrap();
    assert_eq!(format!("{first:?}"), format!("{again:?}"));
    assert_eq!(fixture::queue_row(&client, &job).await.get::<_, i32>("attempt_count"), 1);

    // The claim ended as a failed attempt, so a release without a failure is not a retry of it.
    let refused = release_job(&client, &runner, &job).await;
    assert!(matches!(refused, Err(Error::ClaimLost)), "{refused:?}");
}

/// The client timed out and sent the release again while the first one was still running.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_sent_twice_concurrently_succeeds_twice() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    let runner = fixture::runner(&one, "bench").await;
    fixture::enqueue_run(&one, &fixture::run()).await;
    for _ in 0..20 {
        let job = fixture::claim_next(&one, &runner).await;
        let (a, b) = tokio::join!(release_job(&one, &runner, &job), release_job(&other, &runner, &job));
        assert_eq!((a.unwrap().status, b.unwrap().status), ("PENDING".to_owned(), "PENDING".to_owned()));
    }
}

#[tokio::test]
async fn only_the_holder_of_a_live_claim_may_release_it() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let other = fixture::runner(&client, "other").await;
    let lost = |answer: Result<Released, Error>| {
        assert!(matches!(answer, Err(Error::ClaimLost)), "{answer:?}");
    };
    lost(release_job(&client, &other, &job).await);
    lost(fail_job(&client, &other, &job).await);
    lost(release_job(&client, &runner, &Job { run_id: Uuid::new_v4(), ..job.clone() }).await);
    lost(release_job(&client, &runner, &Job { claim_id: Uuid::new_v4(), ..job.clone() }).await);
    assert_eq!(fixture::queue_row(&client, &job).await.get::<_, &str>("status"), "CLAIMED");

    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    lost(fail_job(&client, &runner, &job).await);
    assert_eq!(fixture::queue_row(&client, &job).await.get::<_, &str>("status"), "COMPLETE");
}

#[tokio::test]
async fn a_release_with_a_revoked_key_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    release_job(&client, &runner, &job).await.unwrap();
    revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    let refused = release_job(&client, &runner, &job).await;
    assert!(matches!(refused, Err(Error::KeyNotAllowed)), "{refused:?}");
}

#[test]
fn every_invalid_field_of_a_release_is_reported() {
    let claim_id = Uuid::new_v4();
    for (body, expected) in [
        (json!({}), vec!["/claim_id"]),
        (json!({ "claim_id": claim_id, "failure": "oom" }), vec!["/failure"]),
        (
            json!({ "claim_id": claim_id, "failure": { "code": "oops", "detail": "\0", "x": 1 } }),
            vec!["/failure/code", "/failure/detail", "/failure/x"],
        ),
    ] {
        let errors = ReleaseRequest::parse(&body.to_string()).unwrap_err();
        let pointers: Vec<&str> = errors.iter().map(|field_error| field_error.pointer.as_str()).collect();
        assert_eq!(pointers, expected);
    }
}

//! Tests of runners that fail every job: their claims pause, for longer each time.

use bakeoff_core::queue::claim::{ClaimOutcome, ClaimRequest, Job, claim};
use bakeoff_core::queue::explain::explain;
use bakeoff_core::queue::lease::LeaseTerms;
use bakeoff_core::queue::overview::overview;
use bakeoff_core::queue::public_overview::public_overview;
use bakeoff_core::queue::reap::reap;
use bakeoff_core::queue::release::{ReleaseRequest, release};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::Client;

async fn next(client: &Client, runner: &Runner) -> ClaimOutcome {
    claim(client, &runner.authenticated, TERMS, &ClaimRequest::default()).await.unwrap()
}

async fn fail(client: &Client, runner: &Runner, job: &Job) {
    let body = json!({ "claim_id": job.claim_id, "failure": { "code": "infra_error" } });
    let request = ReleaseRequest::parse(&body.to_string()).unwrap();
    release(client, &runner.authenticated, job.run_id, &request).await.unwrap();
}

/// Fails jobs, each a new one.
async fn fail_jobs(client: &Client, runner: &Runner, count: usize) {
    for _ in 0..count {
        fixture::enqueue_run(client, &fixture::run()).await;
        let job = fixture::claim_next(client, runner).await;
        fail(client, runner, &job).await;
    }
}

/// For how long the runner's claims are paused, in seconds.
async fn pause(client: &Client, runner: &Runner) -> Option<u64> {
    match next(client, runner).await {
        ClaimOutcome::Paused { retry_after_s } => Some(retry_after_s),
        ClaimOutcome::Claimed(job) => panic!("{job:?}"),
        ClaimOutcome::NoJob => None,
    }
}

async fn end_pause(client: &Client) {
    let end =
        "UPDATE runners SET claims_paused_until = now() - interval '1 s' WHERE claims_paused_until > now()";
    assert_eq!(client.execute(end, &[]).await.unwrap(), 1);
}

#[tokio::test]
async fn from_the_fifth_failure_in_a_row_claims_pause_for_longer_each_time() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fail_jobs(&client, &runner, 4).await;
    assert_eq!(pause(&client, &runner).await, None);
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
        fail_jobs(&client, &runner, 1).await;
        fixture::enqueue_run(&client, &fixture::run()).await;
        let seconds = pause(&client, &runner).await.unwrap();
        assert!((minutes * 60 - 5..=minutes * 60).contains(&seconds), "{seconds} s instead of {minutes} min");
        end_pause(&client).await;
    }
    // Another runner is not paused.
    let other = fixture::runner(&client, "other").await;
    assert!(next(&client, &other).await.job().is_some());
}

#[tokio::test]
async fn a_pause_is_explained_and_counted() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fail_jobs(&client, &runner, 5).await;
    let explanation = explain(&client, &runner.authenticated, &ClaimRequest::default()).await.unwrap();
    assert_eq!(explanation.failures_in_a_row, 5);
    assert!(explanation.paused_until.is_some());
    let reaped = reap(&client, LeaseTerms::default(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(reaped.queue.failing_runners, 1);
    assert!(overview(&client).await.unwrap().runners[0].paused_until.is_some());
    assert_eq!(public_overview(&client, false).await.unwrap().runners_failing, 1);

    end_pause(&client).await;
    let explanation = explain(&client, &runner.authenticated, &ClaimRequest::default()).await.unwrap();
    assert_eq!((explanation.failures_in_a_row, explanation.paused_until), (5, None));
}

#[tokio::test]
async fn an_accepted_result_ends_the_row_of_failures() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fail_jobs(&client, &runner, 4).await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let job = fixture::claim_next(&client, &runner).await;
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    fail_jobs(&client, &runner, 4).await;
    assert_eq!(pause(&client, &runner).await, None);

    fail_jobs(&client, &runner, 1).await;
    assert!(pause(&client, &runner).await.is_some());
}

#[tokio::test]
async fn a_renewed_token_or_a_restart_ends_no_pause() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fail_jobs(&client, &runner, 5).await;
    let before = pause(&client, &runner).await.unwrap();
    let mut registration = runner.machine.registration();
    // A restart has another process and may be of another version.
    registration["process_id"] = json!(4711);
    registration["description"] = json!("bakeoff-runner 0.2.0");
    let runner = runner.machine.register(&client, &registration).await;
    assert!(pause(&client, &runner).await.unwrap() + 5 >= before);
    let explanation = explain(&client, &runner.authenticated, &ClaimRequest::default()).await.unwrap();
    assert_eq!(explanation.failures_in_a_row, 5);
}

#[tokio::test]
async fn a_registration_that_offers_something_else_ends_the_pause() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut runner = fixture::runner(&client, "bench").await;
    for capabilities in [
        json!({ "vram_gb": 16, "quantizations": ["q4_k_m", "q8_0"] }),
        json!({ "vram_gb": 16, "quantizations": ["q4_k_m"] }),
        json!({ "vram_gb": 16, "quantizations": ["q4_k_m"], "labels": { "driver": "560" } }),
    ] {
        fail_jobs(&client, &runner, 5).await;
        assert!(pause(&client, &runner).await.is_some());
        let mut registration = runner.machine.registration();
        registration["capabilities"] = capabilities;
        runner = runner.machine.register(&client, &registration).await;
        assert_eq!(pause(&client, &runner).await, None);
    }
}

#[tokio::test]
async fn jobs_handed_back_do_not_count_and_a_paused_runner_keeps_its_live_claim() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    for _ in 0..6 {
        let job = fixture::claim_next(&client, &runner).await;
        let request = ReleaseRequest { claim_id: job.claim_id, failure: None };
        release(&client, &runner.authenticated, job.run_id, &request).await.unwrap();
    }
    let live = fixture::claim_next(&client, &runner).await;
    fail_jobs(&client, &runner, 5).await;
    let same = ClaimRequest { claim_id: Some(live.claim_id), capabilities: None };
    let again = claim(&client, &runner.authenticated, TERMS, &same).await.unwrap();
    assert_eq!(again.job().unwrap().queue_id, live.queue_id);
}

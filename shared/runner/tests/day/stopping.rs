//! Cancel, Ctrl-C, and a key that is revoked in mid-job.

use bakeoff_local::sandbox::proxy::Operation;
use bakeoff_runner::key::RunnerKey;
use http::StatusCode;
use serde_json::json;

use crate::day::Day;

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_harness_is_stopped_even_if_it_ignores_sigint() {
    let day = Day::begin("cancel").await;
    let mut runner = day.runner(&[]);
    for what in ["hang", "ignore_sigint"] {
        let run_id = day.enqueue(json!({ "do": what })).await;
        day.until_started(run_id).await;
        assert!(!day.children().is_empty());
        let cancel = format!("/api/admin/runs/{run_id}/cancel");
        day.admin.admin_post(&cancel, &json!({})).await.unwrap().expect_status(StatusCode::OK).unwrap();
        day.until("the end of the harness", async || day.children().is_empty()).await;
        assert_eq!(day.row(run_id).await, ("CANCELLED".to_owned(), 0));
    }
    // It takes the next job.
    let run_id = day.enqueue(json!({})).await;
    day.until_status(run_id, "COMPLETE").await;
    runner.signal("INT");
    runner.ended_well().await;
    assert!(runner.said().contains("did not stop by itself"), "{}", runner.said());
    assert_eq!(day.asked(Operation::Release).len(), 0, "a cancelled job is not handed back");
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_finishes_the_job_and_twice_hands_it_back() {
    let day = Day::begin("ctrl-c").await;
    let (hold, stanza) = day.hold("hold");
    let (first, second) = (day.enqueue(stanza).await, day.enqueue(json!({ "do": "hang" })).await);
    let mut runner = day.runner(&[]);
    day.until_started(first).await;
    runner.signal("INT");
    day.release(&hold);
    runner.ended_well().await;
    assert_eq!(day.row(first).await.0, "COMPLETE");
    assert_eq!(day.row(second).await.0, "PENDING", "no other job is taken");

    let mut runner = day.runner(&[]);
    day.until_started(second).await;
    runner.signal("INT");
    day.until("the first Ctrl-C", async || day.row(second).await.0 == "IN_PROGRESS").await;
    runner.signal("INT");
    runner.ended_well().await;
    assert_eq!(day.row(second).await, ("PENDING".to_owned(), 0), "no attempt is counted");

    let mut runner = day.runner(&[]);
    day.until("another start", async || day.starts(second).len() == 2).await;
    runner.signal("TERM");
    runner.ended_well().await;
    assert_eq!(day.row(second).await, ("PENDING".to_owned(), 0));
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_stops_the_work_and_an_allowed_one_goes_on() {
    let day = Day::begin("revoked").await;
    let run_id = day.enqueue(json!({ "do": "hang" })).await;
    let mut runner = day.runner(&[]);
    day.until_started(run_id).await;
    let revoke = format!("/api/admin/keys/{}", day.key_id);
    day.admin.admin_delete(&revoke).await.unwrap().expect_status(StatusCode::OK).unwrap();
    assert_eq!(runner.ended().await.code(), Some(3));
    let public_key = RunnerKey::read(&day.key).unwrap().public_base64();
    assert!(runner.said().contains(&public_key), "it says what an admin must allow: {}", runner.said());
    assert_eq!(day.children(), Vec::<String>::new());
    assert_eq!(day.row(run_id).await.0, "PENDING");

    assert_eq!(day.runner(&["--once"]).ended().await.code(), Some(3));
    day.allow(&public_key).await;
    let cancel = format!("/api/admin/runs/{run_id}/cancel");
    day.admin.admin_post(&cancel, &json!({})).await.unwrap().expect_status(StatusCode::OK).unwrap();
    let next = day.enqueue(json!({})).await;
    day.runner(&["--once"]).ended_well().await;
    assert_eq!(day.row(next).await.0, "COMPLETE");
    day.end().await;
}

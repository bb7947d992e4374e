//! Tests of cancelling a run.

use bakeoff_core::Error;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn cancel_ends_the_rows_that_have_not_ended() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let run_id = fixture::split_run(&client).await;
    let done = fixture::claim_next(&client, &runner).await;
    fixture::submit_result(&client, &runner, &done, &fixture::result(&done)).await.unwrap();
    fixture::claim_next(&client, &runner).await;

    let cancelled = cancel(&client, &fixture::admin(), run_id, Some("wrong prompts")).await.unwrap();
    assert_eq!((cancelled.run_id, cancelled.rows_cancelled), (run_id, 2));
    assert_eq!(fixture::statuses(&client, run_id).await, ["CANCELLED", "CANCELLED", "COMPLETE"]);
    let row =
        "SELECT error_detail, completed_at IS NOT NULL AS ended FROM run_queue WHERE status = 'CANCELLED'";
    for row in client.query(row, &[]).await.unwrap() {
        assert_eq!((row.get("error_detail"), row.get("ended")), ("wrong prompts", true));
    }
    let again = cancel(&client, &fixture::admin(), run_id, None).await.unwrap();
    assert_eq!(again.rows_cancelled, 0);
    let lines = "SELECT detail FROM audit_log WHERE action = 'run.cancel'";
    let lines = client.query(lines, &[]).await.unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].get::<_, Value>(0), json!({ "reason": "wrong prompts", "rows": 2 }));
}

#[tokio::test]
async fn cancelling_an_unknown_or_completed_run_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let unknown = cancel(&client, &fixture::admin(), Uuid::new_v4(), None).await;
    assert!(matches!(unknown, Err(Error::RunNotFound)), "{unknown:?}");
    fixture::enqueue_run(&client, &fixture::run()).await;
    let job = fixture::claim_next(&client, &runner).await;
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    let ended = cancel(&client, &fixture::admin(), job.run_id, None).await;
    assert!(matches!(ended, Err(Error::RunFinished(_))), "{ended:?}");
}

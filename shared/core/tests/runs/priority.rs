//! Changing a run's priority.

use bakeoff_core::Error;
use bakeoff_core::audit_trail::{self, Filter};
use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::priority::set_priority;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, TERMS};
use serde_json::json;
use uuid::Uuid;

/// A claim has stepped over the run and remembers that nothing that fits stands before its cursor.
#[tokio::test]
async fn a_run_put_first_is_claimed_first_behind_a_cursor() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    for _ in 0..3 {
        fixture::enqueue_run(&client, &fixture::run()).await;
    }
    let last = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    fixture::claim_next(&client, &runner).await;
    let cursors = client.query_one("SELECT count(*) FROM claim_cursors", &[]).await.unwrap();
    assert_eq!(cursors.get::<_, i64>(0), 1);

    let changed = set_priority(&client, &fixture::admin(), last, 1).await.unwrap();
    assert_eq!((changed.priority, changed.rows_changed), (1, 1));
    assert_eq!(set_priority(&client, &fixture::admin(), last, 1).await.unwrap().rows_changed, 0);
    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!((job.run_id, job.priority), (last, 1));

    let filter = Filter { action: Some("run.priority".into()), ..Filter::default() };
    let trail = audit_trail::list(&client, &filter, None, 10).await.unwrap().entries;
    assert_eq!(trail.len(), 1, "{trail:?}");
    assert_eq!(trail[0].detail, json!({ "priority": 1, "before": 100, "rows": 1 }));
}

#[tokio::test]
async fn a_run_put_last_waits_for_the_others() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let first = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    let second = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    set_priority(&client, &fixture::admin(), first, 1_000_000).await.unwrap();
    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!(job.run_id, second);
    // A held row takes the new priority with it when it comes back.
    assert_eq!(set_priority(&client, &fixture::admin(), second, 7).await.unwrap().rows_changed, 1);
    assert_eq!(fixture::claim_next(&client, &runner).await.run_id, first);
    assert!(claim(&client, &runner.authenticated, TERMS, &ClaimRequest::default()).await.unwrap().is_none());

    cancel(&client, &fixture::admin(), first, None).await.unwrap();
    let ended = set_priority(&client, &fixture::admin(), first, 1).await;
    assert!(matches!(ended, Err(Error::RunFinished(_))), "{ended:?}");
    let unknown = set_priority(&client, &fixture::admin(), Uuid::new_v4(), 1).await;
    assert!(matches!(unknown, Err(Error::RunNotFound)), "{unknown:?}");
}

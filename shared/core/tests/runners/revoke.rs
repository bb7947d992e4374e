//! Tests of revocation: it returns the key's live claims in the same transaction.

use bakeoff_core::Error;
use bakeoff_core::runners::revoke::{parse_reason, revoke};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use serde_json::{Value, json};
use tokio_postgres::Row;

#[tokio::test]
async fn revoking_returns_only_the_keys_live_claims_and_counts_no_attempt() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let other = fixture::runner(&client, "other").await;
    for _ in 0..5 {
        fixture::enqueue_run(&client, &fixture::run()).await;
    }
    let jobs = [fixture::claim_next(&client, &runner).await, fixture::claim_next(&client, &runner).await];
    let done = fixture::claim_next(&client, &runner).await;
    fixture::submit_result(&client, &runner, &done, &fixture::result(&done)).await.unwrap();
    let others = fixture::claim_next(&client, &other).await;

    let revoked = revoke(&client, &fixture::admin(), &runner.machine.key_id(), Some("lost")).await.unwrap();
    assert_eq!((revoked.key_id, revoked.claims_returned), (runner.machine.key_id(), 2));
    let status = async |queue_id| -> Row {
        let row = "SELECT status, attempt_count, priority, claim_id IS NULL AS free FROM run_queue
                    WHERE queue_id = $1";
        client.query_one(row, &[&queue_id]).await.unwrap()
    };
    for job in &jobs {
        let row = status(job.queue_id).await;
        assert_eq!((row.get("status"), row.get("attempt_count"), row.get("priority")), ("PENDING", 0, 100));
        assert!(row.get::<_, bool>("free"));
        let past = "SELECT runner_id, ended_by FROM past_claims WHERE claim_id = $1";
        let past = client.query_one(past, &[&job.claim_id]).await.unwrap();
        assert_eq!((past.get("runner_id"), past.get("ended_by")), ("bench", "revoked"));
    }
    assert_eq!(status(done.queue_id).await.get::<_, &str>("status"), "COMPLETE");
    assert_eq!(status(others.queue_id).await.get::<_, &str>("status"), "CLAIMED");

    let line = "SELECT actor, subject, detail FROM audit_log WHERE action = 'key.revoke'";
    let line = client.query_one(line, &[]).await.unwrap();
    assert_eq!(line.get::<_, &str>("actor"), fixture::admin().principal());
    assert_eq!(line.get::<_, Value>("detail"), json!({ "reason": "lost", "claims_returned": 2 }));
}

#[tokio::test]
async fn revoking_a_key_twice_changes_nothing() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let key_id = runner.machine.key_id();
    let first = revoke(&client, &fixture::admin(), &key_id, Some("lost")).await.unwrap();
    let again = revoke(&client, &fixture::admin(), &key_id, Some("found")).await.unwrap();
    assert_eq!((again.revoked_at, again.claims_returned), (first.revoked_at, 0));
    let kept = "SELECT revoked_reason, revoked_by FROM allowlist";
    let kept = client.query_one(kept, &[]).await.unwrap();
    assert_eq!((kept.get("revoked_reason"), kept.get("revoked_by")), ("lost", fixture::admin().principal()));

    let unknown = revoke(&client, &fixture::admin(), "no-such-key", None).await;
    assert!(matches!(unknown, Err(Error::KeyNotFound)), "{unknown:?}");
}

#[tokio::test]
async fn revoking_returns_the_claims_of_every_runner_of_the_key() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let second = fixture::Machine { name: "second".to_owned(), key: runner.machine.key.clone() };
    let body = second.registration();
    let second = second.register(&client, &body).await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    fixture::claim_next(&client, &runner).await;
    fixture::claim_next(&client, &second).await;
    let revoked = revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    assert_eq!(revoked.claims_returned, 2);
}

/// The harness's own tools set rows to CLAIMED before claim ids existed.
#[tokio::test]
async fn revoking_returns_a_claimed_row_without_a_claim_id() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let owner = database.owner().await;
    owner
        .batch_execute(
            "ALTER TABLE run_queue DROP CONSTRAINT run_queue_live_has_a_claim;
             UPDATE run_queue SET status = 'CLAIMED', claimed_by = 'bench', claimed_at = now();
             ALTER TABLE run_queue ADD CONSTRAINT run_queue_live_has_a_claim CHECK (
                 status NOT IN ('CLAIMED', 'IN_PROGRESS') OR claim_id IS NOT NULL) NOT VALID",
        )
        .await
        .unwrap();
    let revoked = revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    assert_eq!(revoked.claims_returned, 1);
    let status: String = client.query_one("SELECT status FROM run_queue", &[]).await.unwrap().get(0);
    assert_eq!(status, "PENDING");
}

#[test]
fn a_reason_is_optional_but_a_misspelt_field_is_refused() {
    assert_eq!(parse_reason(" \n"), Ok(None));
    assert_eq!(parse_reason("{}"), Ok(None));
    assert_eq!(parse_reason(r#"{"reason": "lost"}"#), Ok(Some("lost".to_owned())));
    for body in [r#"{"raeson": "lost"}"#, r#"{"reason": 1}"#, "lost"] {
        assert!(parse_reason(body).is_err(), "{body}");
    }
}

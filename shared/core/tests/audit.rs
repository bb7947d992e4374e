//! Tests of the audit log: which refusals are recorded, and that entries cannot be changed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_core::audit::record_refused_submission;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use serde_json::Value;
use uuid::Uuid;

#[tokio::test]
async fn audit_entries_cannot_be_changed_or_deleted() {
    let database = Database::create().await;
    let (client, owner) = (database.client().await, database.owner().await);
    fixture::enqueue_run(&client, &fixture::run()).await;
    for change in ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"] {
        let refused = owner.batch_execute(change).await.unwrap_err();
        assert!(refused.as_db_error().unwrap().message().contains("append-only"), "{change}: {refused:?}");
    }
    let lines = client.query_one("SELECT count(*) FROM audit_log WHERE actor <> 'x'", &[]).await.unwrap();
    assert_eq!(lines.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn refusals_that_may_indicate_an_attack_are_recorded() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let run_id = Uuid::new_v4();
    for error in [
        Error::SignatureInvalid("sha256".to_owned()),
        Error::SignerNotAllowed("somebody".to_owned()),
        Error::RunMismatch { signed: "another".to_owned() },
        // Errors in normal operation, which are not recorded.
        Error::ClaimLost,
        Error::KeyNotAllowed,
        Error::Invalid(Vec::new()),
    ] {
        record_refused_submission(&client, &runner.authenticated, run_id, &error).await.unwrap();
    }
    let lines =
        "SELECT action, actor, subject, detail FROM audit_log WHERE action LIKE 'submit.%' ORDER BY audit_id";
    let lines = client.query(lines, &[]).await.unwrap();
    let actions: Vec<&str> = lines.iter().map(|line| line.get("action")).collect();
    assert_eq!(actions, ["submit.signature_invalid", "submit.signer_not_allowed", "submit.run_mismatch"]);
    for line in &lines {
        assert_eq!((line.get("actor"), line.get::<_, String>("subject")), ("bench", run_id.to_string()));
        assert!(line.get::<_, Value>("detail")["why"].is_string());
    }
}

//! Tests of the audit log: which refusals are recorded, and that entries cannot be changed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_core::audit::record_refused_submission;
use bakeoff_core::audit_trail::{self, Filter};
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::priority::set_priority;
use bakeoff_core::runs::requeue::requeue;
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

/// What an allowed runner can make the service write is bounded, by its key and not by the name it goes by.
#[tokio::test]
async fn refusals_of_a_key_write_twenty_entries_an_hour_of_each_kind() {
    let database = Database::create().await;
    let client = database.client().await;
    let hostile = fixture::runner(&client, "hostile").await;
    let renamed = fixture::Machine { name: "renamed".into(), key: hostile.machine.key.clone() };
    let registration = renamed.registration();
    let renamed = renamed.register(&client, &registration).await;
    let other = fixture::runner(&client, "other").await;
    let refuse = async |runner: &fixture::Runner, error: &Error| {
        record_refused_submission(&client, &runner.authenticated, Uuid::new_v4(), error).await.unwrap();
        let entries = "SELECT count(*) FROM audit_log WHERE action LIKE 'submit.%'";
        client.query_one(entries, &[]).await.unwrap().get::<_, i64>(0)
    };
    let forged = Error::SignatureInvalid("sha256".to_owned());
    for sent in 1..=25 {
        assert_eq!(refuse(&hostile, &forged).await, sent.min(20));
    }
    assert_eq!(refuse(&renamed, &forged).await, 20, "another name of the same key");
    let last =
        "SELECT detail ? 'further_refusals' FROM audit_log WHERE action LIKE 'submit.%' ORDER BY audit_id";
    let marked: Vec<bool> = client.query(last, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(marked.iter().position(|marked| *marked), Some(19), "the last says that there may be more");
    assert_eq!(refuse(&hostile, &Error::RunMismatch { signed: "x".to_owned() }).await, 21, "another kind");
    assert_eq!(refuse(&other, &forged).await, 22, "another key");
    fixture::age_audit_log(&database.owner().await).await;
    assert_eq!(refuse(&hostile, &forged).await, 23, "an hour later there is room again");
}

#[tokio::test]
async fn the_trail_tells_who_did_what_newest_first_page_by_page() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let run_id = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    set_priority(&client, &fixture::admin(), run_id, 1).await.unwrap();
    cancel(&client, &fixture::admin(), run_id, Some("wrong model")).await.unwrap();
    requeue(&client, &fixture::admin(), run_id, None).await.unwrap();
    revoke(&client, &fixture::admin(), &runner.machine.key_id(), Some("sold")).await.unwrap();

    let all = Filter::default();
    let mut actions = Vec::new();
    let mut cursor = None;
    loop {
        let page = audit_trail::list(&client, &all, cursor.as_deref(), 2).await.unwrap();
        actions.extend(page.entries.into_iter().map(|entry| entry.action));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
        // What is written while the trail is read stands before the first page.
        revoke(&client, &fixture::admin(), &fixture::Machine::new("x").key_id(), None).await.unwrap_err();
    }
    assert_eq!(
        actions,
        ["key.revoke", "run.requeue", "run.cancel", "run.priority", "run.enqueue", "key.add"]
    );

    let of_key = Filter { subject: Some(runner.machine.key_id()), ..Filter::default() };
    let trail = audit_trail::list(&client, &of_key, None, 10).await.unwrap().entries;
    assert_eq!((trail.len(), trail[0].actor.as_str()), (2, fixture::admin().principal()));
    assert_eq!(trail[0].detail["reason"], "sold");
    let cancels = Filter { action: Some("run.cancel".into()), ..Filter::default() };
    let trail = audit_trail::list(&client, &cancels, None, 10).await.unwrap().entries;
    assert_eq!((trail.len(), trail[0].subject.clone()), (1, Some(run_id.to_string())));
    let nobody = Filter { actor: Some("nobody".into()), ..Filter::default() };
    assert!(audit_trail::list(&client, &nobody, None, 10).await.unwrap().entries.is_empty());
    let refused = audit_trail::list(&client, &all, Some("x"), 10).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

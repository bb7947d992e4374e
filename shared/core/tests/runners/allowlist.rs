//! Tests of the allowlist: adding entries, replacing expired ones, paging, and looking up signers.

use bakeoff_core::Error;
use bakeoff_core::runners::allowlist::{Added, NewEntry, add, list, signers};
use bakeoff_core::runners::revoke::revoke;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Machine};
use serde_json::{Value, json};
use tokio_postgres::Client;

async fn try_to_add(client: &Client, entry: &Value) -> Result<Added, Error> {
    add(client, &fixture::admin(), &NewEntry::parse(&entry.to_string()).unwrap()).await
}

fn runner_entry(name: &str) -> Value {
    json!({ "public_key": Machine::new(name).public_key().to_base64(), "label": name })
}

fn identity_entry(subject: &str) -> Value {
    let issuer = "https://token.actions.githubusercontent.com";
    json!({ "issuer": issuer, "subject": subject, "label": "packager" })
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn adding_an_active_key_again_changes_nothing() {
    let database = Database::create().await;
    let client = database.client().await;
    let first = try_to_add(&client, &runner_entry("bench")).await.unwrap();
    assert!(first.created);
    assert_eq!(first.entry.key_id, Machine::new("bench").key_id());
    assert_eq!((first.entry.kind.as_str(), first.entry.label.as_str()), ("ed25519", "bench"));
    assert_eq!(first.entry.public_key.unwrap(), Machine::new("bench").public_key().to_base64());
    assert_eq!(first.entry.added_by, fixture::admin().principal());

    let again = try_to_add(&client, &runner_entry("bench")).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.entry.added_at, first.entry.added_at);
    assert_eq!((count(&client, "allowlist").await, count(&client, "audit_log").await), (1, 1));
    let line = client.query_one("SELECT actor, action, subject, detail FROM audit_log", &[]).await.unwrap();
    assert_eq!((line.get("actor"), line.get("action")), (fixture::admin().principal(), "key.add"));
    assert_eq!(line.get::<_, String>("subject"), first.entry.key_id);
    assert_eq!(line.get::<_, Value>("detail"), json!({ "kind": "ed25519", "label": "bench" }));
}

#[tokio::test]
async fn an_active_key_with_another_expiry_or_runner_id_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut entry = runner_entry("bench");
    entry["expires_at"] = json!("2999-01-01T00:00:00.123456Z");
    try_to_add(&client, &entry).await.unwrap();
    assert!(!try_to_add(&client, &entry).await.unwrap().created);
    for (name, value) in [("expires_at", json!("2999-01-02T00:00:00Z")), ("runner_id", json!("bench"))] {
        let mut other = entry.clone();
        other[name] = value;
        let refused = try_to_add(&client, &other).await;
        assert!(matches!(refused, Err(Error::KeyExists)), "{name}: {refused:?}");
    }
}

#[tokio::test]
async fn adding_a_key_replaces_its_expired_entry() {
    let database = Database::create().await;
    let client = database.client().await;
    try_to_add(&client, &runner_entry("bench")).await.unwrap();
    database.owner().await.execute("UPDATE allowlist SET expires_at = now()", &[]).await.unwrap();
    let renewed = try_to_add(&client, &runner_entry("bench")).await.unwrap();
    assert!(renewed.created && renewed.entry.expires_at.is_none());
    let old = "SELECT revoked_reason FROM allowlist WHERE revoked_at IS NOT NULL";
    assert_eq!(client.query_one(old, &[]).await.unwrap().get::<_, &str>(0), "expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_concurrent_adds_create_one_entry() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    for number in 0..10 {
        let entry = runner_entry(&format!("bench-{number}"));
        let (a, b) = tokio::join!(try_to_add(&one, &entry), try_to_add(&other, &entry));
        let created = [a, b].into_iter().filter(|added| added.as_ref().is_ok_and(|added| added.created));
        assert_eq!(created.count(), 1);
    }
    assert_eq!(count(&one, "allowlist").await, 10);
}

#[tokio::test]
async fn allowing_a_revoked_key_again_creates_a_new_entry() {
    let database = Database::create().await;
    let client = database.client().await;
    let entry = try_to_add(&client, &runner_entry("bench")).await.unwrap().entry;
    revoke(&client, &fixture::admin(), &entry.key_id, Some("lost")).await.unwrap();
    let again = try_to_add(&client, &runner_entry("bench")).await.unwrap();
    assert!(again.created);
    assert_eq!(again.entry.key_id, entry.key_id);
    let keys = list(&client, None, 10).await.unwrap().keys;
    assert_eq!((keys.len(), keys[0].revoked_reason.as_deref(), keys[1].revoked_at), (2, Some("lost"), None));
}

#[tokio::test]
async fn pages_of_the_list_neither_skip_nor_repeat_entries() {
    let database = Database::create().await;
    let client = database.client().await;
    for number in 0..7 {
        try_to_add(&client, &runner_entry(&format!("bench-{number}"))).await.unwrap();
    }
    let mut labels = Vec::new();
    let mut cursor: Option<String> = None;
    let mut sizes = Vec::new();
    loop {
        let page = list(&client, cursor.as_deref(), 3).await.unwrap();
        sizes.push(page.keys.len());
        labels.extend(page.keys.into_iter().map(|key| key.label));
        // An entry added between two pages appears at the end.
        if sizes.len() == 1 {
            try_to_add(&client, &identity_entry("late")).await.unwrap();
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [3, 3, 2]);
    let expected: Vec<String> = (0..7).map(|n| format!("bench-{n}")).chain(["packager".to_owned()]).collect();
    assert_eq!(labels, expected);
    assert_eq!(list(&client, None, 0).await.unwrap().keys.len(), 1);
    assert!(list(&client, None, 8).await.unwrap().next_cursor.is_none());
    let refused = list(&client, Some("x"), 3).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn signers_returns_the_active_identities_of_an_issuer_and_subject() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut narrowed = identity_entry("a");
    narrowed["repository"] = json!("Rethunk-AI/bakeoff");
    narrowed["workflow"] = json!("package-results.yml");
    let plain = try_to_add(&client, &identity_entry("a")).await.unwrap().entry;
    let narrowed = try_to_add(&client, &narrowed).await.unwrap().entry;
    try_to_add(&client, &identity_entry("b")).await.unwrap();
    assert!(plain.key_id.starts_with("oidc:") && plain.key_id != narrowed.key_id);

    let issuer = "https://token.actions.githubusercontent.com";
    let mut found: Vec<String> =
        signers(&client, issuer, "a").await.unwrap().into_iter().map(|entry| entry.key_id).collect();
    found.sort();
    let mut expected = vec![plain.key_id.clone(), narrowed.key_id];
    expected.sort();
    assert_eq!(found, expected);
    assert!(signers(&client, "https://other.example", "a").await.unwrap().is_empty());
    assert!(signers(&client, issuer, "A").await.unwrap().is_empty());
    revoke(&client, &fixture::admin(), &plain.key_id, None).await.unwrap();
    assert_eq!(signers(&client, issuer, "a").await.unwrap().len(), 1);
    database.owner().await.execute("UPDATE allowlist SET expires_at = now()", &[]).await.unwrap();
    assert!(signers(&client, issuer, "a").await.unwrap().is_empty());
}

#[test]
fn every_invalid_field_of_an_entry_is_reported() {
    let mut identity_with_key = identity_entry("a");
    identity_with_key["public_key"] = json!("x");
    for (entry, expected) in [
        (json!({}), vec!["/public_key", "/label"]),
        (
            json!({ "public_key": "x", "label": "", "expires_at": "soon", "x": 1 }),
            vec!["/public_key", "/label", "/expires_at", "/x"],
        ),
        (json!({ "issuer": "https://i.example", "label": "l" }), vec!["/subject"]),
        (identity_with_key, vec!["/public_key"]),
    ] {
        let errors = NewEntry::parse(&entry.to_string()).unwrap_err();
        let pointers: Vec<&str> = errors.iter().map(|field_error| field_error.pointer.as_str()).collect();
        assert_eq!(pointers, expected);
    }
}

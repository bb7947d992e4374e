//! Keys that are not, no longer or not yet on the allowlist.

use bakeoff_testkit::fixture::{self, Machine};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::request::{Answer, Attempt, attempt, get, post};
use crate::target::{Target, target};

/// The ways in which a key can be off the allowlist, as changes of its entry.
pub(crate) const OFF: [(&str, &str); 3] = [
    ("revoked", "revoked_at = now(), revoked_by = 'an admin'"),
    ("expired", "expires_at = now() - interval '1 s'"),
    ("pinned to another name", "runner_id = 'somebody else'"),
];

pub(crate) async fn change(target: &Target, machine: &Machine, change: &str) {
    let sql = format!("UPDATE allowlist SET {change} WHERE key_id = $1 AND revoked_at IS NULL");
    assert_eq!(target.database.owner().await.execute(&sql, &[&machine.key_id()]).await.unwrap(), 1);
}

/// All of an answer that a caller sees and that may not tell the cases apart.
fn seen(answer: &Answer) -> (u16, Vec<String>, String) {
    let mut names: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["date", "x-request-id", "apigw-requestid"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    names.sort_unstable();
    (answer.status, names, answer.text.clone())
}

#[tokio::test]
async fn registering_tells_unknown_revoked_expired_and_pinned_keys_apart() {
    let target = target().await;
    let unknown = Machine::new("allowlist-unknown");
    let expected = target.registration(&unknown).send(&target).await;
    expected.refused(403, "key_not_allowed", "unknown");
    for (why, off) in OFF {
        let machine = target.allowed(&format!("allowlist {why}")).await;
        change(&target, &machine, off).await;
        let answer = target.registration(&machine).send(&target).await;
        assert_eq!(seen(&answer), seen(&expected), "{why}");
    }
}

/// Every route of a runner.
fn routes(run_id: Uuid, claim_id: Uuid) -> Vec<Attempt> {
    let claim = json!({ "claim_id": claim_id });
    let path = |action: &str| format!("/api/queue/{run_id}/{action}");
    vec![
        post("/api/queue/claim").json(&json!({})),
        post("/api/queue/claim?explain=true").json(&claim),
        post(&path("heartbeat")).json(&claim),
        post(&path("release")).json(&claim),
        post(&path("release"))
            .json(&json!({ "claim_id": claim_id, "failure": { "code": "oom", "detail": "x" } })),
        post(&path("submit")).json(&json!({ "claim_id": claim_id, "envelope": bad_envelope() })),
        get(&format!("/api/queue/{run_id}")),
    ]
}

/// Of the right shape, and signed by nobody.
fn bad_envelope() -> Value {
    json!({ "result": {}, "sig": {
        "sha256": "0".repeat(64), "signature": format!("{}==", "A".repeat(86)), "runner_id": "x",
        "signed_at": "2026-08-01T12:00:00Z",
    }})
}

/// A fingerprint of every row of every table.
async fn everything(target: &Target) -> Vec<(String, String)> {
    let client = target.database.owner().await;
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    let mut found = Vec::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let digest =
            format!("SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {table} t");
        found.push((table, client.query_one(&digest, &[]).await.unwrap().get(0)));
    }
    found
}

/// A stack of its own: no other test may write while the rows are compared.
#[tokio::test]
async fn a_token_goes_on_working_after_its_key_was_taken_off() {
    let target = Target::start().await;
    for (why, off) in OFF {
        let name = format!("allowlist token {why}");
        let (machine, token) = target.runner(&name).await;
        change(&target, &machine, off).await;
        let before = everything(&target).await;
        for attempt in routes(Uuid::new_v4(), Uuid::new_v4()) {
            let asked = format!("{why}: {attempt:?}");
            attempt.bearer(&token).send(&target).await.refused(403, "key_not_allowed", &asked);
        }
        assert_eq!(everything(&target).await, before, "{why}: a refused request wrote something");
    }
}

#[tokio::test]
async fn a_revoked_key_comes_back_under_another_spelling() {
    let target = target().await;
    let machine = target.allowed("allowlist-spelling").await;
    let path = format!("/api/admin/keys/{}", machine.key_id());
    attempt("DELETE", &path).admin().send(&target).await.success(200);
    let key = machine.public_key().to_base64();
    for spelling in [
        format!(" {key}"),
        format!("{key}\n"),
        key.replace('+', "-").replace('/', "_"),
        key.trim_end_matches('=').to_owned(),
        format!("ssh-ed25519 {key}"),
        format!("{key}{key}"),
    ] {
        let mut body = machine.registration();
        body["public_key"] = json!(spelling);
        let proof = machine.proof(&target.proof_claims(&machine));
        let attempt = post("/api/runners/register").header("dpop", &proof).json(&body);
        attempt.send(&target).await.refused_somehow(&spelling);
    }
    target.registration(&machine).send(&target).await.refused(403, "key_not_allowed", "as it was");
}

/// A flood of registrations with fresh keys costs its sender a signature each, and us a bounded number of
/// lines: 100 an hour for all unknown keys together, one an hour for each.
#[tokio::test]
async fn a_flood_of_registrations_with_unknown_keys_fills_the_audit_log() {
    let target = Target::start().await;
    let refused = "audit_log WHERE action = 'register.key_not_allowed'";
    let one = Machine::new("allowlist-flood");
    for _ in 0..5 {
        target.registration(&one).send(&target).await.refused(403, "key_not_allowed", "the same key");
    }
    assert_eq!(target.count(refused).await, 1, "one line an hour for one key");
    for machine in (0..120).map(|n| Machine::new(&format!("allowlist-flood-{n}"))) {
        target.registration(&machine).send(&target).await.refused(403, "key_not_allowed", "a fresh key");
    }
    assert_eq!(target.count(refused).await, 100);
    for nothing in ["runners", "spent_proofs", "allowlist"] {
        assert_eq!(target.count(nothing).await, 0, "{nothing}");
    }
    // An hour later there is room again.
    fixture::age_audit_log(&target.database.owner().await).await;
    target.registration(&one).send(&target).await.refused(403, "key_not_allowed", "an hour later");
    assert_eq!(target.count(refused).await, 101);
}

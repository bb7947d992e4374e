//! Tests of registration: proofs of possession, the allowlist, and ownership of a runner_id.

use bakeoff_core::Error;
use bakeoff_core::runners::proof::ProvenKey;
use bakeoff_core::runners::register::{Registered, Registration, register};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Machine, REGISTER_URL, SERVICE};
use serde_json::{Value, json};
use time::Duration;
use tokio_postgres::Client;

async fn try_with(client: &Client, proven: &ProvenKey, registration: &Value) -> Result<Registered, Error> {
    let registration = Registration::parse(&registration.to_string()).unwrap();
    register(client, &fixture::service_keys(), SERVICE, Duration::hours(1), proven, &registration).await
}

async fn try_to(client: &Client, machine: &Machine) -> Result<Registered, Error> {
    try_with(client, &machine.proven_key(&machine.proof_claims()), &machine.registration()).await
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn an_allowed_key_gets_a_token_and_a_row_in_runners() {
    let database = Database::create().await;
    let client = database.client().await;
    let machine = Machine::new("bench");
    machine.allow(&client).await;
    let mut body = machine.registration();
    body["process_id"] = json!(4242);
    body["effective_user"] = json!("bench");
    body["capabilities"] =
        json!({ "vram_gb": 24, "quantizations": ["Q4_K_M", "q9_z"], "labels": { "rack": 3 } });
    let proven = machine.proven_key(&machine.proof_claims());

    let registered = try_with(&client, &proven, &body).await.unwrap();
    assert_eq!(registered.runner_id, "bench");
    assert_eq!(registered.unknown_quantizations, ["q9_z"]);
    assert_eq!(registered.expires_at - registered.server_time, Duration::hours(1));
    let runner = fixture::service_keys().authenticate(SERVICE, &registered.token).unwrap();
    assert_eq!((runner.runner_id(), runner.key()), ("bench", &machine.public_key()));

    let row = client.query_one("SELECT * FROM runners", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>("public_key"), machine.public_key().to_base64());
    assert_eq!(row.get::<_, String>("key_id"), machine.key_id());
    assert_eq!((row.get("hostname"), row.get("effective_user")), ("bench-01", "bench"));
    assert_eq!((row.get::<_, i32>("process_id"), row.get("status")), (4242, "ACTIVE"));
    assert_eq!(row.get::<_, Vec<String>>("quantizations"), ["q4_k_m", "q9_z"]);
    assert_eq!(row.get::<_, Value>("labels"), json!({ "rack": 3 }));
}

#[tokio::test]
async fn without_a_runner_id_the_key_id_is_the_runner_id() {
    let database = Database::create().await;
    let client = database.client().await;
    let machine = Machine::new("bench");
    machine.allow(&client).await;
    let mut body = machine.registration();
    body.as_object_mut().unwrap().remove("runner_id");
    let proven = machine.proven_key(&machine.proof_claims());
    assert_eq!(try_with(&client, &proven, &body).await.unwrap().runner_id, machine.key_id());
}

#[tokio::test]
async fn a_stale_proof_returns_the_server_time_and_writes_nothing() {
    let database = Database::create().await;
    let client = database.client().await;
    let machine = Machine::new("bench");
    machine.allow(&client).await;
    for (off_by_s, fresh) in [(-70, false), (70, false), (-50, true), (50, true)] {
        let mut claims = machine.proof_claims();
        claims["iat"] = json!(claims["iat"].as_i64().unwrap() + off_by_s);
        let answer = try_with(&client, &machine.proven_key(&claims), &machine.registration()).await;
        match answer {
            Ok(_) => assert!(fresh, "{off_by_s}"),
            Err(Error::ProofStale { server_time, .. }) => {
                assert!(!fresh, "{off_by_s}");
                let ours = time::OffsetDateTime::now_utc();
                assert!((server_time - ours).abs() < Duration::seconds(30));
                assert_eq!((count(&client, "runners").await, count(&client, "spent_proofs").await), (0, 0));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_proof_sent_twice_concurrently_registers_once() {
    let database = Database::create().await;
    let (client, other) = (database.client().await, database.client().await);
    let machine = Machine::new("bench");
    machine.allow(&client).await;
    let body = machine.registration();
    for _ in 0..20 {
        let proven = machine.proven_key(&machine.proof_claims());
        let (a, b) = tokio::join!(try_with(&client, &proven, &body), try_with(&other, &proven, &body));
        assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
        let refused = a.err().or(b.err()).unwrap();
        assert!(matches!(refused, Error::ProofReplayed), "{refused:?}");
    }
}

/// A replay cache shorter than the accepted clock skew would accept a proof duplicate.
#[tokio::test]
async fn a_spent_proof_is_kept_longer_than_it_could_be_accepted() {
    let database = Database::create().await;
    let client = database.client().await;
    let machine = Machine::new("bench");
    machine.allow(&client).await;
    let mut claims = machine.proof_claims();
    claims["iat"] = json!(claims["iat"].as_i64().unwrap() + 55);
    try_with(&client, &machine.proven_key(&claims), &machine.registration()).await.unwrap();
    let enough = "SELECT forget_at > now() + interval '115 s' + interval '1 min' FROM spent_proofs";
    assert!(client.query_one(enough, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn unknown_revoked_expired_and_pinned_keys_get_the_same_error_and_an_audit_entry() {
    let database = Database::create().await;
    let client = database.client().await;
    // One key per case, because the audit log records at most one refusal an hour per key.
    for (name, change) in [
        ("unknown", None),
        ("expired", Some("expires_at = now()")),
        ("pinned", Some("runner_id = 'another'")),
        ("revoked", Some("revoked_at = now(), revoked_by = 'x'")),
    ] {
        let machine = Machine::new(name);
        if let Some(change) = change {
            machine.allow(&client).await;
            let change = format!("UPDATE allowlist SET {change} WHERE key_id = $1");
            database.owner().await.execute(&change, &[&machine.key_id()]).await.unwrap();
        }
        let before = count(&client, "audit_log").await;
        let refused = try_to(&client, &machine).await;
        assert!(matches!(refused, Err(Error::KeyNotAllowed)), "{name}: {refused:?}");
        assert_eq!(count(&client, "audit_log").await, before + 1);
        let line = "SELECT actor, action, subject FROM audit_log ORDER BY audit_id DESC LIMIT 1";
        let line = client.query_one(line, &[]).await.unwrap();
        assert_eq!(line.get::<_, String>("actor"), machine.key_id());
        assert_eq!((line.get("action"), line.get("subject")), ("register.key_not_allowed", name));
    }
    assert_eq!((count(&client, "runners").await, count(&client, "spent_proofs").await), (0, 0));
}

#[tokio::test]
async fn a_pinned_key_registers_under_its_own_runner_id() {
    let database = Database::create().await;
    let client = database.client().await;
    let machine = Machine::new("bench");
    machine.allow(&client).await;
    database.owner().await.execute("UPDATE allowlist SET runner_id = 'bench'", &[]).await.unwrap();
    try_to(&client, &machine).await.unwrap();
}

#[tokio::test]
async fn a_runner_id_belongs_to_the_first_key_that_registered_it() {
    let database = Database::create().await;
    let client = database.client().await;
    let (first, mut second) = (Machine::new("bench"), Machine::new("other"));
    second.name = "bench".to_owned();
    first.allow(&client).await;
    second.allow(&client).await;
    try_to(&client, &first).await.unwrap();
    let refused = try_to(&client, &second).await;
    assert!(matches!(refused, Err(Error::RunnerIdTaken)), "{refused:?}");
    let owner: String = client.query_one("SELECT key_id FROM runners", &[]).await.unwrap().get(0);
    assert_eq!(owner, first.key_id());
}

#[tokio::test]
async fn registering_again_keeps_the_runners_claims() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let job = fixture::claim_next(&client, &runner).await;
    client.execute("UPDATE runners SET status = 'DEAD', description = 'kept'", &[]).await.unwrap();

    let mut body = runner.machine.registration();
    body["capabilities"]["vram_gb"] = json!(48);
    let proven = runner.machine.proven_key(&runner.machine.proof_claims());
    try_with(&client, &proven, &body).await.unwrap();
    let row = client.query_one("SELECT status, vram_gb, description FROM runners", &[]).await.unwrap();
    assert_eq!((row.get("status"), row.get::<_, f64>("vram_gb")), ("ACTIVE", 48.0));
    assert_eq!(row.get::<_, &str>("description"), "kept");
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
}

/// The harness's own tools insert runners with a name and a public key, without a key_id.
#[tokio::test]
async fn a_key_takes_over_its_runner_inserted_by_the_harness() {
    let database = Database::create().await;
    let client = database.client().await;
    let machine = Machine::new("bench");
    machine.allow(&client).await;
    let insert = "INSERT INTO runners (runner_id, public_key) VALUES ($1, $2)";
    client.execute(insert, &[&"bench", &machine.public_key().to_base64()]).await.unwrap();
    try_to(&client, &machine).await.unwrap();
    let key_id: String = client.query_one("SELECT key_id FROM runners", &[]).await.unwrap().get(0);
    assert_eq!(key_id, machine.key_id());
}

#[tokio::test]
async fn a_proof_by_another_key_than_the_bodys_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let (machine, other) = (Machine::new("bench"), Machine::new("other"));
    machine.allow(&client).await;
    other.allow(&client).await;
    let proven = other.proven_key(&other.proof_claims());
    let refused = try_with(&client, &proven, &machine.registration()).await;
    assert!(matches!(refused, Err(Error::ProofInvalid(_))), "{refused:?}");
}

#[test]
fn a_proof_for_another_request_key_or_algorithm_is_refused() {
    let machine = Machine::new("bench");
    let good = machine.proof_claims();
    ProvenKey::from_proof(&machine.proof(&good), REGISTER_URL).unwrap();

    let proof_with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        machine.proof(&claims)
    };
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": machine.public_key().jwk_x() });
    let with_header = |header: Value| fixture::jwt(&header, &good, &machine.key);
    let stranger = Machine::new("stranger");
    let mut truncated = machine.proof(&good);
    truncated.pop();
    for (why, proof) in [
        ("another method", proof_with("htm", json!("GET"))),
        ("another route", proof_with("htu", json!("https://queue.example/api/queue/claim"))),
        ("another host", proof_with("htu", json!("https://evil.example/api/runners/register"))),
        ("no jti", proof_with("jti", json!(""))),
        ("a long jti", proof_with("jti", json!("j".repeat(129)))),
        ("no time", proof_with("iat", json!(-1))),
        ("a time for ever", proof_with("iat", json!(1e300))),
        ("another type", with_header(json!({ "typ": "JWT", "alg": "EdDSA", "jwk": jwk }))),
        ("no key", with_header(json!({ "typ": "dpop+jwt", "alg": "EdDSA" }))),
        ("no algorithm", with_header(json!({ "typ": "dpop+jwt", "alg": "none", "jwk": jwk }))),
        ("a shared secret", with_header(json!({ "typ": "dpop+jwt", "alg": "HS256", "jwk": jwk }))),
        (
            "a private key",
            with_header(json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": {
                "kty": "OKP", "crv": "Ed25519", "x": machine.public_key().jwk_x(), "d": "AAAA" } })),
        ),
        (
            "an extension",
            with_header(json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk, "crit": ["x"] })),
        ),
        (
            "another's signature",
            fixture::jwt(&json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk }), &good, &stranger.key),
        ),
        ("a cut signature", truncated),
        ("not a JWT", "x".to_owned()),
        ("nothing", String::new()),
    ] {
        let refused = ProvenKey::from_proof(&proof, REGISTER_URL);
        assert!(matches!(refused, Err(Error::ProofInvalid(_))), "{why}: {refused:?}");
    }
}

#[test]
fn every_invalid_field_of_a_registration_is_reported() {
    let errors = |body: Value| -> Vec<String> {
        let refused = Registration::parse(&body.to_string()).unwrap_err();
        refused.into_iter().map(|field_error| field_error.pointer).collect()
    };
    assert_eq!(errors(json!({})), ["/public_key", "/capabilities"]);
    assert_eq!(
        errors(json!({
            "public_key": "AAAA", "runner_id": "", "process_id": -1, "hostnam": "x",
            "capabilities": { "vram_gb": "24", "quantizations": ["\0"], "labels": [] },
        })),
        [
            "/public_key",
            "/runner_id",
            "/capabilities/vram_gb",
            "/capabilities/quantizations",
            "/capabilities/labels",
            "/process_id",
            "/hostnam",
        ]
    );
    let duplicate = r#"{"public_key": "a", "public_key": "b"}"#;
    assert!(Registration::parse(duplicate).is_err());
}

//! Accepted submissions of all three forms verify again, and what was changed in the database shows.

use super::{answer, dispatch};
use bakeoff_core::results::submission::SubmitRequest;
use bakeoff_testkit::Database;
use bakeoff_testkit::event::{Event, Service, app, context, serve};
use bakeoff_testkit::fixture::{self, Machine};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use lambda_runtime::LambdaEvent;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tokio_postgres::Client;

async fn invoke(app: &bakeoff_lambda::App, payload: &Value) -> Value {
    let event = LambdaEvent::new(payload.clone(), context());
    dispatch(app, event).await.unwrap()
}

/// The checks that fail, by submission.
async fn failing(app: &bakeoff_lambda::App) -> Vec<String> {
    let answer = invoke(app, &json!({ "verify_evidence": {} })).await;
    assert_eq!((&answer["verified"], &answer["next_cursor"]), (&json!(1), &Value::Null), "{answer}");
    let discrepancies = answer["discrepancies"].as_array().unwrap();
    discrepancies.iter().map(|discrepancy| discrepancy["check"].as_str().unwrap().to_owned()).collect()
}

/// Each change breaks the named check, and is taken back.
async fn changes_show(app: &bakeoff_lambda::App, owner: &Client, changes: &[(&str, &str)]) {
    let tables = ["submissions", "submission_files", "run_model_metrics", "allowlist"];
    for table in tables {
        owner.batch_execute(&format!("CREATE TABLE saved_{table} AS TABLE {table}")).await.unwrap();
    }
    assert_eq!(failing(app).await, [""; 0]);
    for (change, check) in changes {
        owner.batch_execute(change).await.unwrap();
        assert!(
            failing(app).await.iter().any(|failing| failing == check),
            "{change}: {:?}",
            failing(app).await
        );
        let mut restore = "SET session_replication_role = replica;".to_owned();
        for table in tables {
            restore += &format!(
                "DELETE FROM {table}; INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM saved_{table};"
            );
        }
        owner.batch_execute(&(restore + "RESET session_replication_role")).await.unwrap();
        assert_eq!(failing(app).await, [""; 0]);
    }
}

/// Changes that break the same check whatever the form.
const OF_ANY_FORM: [(&str, &str); 10] = [
    ("UPDATE submissions SET bound = true", "binding"),
    ("UPDATE submissions SET sha256 = sha256('')", "digest"),
    ("UPDATE submissions SET run_status = 'failed'", "run"),
    ("UPDATE submissions SET metrics = '[]'", "metrics"),
    ("UPDATE run_model_metrics SET score = 0.123", "metrics"),
    ("UPDATE run_model_metrics SET pass_fail = NULL, failure_reason = 'oom'", "metrics"),
    ("DELETE FROM run_model_metrics", "metrics"),
    ("UPDATE submissions SET late = true", "receipt"),
    ("UPDATE submissions SET submitted_at = submitted_at + interval '1 day'", "receipt"),
    ("UPDATE submissions SET receipt = left(receipt, -4) || 'AAAA'", "receipt"),
];

#[tokio::test]
async fn an_envelope_verifies_again_and_a_change_shows() {
    let (service, event) = Service::with_claim("submit").await;
    service.send(answer, &event).await.expect(201);
    let owner = service.database.owner().await;
    changes_show(service.app(), &owner, &OF_ANY_FORM).await;
    let digit = "UPDATE submission_files SET content = convert_to(replace(convert_from(content, 'UTF8'), \
                 '0.18881159099998968', '0.18881159099998969'), 'UTF8')";
    let key = "UPDATE allowlist SET public_key = sha256('') WHERE kind = 'ed25519'";
    let changes = [(digit, "signature"), ("DELETE FROM submission_files", "signature"), (key, "signature")];
    for table in ["submissions", "submission_files", "run_model_metrics", "allowlist"] {
        owner.batch_execute(&format!("DROP TABLE saved_{table}")).await.unwrap();
    }
    changes_show(service.app(), &owner, &changes).await;
}

/// A folder of the attestation crate's fixtures.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/attestation/tests/fixtures").join(name)
}

/// An app on a database in which the bundle of that folder was submitted by the runner `bench-01`.
async fn submitted(name: &str, model: Value, prompts: Value) -> (Database, bakeoff_lambda::App) {
    let folder = folder(name);
    let database = Database::create().await;
    let client = database.client().await;
    let keys = std::env::temp_dir().join(format!("bakeoff-evidence-{name}-{}.json", std::process::id()));
    fs::write(&keys, fixture::key_set([42; 32])).unwrap();
    let (keys, root) = (keys.display().to_string(), folder.join("trusted_root.json").display().to_string());
    let mut settings = vec![
        ("PUBLIC_URL", fixture::SERVICE),
        ("DATABASE_URL", database.url()),
        ("SIGNING_KEYS_FILE", keys.as_str()),
    ];
    if Path::new(&root).exists() {
        settings.push(("TRUSTED_ROOT_FILE", &root));
    }
    let app = app(&settings);
    let seed = fs::read_to_string(folder.join("../../../../core/tests/fixtures/runner_key.seed")).unwrap();
    let key = SigningKey::from_bytes(&STANDARD.decode(seed.trim()).unwrap().try_into().unwrap());
    let machine = Machine { name: "bench-01".into(), key };
    machine.allow(&client).await;
    let registration = machine.registration();
    let runner = machine.register(&client, &registration).await;
    let result: Value = serde_json::from_slice(&fs::read(folder.join("result.json")).unwrap()).unwrap();
    let mut run = fixture::run();
    run["run_id"] = result["run_id"].clone();
    run["models"] = json!([model]);
    run["prompts"] = prompts;
    fixture::enqueue_run(&client, &run).await;
    let job = fixture::claim_next(&client, &runner).await;

    let names = ["result.json", "manifest.json", "summary.md", "dashboard.html", "signature.sigstore.json"];
    let files =
        names.map(|name| (name.to_owned(), json!(STANDARD.encode(fs::read(folder.join(name)).unwrap()))));
    let files: serde_json::Map<String, Value> = files.into_iter().collect();
    let body = json!({ "claim_id": job.claim_id, "files": files });
    assert!(SubmitRequest::parse(&body.to_string()).is_ok());
    let run_id = job.run_id.to_string();
    let event = Event::sample("submit").bearer(&runner.token).path_parameter("run_id", &run_id).body(body);
    if name == "bundle-one-prompt" {
        let refused = serve(&app, answer, &event).await;
        let detail = refused.problem(403, "signer_not_allowed")["detail"].as_str().unwrap().to_owned();
        allow_signer(&client, &detail).await;
    }
    serve(&app, answer, &event).await.expect(201);
    let _ = fs::remove_file(&keys);
    (database, app)
}

/// The refusal names the certificate's identity, in quotes or not: subject, `by`, issuer.
async fn allow_signer(client: &Client, detail: &str) {
    let urls: Vec<&str> = detail
        .split(|character: char| character.is_whitespace() || "\"'`,;".contains(character))
        .filter(|word| word.starts_with("https://"))
        .collect();
    let [subject, issuer] = urls[..] else { panic!("{detail}") };
    let entry = json!({ "issuer": issuer, "subject": subject, "label": "the harness's workflow" });
    let entry = bakeoff_core::runners::allowlist::NewEntry::parse(&entry.to_string()).unwrap();
    bakeoff_core::runners::allowlist::add(client, &fixture::admin(), &entry).await.unwrap();
}

const OF_A_BUNDLE: [(&str, &str); 4] = [
    // The signature is over the bytes, which the manifest lists by their digest.
    ("UPDATE submission_files SET content = content || ' ' WHERE name = 'result.json'", "files"),
    ("UPDATE submission_files SET content = content || ' ' WHERE name = 'summary.md'", "files"),
    ("DELETE FROM submission_files WHERE name = 'manifest.json'", "files"),
    ("UPDATE submissions SET signer_kind = 'envelope', signer_issuer = NULL", "signature"),
];

#[tokio::test]
async fn a_key_bundle_verifies_again_and_a_change_shows() {
    let prompts = json!([fixture::prompt("plain"), fixture::prompt("cot")]);
    let model = fixture::model("llama32_1b_q4", "q4_k_m", 1.2);
    let (database, app) = submitted("bundle-two-prompts", model, prompts).await;
    let owner = database.owner().await;
    let changes: Vec<_> = OF_ANY_FORM.into_iter().chain(OF_A_BUNDLE).collect();
    changes_show(&app, &owner, &changes).await;
}

#[tokio::test]
async fn a_keyless_bundle_verifies_again_and_a_change_shows() {
    let prompts = json!([fixture::prompt("plain")]);
    let model = fixture::model("qwen3_4b_q8", "q8_0", 4.0);
    let (database, app) = submitted("bundle-one-prompt", model, prompts).await;
    let owner = database.owner().await;
    let other = ("UPDATE submissions SET signer = 'https://github.com/someone/else'", "signature");
    let changes: Vec<_> = OF_ANY_FORM.into_iter().chain(OF_A_BUNDLE).chain([other]).collect();
    changes_show(&app, &owner, &changes).await;
}

#[tokio::test]
async fn submissions_are_verified_page_by_page_and_payloads_are_checked() {
    let (service, event) = Service::with_claim("submit").await;
    service.send(answer, &event).await.expect(201);
    let first = invoke(service.app(), &json!({ "verify_evidence": { "limit": 1 } })).await;
    assert_eq!((&first["verified"], first["next_cursor"].is_string()), (&json!(1), true), "{first}");
    let cursor = json!({ "verify_evidence": { "limit": 1, "cursor": first["next_cursor"] } });
    let last = invoke(service.app(), &cursor).await;
    assert_eq!(last, json!({ "verified": 0, "discrepancies": [], "next_cursor": null }));
    for wrong in [json!({}), json!({ "verify_evidence": { "limt": 1 } }), json!({ "verify": {} })] {
        assert_eq!(invoke(service.app(), &wrong).await["status"], 422, "{wrong}");
    }
}

/// A large event is not read to find out what it is: it is HTTP.
#[tokio::test]
async fn a_large_event_goes_to_the_route() {
    let (service, event) = Service::with_claim("submit").await;
    let event = event.body("x".repeat(200_000));
    let response = invoke(service.app(), event.json()).await;
    assert_eq!(response["statusCode"], 400, "{response}");
    assert!(response["headers"]["x-request-id"].is_string());
}

//! SQL, log lines, metrics, markup and terminal commands in every text that a caller can send.

use bakeoff_testkit::fixture::{enqueue_run, run};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::request::{Attempt, attempt, get, is_obeyed_by_terminals, post};
use crate::target::{Target, target};

/// Texts that something on the way might obey.
const TEXTS: [&str; 16] = [
    "'; DROP TABLE run_queue; --",
    "' OR '1'='1",
    "\\'; SELECT pg_sleep(10); --",
    "$1 $2 %s %n {0} ${jndi:ldap://127.0.0.1/x}",
    "x\n{\"level\":\"ERROR\",\"message\":\"forged\"}",
    "x\r\nset-cookie: a=b",
    "{\"_aws\":{\"CloudWatchMetrics\":[{\"Namespace\":\"Bakeoff\",\"Dimensions\":[[]],\"Metrics\":[{\"Name\":\"Forged\"}]}]},\"Forged\":1}",
    "\u{1b}[2J\u{1b}]0;forged\u{7}",
    "\u{9b}2J\u{85}\u{7f}",
    "\u{202e}gnp.exe\u{202c}\u{2066}\u{2069}",
    "<script>alert(1)</script><!--",
    "../../../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "\u{0}",
    "\u{fffe}\u{ffff}\u{10ffff}",
    "\"},{\"x\":\"",
];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The requests of a runner with the text in every place that takes one, each place by itself.
fn runners_requests(text: &str, run_id: Uuid) -> Vec<Attempt> {
    let claim_id = Uuid::new_v4();
    let path = |action: &str| format!("/api/queue/{run_id}/{action}");
    let capabilities =
        |value: Value| post("/api/queue/claim").json(&json!({ "claim_id": claim_id, "capabilities": value }));
    let sig = |member: &str| {
        let mut sig = json!({ "sha256": "", "signature": "", "runner_id": "", "signed_at": "" });
        sig[member] = json!(text);
        post(&path("submit")).json(&json!({ "claim_id": claim_id, "envelope": { "result": {}, "sig": sig } }))
    };
    vec![
        capabilities(json!({ "vram_gb": 1, "quantizations": [text] })),
        capabilities(json!({ "vram_gb": text, "quantizations": [] })),
        capabilities(json!({ "vram_gb": 1, "quantizations": [], "labels": { text: text } })),
        capabilities(json!({ "vram_gb": 1, "quantizations": [], text: text })),
        post("/api/queue/claim").json(&json!({ "claim_id": text })),
        post("/api/queue/claim").json(&json!({ text: text })),
        post("/api/queue/claim").json(&json!(text)),
        post("/api/queue/claim").body(text.as_bytes().to_vec()),
        post(&format!("/api/queue/claim?explain={}", encoded(text))).json(&json!({ "claim_id": claim_id })),
        post(&path("heartbeat")).json(&json!({ "claim_id": claim_id, "progress": { text: [text] } })),
        post(&path("release"))
            .json(&json!({ "claim_id": claim_id, "failure": { "code": "oom", "detail": text } })),
        post(&path("release")).json(&json!({ "claim_id": claim_id, "failure": { "code": text } })),
        post(&path("submit")).json(&json!({ "claim_id": claim_id, "files": { text: text } })),
        post(&path("submit")).json(&json!({ "claim_id": claim_id, "files": { "result.json": text } })),
        sig("sha256"),
        sig("signature"),
        sig("runner_id"),
        sig("signed_at"),
        get(&format!("/api/queue/{}", encoded(text))),
        post(&format!("/api/queue/{}/heartbeat", encoded(text))).json(&json!({ "claim_id": claim_id })),
        post("/api/queue/claim").header("content-encoding", &encoded(text)),
        post("/api/queue/claim").header("x-amzn-trace-id", &encoded(text)).json(&json!({})),
        post("/api/queue/claim").header("user-agent", &encoded(text)).json(&json!({})),
    ]
}

fn admins_requests(text: &str) -> Vec<Attempt> {
    let entry = |member: &str| {
        let mut entry = json!({ "issuer": "https://i.example", "subject": Uuid::new_v4(), "label": "x" });
        entry[member] = json!(text);
        post("/api/admin/keys").json(&entry)
    };
    let enqueue = |pointer: &str| {
        let mut run = run();
        match run.pointer_mut(pointer) {
            Some(place) => *place = json!(text),
            None => run[pointer.trim_start_matches('/')] = json!(text),
        }
        post("/api/admin/runs").json(&run)
    };
    let mut all = vec![
        entry("label"),
        entry("issuer"),
        entry("subject"),
        entry("repository"),
        entry("workflow"),
        entry("expires_at"),
        entry("unknown"),
        post("/api/admin/keys").json(&json!({ "signer_policy": text })),
        post("/api/admin/keys").json(&json!({ "public_key": text, "label": text })),
        get(&format!("/api/admin/keys?cursor={}", encoded(text))),
        get(&format!("/api/admin/keys?limit={}", encoded(text))),
        get(&format!("/api/admin/runs?status={}", encoded(text))),
        get(&format!("/api/admin/runs?cursor={}", encoded(text))),
        attempt("DELETE", &format!("/api/admin/keys/{}", encoded(text))).json(&json!({ "reason": text })),
        post(&format!("/api/admin/runs/{}/cancel", Uuid::new_v4())).json(&json!({ "reason": text })),
        post(&format!("/api/admin/runs/{}/requeue", encoded(text))),
    ];
    all.extend(
        [
            "/publisher_id",
            "/run_id",
            "/models/0/id",
            "/models/0/descriptor/name",
            "/models/0/descriptor/model_hash",
            "/models/0/descriptor/quantization",
            "/models/0/descriptor/sources/0/url",
            "/models/0/descriptor/sources/0/source_type",
            "/prompts/0/id",
            "/prompts/0/file_path",
            "/prompts/0/git_commit_hash",
            "/tasks/0/id",
            "/config/run/seed",
            "/split_by",
            "/unknown",
        ]
        .map(enqueue),
    );
    all.into_iter().map(Attempt::admin).collect()
}

#[tokio::test]
async fn a_text_that_is_a_command_to_something_on_the_way() {
    let target = target().await;
    let _alone = target.queue_of_its_own().await;
    let (_, token) = target.runner("injection").await;
    let run_id = enqueue_run(&target.client().await, &run()).await.run_id;
    let runs = target.count("runs").await;
    let mut sent = 0;
    for text in TEXTS {
        let runners = runners_requests(text, run_id).into_iter().map(|attempt| attempt.bearer(&token));
        for attempt in runners.chain(admins_requests(text)) {
            // Refused or taken as the text it is: what must not come of it is asserted of every answer.
            attempt.send(&target).await;
            sent += 1;
        }
    }
    assert!(sent > 800, "{sent}");
    assert!(target.count("runs").await >= runs, "no table was dropped");
    assert_logs_are_our_own(&target);
}

#[tokio::test]
async fn a_registration_whose_every_text_is_a_command() {
    let target = target().await;
    for (n, text) in TEXTS.into_iter().enumerate() {
        let machine = target.allowed(&format!("injection-{n}")).await;
        for member in ["runner_id", "hostname", "effective_user", "description", "unknown"] {
            let mut body = machine.registration();
            body[member] = json!(text);
            let proof = machine.proof(&target.proof_claims(&machine));
            let answer = post("/api/runners/register").header("dpop", &proof).json(&body).send(&target).await;
            let taken = answer.status == 200;
            assert!(taken || answer.status == 422, "{member} {text:?}: {}", answer.text);
            if taken && member == "runner_id" {
                assert_eq!(answer.json()["runner_id"], text, "taken as it is, or not at all");
            }
        }
    }
    assert_logs_are_our_own(&target);
}

/// Every line of the functions' logs is one that a function wrote: no text of a caller began a line, was
/// taken for a metric, or reached the log in a form that a terminal obeys.
fn assert_logs_are_our_own(target: &Target) {
    for function in target.stack().functions.values() {
        let Ok(log) = std::fs::read_to_string(function.log()) else { continue };
        for line in log.lines() {
            let obeyed = line.chars().find(|character| is_obeyed_by_terminals(*character));
            assert_eq!(obeyed, None, "{}: {line:?}", function.name());
            let metric = serde_json::from_str::<Value>(line).is_ok_and(|line| line.get("_aws").is_some());
            let level = ["INFO", "WARN", "ERROR"].iter().any(|level| line.trim_start().starts_with(level));
            assert!(metric || level, "{}: {line:?}", function.name());
            assert!(!metric || !line.contains("Forged"), "{line:?}");
        }
    }
}

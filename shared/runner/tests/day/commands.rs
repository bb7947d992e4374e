//! Key, allow, work; and from the harness's own config to a queued run.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use bakeoff_local::sandbox::proxy::{Fault, Operation};
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::day::Day;

const CONFIG: &str = "\
run: {seed: 11, timeout_s: 60}
server: {models_dir: /models, image: ghcr.io/example/llama}
dataset: {n: 3, domains: [qa]}
models:
  - {id: qwen, alias: qwen, gguf: qwen.gguf}
prompts:
  - {id: plain, system: 'Answer briefly.'}
  - {id: strict, system: 'Answer with one word.'}
output: {dir: results}
";
const DESCRIPTOR: &str = r#"{"schema_version": 1, "name": "qwen", "model_hash": "sha256:qwen", "quantization": "q4_k_m",
    "parameter_count_b": 9.0, "active_parameter_count_b": 9.0, "sources": []}"#;

#[test]
fn a_new_key_is_private_and_its_public_half_is_printed() {
    let folder = std::env::temp_dir().join(format!("bakeoff-key-{}", std::process::id()));
    let path = folder.join("made/runner.pem");
    let new = || Day::program().args(["key", "new", "--out"]).arg(&path).output().unwrap();
    let made = new();
    assert!(made.status.success());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = Day::program().args(["key", "show", "--key"]).arg(&path).output().unwrap();
    assert_eq!((made.stdout.len(), &shown.stdout), (45, &made.stdout));
    let again = new();
    assert_eq!(again.status.code(), Some(1), "a key is never overwritten");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_becomes_a_run_and_the_run_a_receipt() {
    let day = Day::begin("enqueue").await;
    let harness = day.folder.join("harness");
    std::fs::write(day.folder.join("config.yaml"), CONFIG).unwrap();
    std::fs::write(day.folder.join("qwen.json"), DESCRIPTOR).unwrap();
    std::fs::write(day.folder.join("machine.yaml"), "hardware: {id: attic}").unwrap();
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        let git =
            Command::new("git").arg("-C").arg(&harness).args(identity).args(arguments).output().unwrap();
        assert!(git.status.success(), "{git:?}");
        String::from_utf8(git.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message", "prompts"]);

    let enqueued = Day::program()
        .args(["enqueue", "config.yaml", "--api", &day.stack.url, "--harness", "harness"])
        .args(["--python", env!("CARGO_BIN_EXE_stand-in-harness"), "--model", "qwen=qwen.json"])
        .args(["--label", "site=attic", "--label", "runner_id=bench"])
        .envs([("AWS_ACCESS_KEY_ID", "local"), ("AWS_SECRET_ACCESS_KEY", "local-secret")])
        .env("AWS_REGION", "us-east-1")
        .current_dir(&day.folder)
        .output()
        .unwrap();
    assert!(enqueued.status.success(), "{enqueued:?}");
    let run_id: Uuid = String::from_utf8(enqueued.stdout).unwrap().trim().parse().unwrap();

    let machine = day.folder.join("machine.yaml");
    day.runner(&["--once", "--label", "site=cellar"]).ended_well().await;
    assert_eq!(day.row(run_id).await, ("PENDING".to_owned(), 0), "it asks for a runner in the attic");
    let machine = machine.to_str().unwrap();
    day.runner(&["--once", "--label", "site=attic", "--machine", machine]).ended_well().await;
    assert_eq!(day.row(run_id).await, ("COMPLETE".to_owned(), 0));
    let metrics = "SELECT count(*) FROM run_model_metrics WHERE run_id = $1";
    assert_eq!(day.db.query_one(metrics, &[&run_id]).await.unwrap().get::<_, i64>(0), 2);
    let prompts = "SELECT DISTINCT git_commit_hash FROM prompts";
    let commit: String = day.db.query_one(prompts, &[]).await.unwrap().get(0);
    assert_eq!(commit, git(&["rev-parse", "HEAD"]));

    let job = std::fs::read_dir(day.folder.join("work/jobs")).unwrap().next().unwrap().unwrap().path();
    let read = |name| serde_json::from_slice::<Value>(&std::fs::read(job.join(name)).unwrap()).unwrap();
    assert_eq!(read("receipt.json")["run_id"], json!(run_id));
    let result = &read("result.json")["result"];
    assert_eq!(result["config"]["hardware"], json!({ "id": "attic" }));
    assert!(result["config"].get("server").is_none(), "the enqueuing machine's stanzas are not sent");
    assert_eq!(result["tasks"].as_array().unwrap().len(), 3);
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_runs_a_job_and_need_not_sign() {
    let day = Day::begin("exec").await;
    let run_id = day.enqueue(json!({})).await;
    let program = env!("CARGO_BIN_EXE_stand-in-harness");
    let command = format!("'{program}' --config {{config}} --write {{result}}");
    day.runner_of_program(&["--once", "--exec", &command]).ended_well().await;
    assert_eq!(day.row(run_id).await, ("COMPLETE".to_owned(), 0));
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_runner_says_so_once_and_again_when_it_is_held_back() {
    let day = Day::begin("idle").await;
    let mut runner = day.runner(&[]);
    day.until("three claims", async || day.asked(Operation::Claim).len() >= 3).await;
    assert_eq!(runner.said().matches("no job for this machine").count(), 1);
    day.proxy.direct(|asked| match asked.operation {
        Operation::Claim => {
            Fault::Answer { status: StatusCode::NO_CONTENT, retry_after: Some(300), body: Value::Null }
        }
        _ => Fault::None,
    });
    day.until("the long wait", async || runner.said().contains("holds a runner back")).await;
    runner.signal("INT");
    runner.ended_well().await;
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_sends_nothing() {
    let day = Day::begin("dry-run").await;
    let run_id = day.enqueue(json!({})).await;
    let mut runner = day.runner(&["--dry-run", "--label", "site=attic"]);
    runner.ended_well().await;
    let said = runner.said();
    for part in ["\"runner_id\":\"bench\"", "\"site\":\"attic\"", "q4_k_m", "bench.runner"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(day.proxy.exchanges().is_empty());
    assert_eq!(day.row(run_id).await.0, "PENDING");
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_released_with_their_kind_and_smaller_jobs_are_asked_for() {
    let day = Day::begin("failures").await;
    for (what, code) in [("crash", "unknown"), ("load_failure", "load_failure"), ("oom", "oom")] {
        let run_id = day.enqueue(json!({ "do": what })).await;
        let mut runner = day.runner(&["--drain-after", "1"]);
        runner.ended_well().await;
        assert_eq!(day.row(run_id).await, ("PENDING".to_owned(), 1), "{what}: {}", runner.said());
        let sql = "SELECT error_detail FROM run_queue WHERE run_id = $1";
        let detail: String = day.db.query_one(sql, &[&run_id]).await.unwrap().get(0);
        assert!(detail.starts_with(&format!("{code}: exit status 1")), "{detail}");
    }
    // The model of these runs needs 6 GB.
    day.enqueue(json!({ "do": "oom" })).await;
    let mut runner = day.runner(&[]);
    let asks = async || {
        let claims = day.asked(Operation::Claim);
        claims.last().is_some_and(|claim| claim.asked.body["capabilities"]["vram_gb"] == 5.0)
    };
    day.until("a claim of less", asks).await;
    runner.signal("INT");
    runner.ended_well().await;
    day.end().await;
}

//! Tests of submits: acceptance, stored rows, retries, concurrency, and refusals.

use bakeoff_core::Error;
use bakeoff_core::queue::claim::Job;
use bakeoff_core::queue::release::{ReleaseRequest, release};
use bakeoff_core::results::submission::verify_envelope;
use bakeoff_core::results::submit::{Accepted, SubmitTerms, submit};
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Machine, Runner, SERVICE};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

async fn send(client: &Client, runner: &Runner, job: &Job, envelope: &RawValue) -> Result<Accepted, Error> {
    let verified = verify_envelope(&runner.authenticated, envelope)?;
    let keys = fixture::service_keys();
    let terms = SubmitTerms { keys: &keys, service: SERVICE, require_bound: false };
    submit(client, terms, &runner.authenticated, job.run_id, job.claim_id, &verified).await
}

pub(crate) async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

async fn assert_nothing_written(client: &Client) {
    for table in ["submissions", "submission_files", "run_model_metrics", "run_hardware_metrics"] {
        assert_eq!(count(client, table).await, 0, "{table}");
    }
    assert_eq!(count(client, "runs WHERE run_status IS NOT NULL").await, 0);
    assert_eq!(count(client, "run_queue WHERE status = 'COMPLETE'").await, 0);
}

#[tokio::test]
async fn an_accepted_result_completes_the_row_and_is_stored_with_its_metrics() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let mut result = fixture::result(&job);
    result["records"][0]["quality_heuristic"] = json!(0.5);
    result["records"][0]["peak_vram_mb"] = json!(7000.1);
    let envelope = fixture::envelope(&runner.machine, &result);

    let accepted = send(&client, &runner, &job, &envelope).await.unwrap();
    assert!(accepted.new && !accepted.late);
    assert_eq!((accepted.run_id, accepted.queue_id, accepted.status), (job.run_id, job.queue_id, "COMPLETE"));
    assert_eq!((accepted.signer.kind.as_str(), accepted.signer.name), ("envelope", runner.machine.key_id()));
    let receipt = fixture::service_keys().verify_receipt(&accepted.receipt).unwrap();
    assert_eq!((receipt.submission_id, receipt.run_id), (accepted.submission_id, job.run_id));
    assert_eq!((receipt.queue_id, receipt.claim_id), (job.queue_id, job.claim_id));
    assert_eq!((receipt.runner_id.as_str(), receipt.iss.as_str()), ("bench", SERVICE));
    assert_eq!((receipt.sha256, receipt.late), (accepted.sha256.clone(), false));

    let row = fixture::queue_row(&client, &job).await;
    assert_eq!((row.get("status"), row.get("claimed_by")), ("COMPLETE", "bench"));
    assert!(row.get::<_, Option<time::OffsetDateTime>>("completed_at").is_some());
    assert!(row.get::<_, Option<time::OffsetDateTime>>("lease_expires_at").is_none());

    let kept = client.query_one("SELECT name, content FROM submission_files", &[]).await.unwrap();
    assert_eq!(
        (kept.get("name"), kept.get::<_, &[u8]>("content")),
        ("envelope.json", envelope.get().as_bytes())
    );
    let evidence =
        client.query_one("SELECT *, encode(sha256, 'hex') AS hex FROM submissions", &[]).await.unwrap();
    assert_eq!(evidence.get::<_, String>("hex"), accepted.sha256);
    assert!(envelope.get().contains(&accepted.sha256));
    assert_eq!(evidence.get::<_, String>("receipt"), accepted.receipt);
    assert_eq!((evidence.get("run_status"), evidence.get("runner_id")), ("complete", "bench"));

    let metrics = client.query_one("SELECT * FROM run_model_metrics", &[]).await.unwrap();
    assert_eq!(metrics.get::<_, f64>("score"), 0.75);
    assert_eq!(metrics.get::<_, Option<bool>>("pass_fail"), None);
    assert_eq!(metrics.get::<_, Option<&str>>("failure_reason"), None);
    assert_eq!(metrics.get::<_, f64>("gflops_per_token"), 20.0);
    let models: Value = serde_json::from_str(job.models.get()).unwrap();
    assert_eq!(metrics.get::<_, Uuid>("model_id").to_string(), models[0]["model_id"].as_str().unwrap());
    let metrics: Value = serde_json::from_str(accepted.metrics.get()).unwrap();
    assert_eq!((metrics[0]["score"].as_f64(), &metrics[0]["model_id"]), (Some(0.75), &models[0]["model_id"]));

    let hardware = "SELECT * FROM run_hardware_metrics JOIN system_hardware USING (system_hardware_id)
                      JOIN system_software USING (system_software_id)
                      JOIN gpu_hardware USING (gpu_hardware_id)
                      JOIN system_gpu_link USING (system_hardware_id, gpu_hardware_id)";
    let hardware = database.owner().await.query_one(hardware, &[]).await.unwrap();
    assert_eq!(hardware.get::<_, Uuid>("run_id"), job.run_id);
    assert_eq!(
        (hardware.get::<_, i32>("peak_vram_mb"), hardware.get::<_, f64>("power_limit_w")),
        (7001, 450.0)
    );
    assert_eq!(hardware.get::<_, f64>("measured_tflops"), 1.0);
    assert_eq!((hardware.get("cpu_model"), hardware.get::<_, i32>("cpu_cores")), ("AMD Ryzen 9 7950X", 16));
    assert_eq!((hardware.get::<_, i32>("cpu_threads"), hardware.get::<_, f64>("ram_gb")), (32, 64.0));
    assert_eq!((hardware.get("os_name"), hardware.get("os_version")), ("Linux", "6.8.0"));
    assert_eq!(hardware.get::<_, &str>("driver_version"), "560.35.03");
    assert_eq!(
        (hardware.get("gpu_model"), hardware.get::<_, i32>("vram_mb")),
        ("NVIDIA GeForce RTX 4090", 24564)
    );

    let run = client.query_one("SELECT * FROM runs", &[]).await.unwrap();
    assert_eq!((run.get("runner_id"), run.get("run_status")), ("bench", "complete"));
    assert_eq!((run.get("prompt_git_hash"), run.get("publisher_id")), ("ad48ac3", "bastion"));
    assert_eq!(run.get::<_, time::OffsetDateTime>("submitted_at").unix_timestamp(), receipt.iat);
}

#[tokio::test]
async fn a_result_of_a_failed_run_is_accepted() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let mut result = fixture::result(&job);
    for record in result["records"].as_array_mut().unwrap() {
        record["failure_code"] = json!("oom");
        record["failure_detail"] = json!("at layer 3");
        record["flops_per_token_theoretical"] = Value::Null;
        record["peak_vram_mb"] = Value::Null;
    }
    result.as_object_mut().unwrap().remove("hardware");
    fixture::submit_result(&client, &runner, &job, &result).await.unwrap();

    let metrics = client.query_one("SELECT * FROM run_model_metrics", &[]).await.unwrap();
    assert_eq!(metrics.get::<_, Option<f64>>("score"), None);
    assert_eq!(metrics.get::<_, Option<bool>>("pass_fail"), Some(false));
    assert_eq!((metrics.get("failure_reason"), metrics.get("failure_detail")), ("oom", "at layer 3"));
    let run: String = client.query_one("SELECT run_status FROM runs", &[]).await.unwrap().get(0);
    assert_eq!(run, "failed");
    // The result has no hardware, so no hardware rows are created.
    for table in ["system_hardware", "system_software", "gpu_hardware"] {
        assert_eq!(count(&client, table).await, 0, "{table}");
    }
    let hardware = client.query_one("SELECT * FROM run_hardware_metrics", &[]).await.unwrap();
    assert_eq!(hardware.get::<_, Option<i32>>("peak_vram_mb"), None);
    assert_eq!(hardware.get::<_, Option<f64>>("measured_tflops"), None);
}

#[tokio::test]
async fn submitting_the_same_result_again_returns_the_same_receipt() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let result = fixture::result(&job);
    let first = fixture::submit_result(&client, &runner, &job, &result).await.unwrap();
    let again = fixture::submit_result(&client, &runner, &job, &result).await.unwrap();
    assert!(!again.new);
    assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&again).unwrap());
    assert_eq!(count(&client, "submissions").await, 1);

    let mut another = result;
    another["timestamp"] = json!("2026-08-02T12:00:00Z");
    let refused = fixture::submit_result(&client, &runner, &job, &another).await;
    assert!(matches!(refused, Err(Error::RunFinished(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_result_submitted_twice_concurrently_is_stored_once() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    let runner = fixture::runner(&one, "bench").await;
    for done in 1..=10 {
        fixture::enqueue_run(&one, &fixture::run()).await;
        let job = fixture::claim_next(&one, &runner).await;
        let result = fixture::result(&job);
        let (a, b) = tokio::join!(
            fixture::submit_result(&one, &runner, &job, &result),
            fixture::submit_result(&other, &runner, &job, &result)
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.receipt, usize::from(a.new) + usize::from(b.new)), (b.receipt, 1));
        assert_eq!(count(&one, "submissions").await, done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_two_concurrent_results_is_accepted() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    let runner = fixture::runner(&one, "bench").await;
    for _ in 0..10 {
        fixture::enqueue_run(&one, &fixture::run()).await;
        let job = fixture::claim_next(&one, &runner).await;
        let result = fixture::result(&job);
        let mut another = result.clone();
        another["timestamp"] = json!("2026-08-02T12:00:00Z");
        let (a, b) = tokio::join!(
            fixture::submit_result(&one, &runner, &job, &result),
            fixture::submit_result(&other, &runner, &job, &another)
        );
        assert_ne!(a.is_ok(), b.is_ok());
        let refused = a.err().or(b.err()).unwrap();
        assert!(matches!(refused, Error::RunFinished(_)), "{refused:?}");
    }
}

#[tokio::test]
async fn a_result_under_a_released_unknown_or_another_runners_claim_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let other = fixture::runner(&client, "other").await;
    let lost = |answer: Result<Accepted, Error>| {
        assert!(matches!(answer, Err(Error::ClaimLost)), "{answer:?}");
    };
    lost(fixture::submit_result(&client, &other, &job, &fixture::result(&job)).await);
    let unknown = Job { claim_id: Uuid::new_v4(), ..job.clone() };
    lost(fixture::submit_result(&client, &runner, &unknown, &fixture::result(&job)).await);

    let release_request = ReleaseRequest { claim_id: job.claim_id, failure: None };
    release(&client, &runner.authenticated, job.run_id, &release_request).await.unwrap();
    lost(fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await);
    assert_nothing_written(&client).await;
}

#[tokio::test]
async fn a_result_of_a_cancelled_run_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    cancel(&client, &fixture::admin(), job.run_id, None).await.unwrap();
    let refused = fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await;
    assert!(matches!(refused, Err(Error::RunFinished(_))), "{refused:?}");
    assert_nothing_written(&client).await;
}

#[tokio::test]
async fn a_revoked_key_can_submit_only_after_it_is_allowed_again() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    let refused = fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await;
    assert!(matches!(refused, Err(Error::KeyNotAllowed)), "{refused:?}");
    assert_nothing_written(&client).await;
    runner.machine.allow(&client).await;
    assert!(fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap().late);
}

#[tokio::test]
async fn a_result_of_another_run_or_with_another_signature_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let result = fixture::result(&job);

    let elsewhere = Job { run_id: Uuid::new_v4(), ..job.clone() };
    let refused = fixture::submit_result(&client, &runner, &elsewhere, &result).await;
    assert!(
        matches!(&refused, Err(Error::RunMismatch { signed }) if *signed == job.run_id.to_string()),
        "{refused:?}"
    );

    let stranger = fixture::envelope(&Machine::new("stranger"), &result);
    let refused = send(&client, &runner, &job, &stranger).await;
    assert!(matches!(refused, Err(Error::SignatureInvalid(_))), "{refused:?}");

    let own = fixture::envelope(&runner.machine, &result);
    let tampered = own.get().replacen("\"seed\":0", "\"seed\":1", 1);
    assert_ne!(tampered, own.get());
    let refused = send(&client, &runner, &job, &RawValue::from_string(tampered).unwrap()).await;
    assert!(matches!(refused, Err(Error::SignatureInvalid(_))), "{refused:?}");
    assert_nothing_written(&client).await;
    send(&client, &runner, &job, &own).await.unwrap();
}

#[tokio::test]
async fn every_invalid_field_of_a_result_is_reported() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let refused = async |change: fn(&mut Value)| -> Vec<String> {
        let mut result = fixture::result(&job);
        change(&mut result);
        match fixture::submit_result(&client, &runner, &job, &result).await {
            Err(Error::Invalid(errors)) => {
                errors.into_iter().map(|field_error| field_error.pointer).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let two = refused(|result| {
        result["records"][1]["prompt_id"] = json!("another");
        result["provenance"]["seed"] = Value::Null;
    });
    assert_eq!(two.await, ["/result/provenance/seed", "/result/records/1/prompt_id"]);
    assert_eq!(refused(|result| result["run_status"] = json!("failed")).await, ["/result/run_status"]);
    // The run is this one, but models and prompts are not the job's.
    let of_another = refused(|result| {
        let text = result.to_string().replace("\"plain\"", "\"fancy\"").replace("\"m\"", "\"n\"");
        *result = serde_json::from_str(&text).unwrap();
    });
    assert_eq!(of_another.await, ["/result/config/models", "/result/config/prompts"]);
    assert_nothing_written(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_submits_store_one_row_per_machine() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut submits = tokio::task::JoinSet::new();
    for number in 0..6 {
        let runner = fixture::runner(&client, &format!("bench-{number}")).await;
        fixture::enqueue_run(&client, &fixture::run()).await;
        let job = fixture::claim_next(&client, &runner).await;
        let client = database.client().await;
        submits.spawn(async move {
            fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
        });
    }
    submits.join_all().await;
    let owner = database.owner().await;
    for table in ["system_hardware", "system_software", "gpu_hardware", "system_gpu_link"] {
        assert_eq!(count(&owner, table).await, 1, "{table}");
    }
    assert_eq!(count(&client, "run_hardware_metrics").await, 6);
}

#[tokio::test]
async fn with_duplicate_hardware_rows_the_oldest_equal_row_is_used() {
    let database = Database::create().await;
    let client = database.client().await;
    client
        .batch_execute(
            "INSERT INTO system_hardware (cpu_model, cpu_cores, cpu_threads, ram_gb, motherboard)
             VALUES ('AMD Ryzen 9 7950X', 16, 32, 64, 'X670E');
             INSERT INTO system_hardware (cpu_model, cpu_cores, cpu_threads, ram_gb)
             SELECT 'AMD Ryzen 9 7950X', 16, 32, 64 FROM generate_series(1, 3);
             INSERT INTO system_software (os_name, os_version, driver_version)
             SELECT 'Linux', '6.8.0', '560.35.03' FROM generate_series(1, 3);
             INSERT INTO gpu_hardware (gpu_model, vram_mb)
             SELECT 'NVIDIA GeForce RTX 4090', 24564 FROM generate_series(1, 3)",
        )
        .await
        .unwrap();
    let (runner, job) = fixture::runner_with_job(&client).await;
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    let row = client.query_one("SELECT * FROM run_hardware_metrics", &[]).await.unwrap();
    // Row 1 has a motherboard, which the result does not state, so it is not equal.
    assert_eq!(row.get::<_, i32>("system_hardware_id"), 2);
    assert_eq!((row.get("system_software_id"), row.get("gpu_hardware_id")), (1, 1));
    assert_eq!((count(&client, "system_hardware").await, count(&client, "gpu_hardware").await), (4, 3));
}

async fn a_split_run(client: &Client, runner: &Runner) -> Vec<Job> {
    let mut run = fixture::run();
    run["prompts"] = ["a", "b", "c"].map(fixture::prompt).into_iter().collect();
    run["split_by"] = json!("prompt");
    fixture::enqueue_run(client, &run).await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(fixture::claim_next(client, runner).await);
    }
    jobs
}

fn with_a_failed_cell(mut result: Value) -> Value {
    result["records"][0]["failure_code"] = json!("timeout");
    result
}

#[tokio::test]
async fn a_split_runs_status_is_its_worst_rows_and_all_metrics_are_kept() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let jobs = a_split_run(&client, &runner).await;
    let status = async || -> Option<String> {
        client.query_one("SELECT run_status FROM runs", &[]).await.unwrap().get(0)
    };
    fixture::submit_result(&client, &runner, &jobs[0], &fixture::result(&jobs[0])).await.unwrap();
    assert_eq!(status().await.as_deref(), Some("complete"));
    let mut second = with_a_failed_cell(fixture::result(&jobs[1]));
    second["records"][1]["peak_vram_mb"] = json!(9000);
    fixture::submit_result(&client, &runner, &jobs[1], &second).await.unwrap();
    assert_eq!(status().await.as_deref(), Some("incomplete"));
    fixture::submit_result(&client, &runner, &jobs[2], &fixture::result(&jobs[2])).await.unwrap();
    assert_eq!(status().await.as_deref(), Some("incomplete"));
    assert_eq!(count(&client, "run_model_metrics").await, 3);
    let peak = client.query_one("SELECT peak_vram_mb FROM run_hardware_metrics", &[]).await.unwrap();
    assert_eq!(peak.get::<_, i32>(0), 9000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_of_a_run_completed_concurrently_give_the_worst_status() {
    let database = Database::create().await;
    let client = database.client().await;
    let clients = [database.client().await, database.client().await, database.client().await];
    let runner = fixture::runner(&client, "bench").await;
    for _ in 0..10 {
        let jobs = a_split_run(&client, &runner).await;
        let results = [
            fixture::result(&jobs[0]),
            with_a_failed_cell(fixture::result(&jobs[1])),
            fixture::result(&jobs[2]),
        ];
        let (a, b, c) = tokio::join!(
            fixture::submit_result(&clients[0], &runner, &jobs[0], &results[0]),
            fixture::submit_result(&clients[1], &runner, &jobs[1], &results[1]),
            fixture::submit_result(&clients[2], &runner, &jobs[2], &results[2]),
        );
        assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
        let status = "SELECT run_status FROM runs WHERE run_id = $1";
        let status: String = client.query_one(status, &[&jobs[0].run_id]).await.unwrap().get(0);
        assert_eq!(status, "incomplete");
    }
}

/// A row inserted by a foreign tool has no job, so the result's ids cannot be mapped to the database's.
#[tokio::test]
async fn a_result_of_a_row_without_a_job_is_stored_without_model_metrics() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    database.owner().await.batch_execute("DELETE FROM queue_jobs").await.unwrap();
    let job = fixture::claim_next(&client, &runner).await;
    let accepted = fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    assert_eq!(accepted.metrics.get(), "[]");
    assert_eq!(count(&client, "run_hardware_metrics").await, 1);
    assert_eq!(count(&client, "submission_files").await, 1);
}

/// The envelopes are the harness's files, unchanged.
#[tokio::test]
async fn envelopes_signed_by_the_harness_are_accepted() {
    let database = Database::create().await;
    let client = database.client().await;
    let seed = include_str!("../fixtures/runner_key.seed").trim();
    let seed = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, seed).unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&seed.try_into().unwrap());
    let machine = Machine { name: "amd-8060s".to_owned(), key };
    machine.allow(&client).await;
    let registration = machine.registration();
    let runner = machine.register(&client, &registration).await;
    for (text, status) in [
        (include_str!("../fixtures/signed-complete.json"), "complete"),
        (include_str!("../fixtures/signed-incomplete.json"), "incomplete"),
    ] {
        let envelope: Value = serde_json::from_str(text).unwrap();
        let config = &envelope["result"]["config"];
        let ids = |name: &str| -> Vec<String> {
            let list = config[name].as_array().unwrap();
            list.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
        };
        let mut run = fixture::run();
        run["run_id"] = envelope["result"]["run_id"].clone();
        run["models"] = ids("models").iter().map(|id| fixture::model(id, "q4_k_m", 9.0)).collect();
        run["prompts"] = ids("prompts").iter().map(|id| fixture::prompt(id)).collect();
        fixture::enqueue_run(&client, &run).await;
        let job = fixture::claim_next(&client, &runner).await;
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let accepted = send(&client, &runner, &job, raw).await.unwrap();
        let row = "SELECT run_status, content FROM runs JOIN submissions USING (run_id, run_status)
                     JOIN submission_files USING (submission_id) WHERE run_id = $1";
        let row = client.query_one(row, &[&accepted.run_id]).await.unwrap();
        assert_eq!(row.get::<_, &str>("run_status"), status);
        assert_eq!(row.get::<_, &[u8]>("content"), raw.get().as_bytes());
    }
}

//! A claim: which job comes, to whom, and what a repetition gets.

use bakeoff_core::Error;
use bakeoff_core::queue::claim::{ClaimRequest, Job, claim};
use bakeoff_core::queue::release::{ReleaseRequest, release};
use bakeoff_core::runners::allowlist::{self, NewEntry};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

async fn ask(client: &Client, runner: &Runner, body: Value) -> Result<Option<Job>, Error> {
    let request = ClaimRequest::parse(&body.to_string()).unwrap();
    Ok(claim(client, &runner.authenticated, TERMS, &request).await?.job())
}

async fn next(client: &Client, runner: &Runner) -> Option<Job> {
    ask(client, runner, json!({})).await.unwrap()
}

async fn enqueue_with_priority(client: &Client, priority: i32) -> Uuid {
    let mut run = fixture::run();
    run["priority"] = json!(priority);
    fixture::enqueue_run(client, &run).await.run_id
}

#[tokio::test]
async fn the_job_comes_as_enqueued_with_all_a_runner_needs() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let run = fixture::run();
    let row = &fixture::enqueue_run(&client, &run).await.rows[0];

    let job = next(&client, &runner).await.unwrap();
    assert_eq!(
        (job.run_id.to_string(), job.queue_id),
        (run["run_id"].as_str().unwrap().into(), row.queue_id)
    );
    assert_eq!((job.attempt, job.max_attempts, job.priority), (1, 5, 100));
    let ttl = job.lease_expires_at - job.server_time;
    assert_eq!((ttl.whole_seconds(), job.heartbeat_interval_s), (300, 60));
    let model: Value = serde_json::from_str(job.model.as_ref().unwrap().get()).unwrap();
    assert_eq!(
        (&model["name"], &model["quantization"], &model["required_vram_gb"], &model["sources"]),
        (
            &json!("m"),
            &json!("q4_k_m"),
            &json!(6),
            &json!([{ "source_type": "huggingface", "url": "https://example.org/m.gguf" }])
        )
    );
    let models: Value = serde_json::from_str(job.models.get()).unwrap();
    assert_eq!(models, json!([{ "id": "m", "model_id": model["model_id"] }]));
    let prompts: Value = serde_json::from_str(job.prompts.get()).unwrap();
    assert_eq!(prompts, json!([{ "id": "plain", "prompt_id": row.prompt_id }]));

    let state = "SELECT status, claimed_by, claim_id FROM run_queue WHERE queue_id = $1";
    let state = client.query_one(state, &[&job.queue_id]).await.unwrap();
    assert_eq!((state.get("status"), state.get("claimed_by")), ("CLAIMED", "bench"));
    assert_eq!(state.get::<_, Uuid>("claim_id"), job.claim_id);
    assert!(next(&client, &runner).await.is_none());
}

#[tokio::test]
async fn the_lowest_priority_comes_first_and_then_the_oldest() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let mut enqueued = Vec::new();
    for priority in [100, 7, 100, 50, 7] {
        enqueued.push(enqueue_with_priority(&client, priority).await);
    }
    for index in [1, 4, 3, 0, 2] {
        assert_eq!(next(&client, &runner).await.unwrap().run_id, enqueued[index]);
    }
}

#[tokio::test]
async fn rows_that_do_not_fit_never_hide_the_one_that_does() {
    for unfit in [60, 200] {
        let database = Database::create().await;
        let client = database.client().await;
        let small = fixture::runner_with(&client, "small", 8.0, &["q4_k_m"]).await;
        let mut too_big = fixture::run();
        too_big["models"] = json!([fixture::model("big", "q4_k_m", 70.0)]);
        let mut too_fine = fixture::run();
        too_fine["models"] = json!([fixture::model("fine", "q8_0", 1.0)]);
        fixture::enqueue_run(&client, &too_big).await;
        fixture::enqueue_run(&client, &too_fine).await;
        let more = "INSERT INTO run_queue (run_id, prompt_id, priority, lane_id)
                    SELECT run_id, prompt_id, priority, lane_id FROM run_queue, generate_series(2, $1)";
        client.execute(more, &[&(unfit / 2)]).await.unwrap();
        let fits = enqueue_with_priority(&client, 900).await;

        assert_eq!(next(&client, &small).await.unwrap().run_id, fits);
        assert!(next(&client, &small).await.is_none());
    }
}

#[tokio::test]
async fn a_job_of_several_models_needs_a_runner_for_all_of_them() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut run = fixture::run();
    // 6 GB in q4_k_m; 9 × 1.063 × 1.15 = 11.002, so 12 GB, in q8_0.
    run["models"] = json!([fixture::model("a", "q4_k_m", 9.0), fixture::model("b", "q8_0", 9.0)]);
    let row = &fixture::enqueue_run(&client, &run).await.rows[0];
    assert_eq!(row.required_vram_gb, 12);
    assert_eq!(row.quantizations, ["q4_k_m", "q8_0"]);

    let one_only = fixture::runner_with(&client, "one", 80.0, &["q8_0"]).await;
    let too_small = fixture::runner_with(&client, "small", 11.9, &["q8_0", "q4_k_m"]).await;
    let exact = fixture::runner_with(&client, "exact", 12.0, &["Q8_0", "q4_k_m", "fp16"]).await;
    assert!(next(&client, &one_only).await.is_none());
    assert!(next(&client, &too_small).await.is_none());
    assert!(next(&client, &exact).await.is_some());
}

#[tokio::test]
async fn capabilities_of_the_request_count_before_the_registered_ones() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run()).await;

    for less in [
        json!({ "vram_gb": 2, "quantizations": ["q4_k_m"] }),
        json!({ "vram_gb": 24, "quantizations": [] }),
        json!({ "vram_gb": 24, "quantizations": ["q4_k_M_", "q8_0"] }),
    ] {
        assert!(ask(&client, &runner, json!({ "capabilities": less })).await.unwrap().is_none());
    }
    let more = json!({ "vram_gb": 24, "quantizations": ["q4_k_m", "q9_z", "q8_0"] });
    let job = ask(&client, &runner, json!({ "capabilities": more })).await.unwrap().unwrap();
    assert_eq!(job.unknown_quantizations, ["q9_z"]);
}

#[tokio::test]
async fn a_row_waits_for_its_retry_and_comes_when_it_is_due() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let run_id = enqueue_with_priority(&client, 1).await;
    client.execute("UPDATE run_queue SET retry_after = now() + interval '1 min'", &[]).await.unwrap();
    let other = enqueue_with_priority(&client, 2).await;

    assert_eq!(next(&client, &runner).await.unwrap().run_id, other);
    assert!(next(&client, &runner).await.is_none());
    client.execute("UPDATE run_queue SET retry_after = now() WHERE status = 'PENDING'", &[]).await.unwrap();
    assert_eq!(next(&client, &runner).await.unwrap().run_id, run_id);
}

#[tokio::test]
async fn the_same_claim_id_again_is_the_same_claim() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    enqueue_with_priority(&client, 1).await;
    enqueue_with_priority(&client, 2).await;
    let body = json!({ "claim_id": Uuid::new_v4() });

    let first = ask(&client, &runner, body.clone()).await.unwrap().unwrap();
    let again = ask(&client, &runner, body.clone()).await.unwrap().unwrap();
    assert_eq!(first.claim_id.to_string(), body["claim_id"].as_str().unwrap());
    assert_eq!(
        (first.queue_id, first.claim_id, first.lease_expires_at, first.attempt, first.config.get()),
        (again.queue_id, again.claim_id, again.lease_expires_at, again.attempt, again.config.get())
    );
    let live = "SELECT count(*) FROM run_queue WHERE status = 'CLAIMED'";
    assert_eq!(client.query_one(live, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_claim_id_is_spent_for_ever_and_belongs_to_one_runner() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let other = fixture::runner(&client, "other").await;
    enqueue_with_priority(&client, 1).await;
    enqueue_with_priority(&client, 2).await;
    let body = json!({ "claim_id": Uuid::new_v4() });
    let job = ask(&client, &runner, body.clone()).await.unwrap().unwrap();

    let taken = ask(&client, &other, body.clone()).await;
    assert!(matches!(taken, Err(Error::ClaimIdTaken)), "{taken:?}");

    let back = ReleaseRequest { claim_id: job.claim_id, failure: None };
    release(&client, &runner.authenticated, job.run_id, &back).await.unwrap();
    let lost = ask(&client, &runner, body.clone()).await;
    assert!(matches!(lost, Err(Error::ClaimLost)), "{lost:?}");
    let taken = ask(&client, &other, body).await;
    assert!(matches!(taken, Err(Error::ClaimIdTaken)), "{taken:?}");

    let job = fixture::claim_next(&client, &runner).await;
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    let lost = ask(&client, &runner, json!({ "claim_id": job.claim_id })).await;
    assert!(matches!(lost, Err(Error::ClaimLost)), "{lost:?}");
}

#[tokio::test]
async fn a_key_that_is_not_allowed_any_more_claims_nothing() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    enqueue_with_priority(&client, 1).await;
    let refused = async || {
        let refused = ask(&client, &runner, json!({})).await;
        assert!(matches!(refused, Err(Error::KeyNotAllowed)), "{refused:?}");
    };

    let owner = database.owner().await;
    owner.execute("UPDATE allowlist SET expires_at = now()", &[]).await.unwrap();
    refused().await;
    owner.execute("UPDATE allowlist SET expires_at = NULL, runner_id = 'another'", &[]).await.unwrap();
    refused().await;
    owner
        .execute("UPDATE allowlist SET runner_id = NULL, revoked_at = now(), revoked_by = 'x'", &[])
        .await
        .unwrap();
    refused().await;
    let public_key = runner.machine.public_key().to_base64();
    let entry = json!({ "public_key": public_key, "label": "again", "runner_id": "bench" });
    let entry = NewEntry::parse(&entry.to_string()).unwrap();
    allowlist::add(&client, &fixture::admin(), &entry).await.unwrap();
    assert!(next(&client, &runner).await.is_some());
}

#[tokio::test]
async fn a_row_of_a_foreign_tool_suits_any_runner() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner_with(&client, "bare", 0.0, &[]).await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let run_id = Uuid::new_v4();
    client
        .batch_execute(&format!(
            "INSERT INTO tasks (name, natural_key_hash) VALUES ('t', 'k');
             INSERT INTO prompts (task_id, file_path, git_commit_hash)
             SELECT task_id, 'a.b/prompts/plain.v2.md', 'abc' FROM tasks WHERE natural_key_hash = 'k';
             INSERT INTO runs (run_id, submitted_at, publisher_id) VALUES ('{run_id}', now(), 'harness');
             INSERT INTO run_queue (run_id, prompt_id, priority)
             SELECT '{run_id}', prompt_id, 500 FROM prompts WHERE git_commit_hash = 'abc'"
        ))
        .await
        .unwrap();

    let job = next(&client, &runner).await.unwrap();
    assert_eq!(job.run_id, run_id);
    assert!(job.model.is_none());
    assert_eq!([job.models.get(), job.tasks.get(), job.config.get()], ["[]", "[]", "{}"]);
    let prompts: Value = serde_json::from_str(job.prompts.get()).unwrap();
    assert_eq!(prompts[0]["id"], "plain.v2");
    assert!(next(&client, &runner).await.is_none());
}

#[tokio::test]
async fn every_field_error_of_a_request_is_told() {
    let body = json!({ "claim_id": "x", "capabilities": { "vram_gb": -1, "quants": [] }, "claimid": 1 });
    let pointers: Vec<String> = ClaimRequest::parse(&body.to_string())
        .unwrap_err()
        .into_iter()
        .map(|field_error| field_error.pointer)
        .collect();
    assert_eq!(
        pointers,
        [
            "/claim_id",
            "/capabilities/vram_gb",
            "/capabilities/quantizations",
            "/capabilities/quants",
            "/claimid"
        ]
    );
}

/// After five executions PL/pgSQL may settle on a plan that knows no parameter's value. Forced to it,
/// the claim must still walk its indexes in order and return the same rows.
#[tokio::test]
async fn a_generic_plan_claims_the_same_rows() {
    let database = Database::create().await;
    let client = database.client().await;
    let small = fixture::runner_with(&client, "small", 8.0, &["q4_k_m"]).await;
    for (id, billions, priority) in [("big", 70.0, 1), ("m", 9.0, 2), ("tiny", 1.0, 3)] {
        let mut run = fixture::run();
        run["models"] = json!([fixture::model(id, "q4_k_m", billions)]);
        run["priority"] = json!(priority);
        fixture::enqueue_run(&client, &run).await;
    }
    // 150 rows of each, so that the walk over the first 100 finds nothing that fits.
    client
        .batch_execute(
            "INSERT INTO run_queue (run_id, prompt_id, priority, lane_id)
             SELECT run_id, prompt_id, priority, lane_id FROM run_queue, generate_series(1, 149);
             SET plan_cache_mode = force_generic_plan",
        )
        .await
        .unwrap();
    let mut priorities = Vec::new();
    for _ in 0..300 {
        priorities.push(next(&client, &small).await.unwrap().priority);
    }
    assert!(next(&client, &small).await.is_none());
    assert!(priorities.is_sorted());
    assert_eq!(priorities.iter().filter(|priority| **priority == 2).count(), 150);
}

//! Tests of enqueueing: validation, model and prompt ids, lanes, and the stored jobs.

use bakeoff_core::Error;
use bakeoff_core::runs::enqueue::{NewRun, enqueue};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

fn errors(body: &str) -> Vec<String> {
    NewRun::parse(body).unwrap_err().into_iter().map(|field_error| field_error.pointer).collect()
}

/// Returns the field errors that `enqueue` reports for a request that parses.
async fn enqueue_errors(client: &Client, run: &Value) -> Vec<(String, String)> {
    let run = NewRun::parse(&run.to_string()).unwrap();
    match enqueue(client, &fixture::admin(), &run).await {
        Err(Error::Invalid(errors)) => errors.into_iter().map(|f| (f.pointer, f.detail)).collect(),
        other => panic!("{other:?}"),
    }
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

#[test]
fn every_invalid_field_of_a_request_is_reported_at_once() {
    assert_eq!(errors("{}"), ["/publisher_id", "/models", "/prompts", "/tasks", "/config"]);
    assert_eq!(errors("[]"), [""]);
    let mut run = fixture::run();
    run["run_id"] = json!("x");
    run["priority"] = json!(-1);
    run["max_attempts"] = json!(1.5);
    run["max_runtime_s"] = json!(0);
    run["split_by"] = json!("model");
    run["prioritty"] = json!(1);
    run["tasks"] = json!({});
    run["models"][0]["descriptor"]["active_parameter_count_b"] = Value::Null;
    run["models"][0]["descriptor"]["quantisation"] = json!("q4_k_m");
    run["prompts"] = json!([{ "id": "a", "file_path": "a" }, { "id": "a", "prompt_id": 1 }, { "id": "b", "prompt_id": 0 }]);
    assert_eq!(
        errors(&run.to_string()),
        [
            "/run_id",
            "/priority",
            "/max_attempts",
            "/max_runtime_s",
            "/models/0/descriptor/active_parameter_count_b",
            "/models/0/descriptor/quantisation",
            "/prompts/0/git_commit_hash",
            "/prompts/2/prompt_id",
            "/tasks",
            "/split_by",
            "/prioritty",
        ]
    );
    let mut run = fixture::run();
    run["models"] =
        json!([fixture::model("m", "q4_k_m", 1.0), fixture::model("m", "q8_0", 1.0), { "id": "n" }]);
    run["prompts"] = json!([fixture::prompt("p"), fixture::prompt("p")]);
    assert_eq!(errors(&run.to_string()), ["/models/2", "/models/1/id", "/prompts/1/id"]);
}

/// Otherwise a runner could read another document than the one that was enqueued.
#[test]
fn a_document_without_a_canonical_form_is_refused() {
    let run = fixture::run().to_string();
    for config in [r#"{"a": 1, "a": 2}"#, r#"{"a": "\ud800"}"#, r#"{"a": 1e999}"#, r#"{"a": "\u0000"}"#] {
        let body = run.replacen(r#"{"run":{"seed":11}}"#, config, 1);
        assert_ne!(body, run);
        assert_eq!(errors(&body), ["/config"], "{config}");
    }
}

/// `jsonb` cannot store U+0000. Without the check the insert would fail, and the response would be a 500.
#[test]
fn a_nul_character_in_free_form_json_is_a_field_error() {
    let mut run = fixture::run();
    let descriptor = &mut run["models"][0]["descriptor"];
    descriptor["sources"][0]["source_metadata"] = json!({ "a": ["\0"] });
    descriptor["creator"] = json!({ "name": "c", "service_identifiers": { "\0": 1 } });
    assert_eq!(
        errors(&run.to_string()),
        [
            "/models/0/descriptor/creator/service_identifiers",
            "/models/0/descriptor/sources/0/source_metadata"
        ]
    );
}

#[tokio::test]
async fn every_unknown_name_is_reported_and_nothing_is_written() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut run = fixture::run();
    run["models"] = json!([fixture::model("a", "q9_z", 1.0), fixture::model("b", "q4_k_m", 1.0)]);
    run["models"][1]["descriptor"]["architecture"] = json!("Sparse");
    run["models"][1]["descriptor"]["file_format"] = json!("gguf");
    run["models"][1]["descriptor"]["sources"][0]["source_type"] = json!("torrent");
    let pointers: Vec<String> =
        enqueue_errors(&client, &run).await.into_iter().map(|field_error| field_error.0).collect();
    assert_eq!(
        pointers,
        [
            "/models/0/descriptor/quantization",
            "/models/1/descriptor/architecture",
            "/models/1/descriptor/file_format",
            "/models/1/descriptor/sources/0/source_type",
        ]
    );

    let mut run = fixture::run();
    run["models"] = json!([{ "id": "m", "model_id": Uuid::new_v4() }]);
    assert_eq!(enqueue_errors(&client, &run).await[0].0, "/models/0");
    let mut run = fixture::run();
    run["prompts"] = json!([fixture::prompt("a"), { "id": "b", "prompt_id": 4711 }]);
    assert_eq!(enqueue_errors(&client, &run).await[0].0, "/prompts/1");
    for table in ["runs", "models", "prompts", "tasks", "run_queue", "audit_log"] {
        assert_eq!(count(&client, table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_model_without_quantization_or_parameter_count_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let owner = database.owner().await;
    let model_id = Uuid::new_v4();
    owner.execute("INSERT INTO models (model_id, name) VALUES ($1, 'x')", &[&model_id]).await.unwrap();
    let mut run = fixture::run();
    run["models"] = json!([{ "id": "m", "model_id": model_id }]);
    assert_eq!(enqueue_errors(&client, &run).await[0].0, "/models/0");
    for half in ["active_parameter_count_b = 9", "quantization_id = 10, active_parameter_count_b = NULL"] {
        owner.execute(&format!("UPDATE models SET {half}"), &[]).await.unwrap();
        assert_eq!(enqueue_errors(&client, &run).await[0].0, "/models/0", "{half}");
    }
    owner.execute("UPDATE models SET active_parameter_count_b = 9", &[]).await.unwrap();
    let row = &fixture::enqueue_run(&client, &run).await.rows[0];
    assert_eq!((row.required_vram_gb, row.quantizations.clone()), (6, vec!["q4_k_m".to_owned()]));
}

/// `run_model_metrics` has one row per prompt and model of a run. With two ids for one model, the result's
/// metrics would collide and the submit would fail.
#[tokio::test]
async fn two_ids_for_the_same_model_or_prompt_are_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut run = fixture::run();
    run["models"][0]["descriptor"]["model_hash"] = json!("sha256:same");
    let mut twin = run["models"][0].clone();
    twin["id"] = json!("twin");
    run["models"].as_array_mut().unwrap().push(twin);
    let errors = enqueue_errors(&client, &run).await;
    assert_eq!((errors.len(), errors[0].0.as_str()), (1, "/models/1"));

    for split in [Value::Null, json!("prompt")] {
        let mut run = fixture::run();
        let mut twin = fixture::prompt("plain");
        twin["id"] = json!("twin");
        run["prompts"].as_array_mut().unwrap().push(twin);
        run["split_by"] = split;
        let errors = enqueue_errors(&client, &run).await;
        assert_eq!((errors.len(), errors[0].0.as_str()), (1, "/prompts/1"));
    }
    assert_eq!(count(&client, "runs").await, 0);
}

#[tokio::test]
async fn enqueueing_a_run_id_twice_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let run = fixture::run();
    fixture::enqueue_run(&client, &run).await;
    let again = enqueue(&client, &fixture::admin(), &NewRun::parse(&run.to_string()).unwrap()).await;
    assert!(matches!(again, Err(Error::RunExists)), "{again:?}");
    assert_eq!((count(&client, "runs").await, count(&client, "run_queue").await), (1, 1));
    let line = client.query_one("SELECT actor, action, subject FROM audit_log", &[]).await.unwrap();
    assert_eq!((line.get("actor"), line.get("action")), (fixture::admin().principal(), "run.enqueue"));
    assert_eq!(line.get::<_, &str>("subject"), run["run_id"].as_str().unwrap());
}

/// The expected ids were computed with the harness's formula in Python:
/// `uuid.uuid5(NAMESPACE, f"{url}|{parameter_count_b}|{model_source_size}")`.
#[tokio::test]
async fn models_and_creators_get_the_harnesss_ids() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut run = fixture::run();
    let known = fixture::model("known", "q4_k_m", 9.0);
    let mut provisional = fixture::model("provisional", "q4_k_m", 8.0);
    provisional["descriptor"]["model_hash"] = Value::Null;
    provisional["descriptor"]["model_source_size"] = json!(5_027_783_488_i64);
    provisional["descriptor"]["creator"] =
        json!({ "name": "qwen", "display_name": "Qwen", "homepage": "https://qwen.ai" });
    let mut sizeless = fixture::model("sizeless", "q4_k_m", 0.5);
    sizeless["descriptor"]["model_hash"] = Value::Null;
    sizeless["descriptor"].as_object_mut().unwrap().remove("parameter_count_b");
    run["models"] = json!([known, provisional, sizeless]);
    fixture::enqueue_run(&client, &run).await;

    let rows =
        client.query("SELECT name, model_id, provisional FROM models ORDER BY name", &[]).await.unwrap();
    let ids: Vec<(String, String, bool)> =
        rows.iter().map(|row| (row.get(0), row.get::<_, Uuid>(1).to_string(), row.get(2))).collect();
    let expected = [
        ("known", "2568d4b6-a35a-5c70-aadb-31dbc28e9cdd", false),
        ("provisional", "5d960e7f-85f2-5d1c-a593-b13fe81eb335", true),
        ("sizeless", "c21bb957-caf5-5a62-b4a0-fbb9e7523f6a", true),
    ];
    assert_eq!(ids, expected.map(|(name, id, provisional)| (name.to_owned(), id.to_owned(), provisional)));
    let creator = "SELECT creator_id, name, provisional FROM creators";
    let creator = database.owner().await.query_one(creator, &[]).await.unwrap();
    assert_eq!(creator.get::<_, Uuid>("creator_id").to_string(), "d4435d62-f824-50fb-ae0b-cee970b6a435");
    assert_eq!((creator.get("name"), creator.get("provisional")), ("qwen", false));
}

#[tokio::test]
async fn every_field_of_a_descriptor_is_stored() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut run = fixture::run();
    let descriptor = &mut run["models"][0]["descriptor"];
    descriptor["architecture"] = json!("MoE");
    descriptor["file_format"] = json!("GGUF");
    descriptor["context_length_max"] = json!(32768);
    descriptor["version"] = json!("3.5");
    descriptor["model_source_size"] = json!(5_027_783_488_i64);
    descriptor["quantization"] = json!("Q4_K_M");
    descriptor["sources"][0]["source_metadata"] = json!({ "revision": "main" });
    fixture::enqueue_run(&client, &run).await;
    let row = client
        .query_one(
            "SELECT m.*, a.name AS architecture, f.name AS file_format, q.name AS quantization,
                    s.url, s.source_metadata, t.name AS source_type
               FROM models m JOIN model_architectures a USING (architecture_id)
               JOIN model_file_formats f USING (file_format_id)
               JOIN quantization_methods q USING (quantization_id)
               JOIN model_sources s USING (model_id) JOIN source_types t USING (source_type_id)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get("name"), row.get("model_hash")), ("m", "sha256:m"));
    assert_eq!((row.get("architecture"), row.get("file_format")), ("MoE", "GGUF"));
    assert_eq!((row.get("quantization"), row.get("version")), ("q4_k_m", "3.5"));
    assert_eq!(row.get::<_, i32>("context_length_max"), 32768);
    assert_eq!(row.get::<_, i64>("model_source_size"), 5_027_783_488);
    assert_eq!(row.get::<_, f64>("active_parameter_count_b"), 9.0);
    assert_eq!((row.get("url"), row.get("source_type")), ("https://example.org/m.gguf", "huggingface"));
    assert_eq!(row.get::<_, Value>("source_metadata"), json!({ "revision": "main" }));
}

#[tokio::test]
async fn known_models_and_prompts_are_reused() {
    let database = Database::create().await;
    let client = database.client().await;
    let first = fixture::enqueue_run(&client, &fixture::run()).await;
    let second = fixture::enqueue_run(&client, &fixture::run()).await;
    assert_eq!(first.rows[0].prompt_id, second.rows[0].prompt_id);
    for table in ["models", "model_sources", "prompts", "tasks"] {
        assert_eq!(count(&client, table).await, 1, "{table}");
    }
    assert_eq!(count(&client, "queue_lanes WHERE lane_id <> 0").await, 1);

    // Another commit of the file is another prompt of the same task.
    let mut run = fixture::run();
    run["prompts"][0]["git_commit_hash"] = json!("0ddba11");
    assert_ne!(fixture::enqueue_run(&client, &run).await.rows[0].prompt_id, first.rows[0].prompt_id);
    assert_eq!((count(&client, "prompts").await, count(&client, "tasks").await), (2, 1));
    let task: String = client.query_one("SELECT name FROM tasks", &[]).await.unwrap().get(0);
    assert_eq!(task, "plain");

    // References by id resolve to the same rows.
    let model_id: Uuid = client.query_one("SELECT model_id FROM models", &[]).await.unwrap().get(0);
    let mut by_id = fixture::run();
    by_id["models"] = json!([{ "id": "m", "model_id": model_id }]);
    by_id["prompts"] = json!([{ "id": "plain", "prompt_id": first.rows[0].prompt_id }]);
    let third = fixture::enqueue_run(&client, &by_id).await;
    assert_eq!(third.rows[0].required_vram_gb, first.rows[0].required_vram_gb);
    assert_eq!(third.rows[0].quantizations, first.rows[0].quantizations);
    assert_eq!(count(&client, "queue_lanes WHERE lane_id <> 0").await, 1);
}

#[tokio::test]
async fn a_model_inserted_by_the_harness_is_found_by_its_hash() {
    let database = Database::create().await;
    let client = database.client().await;
    let model_id = Uuid::new_v4();
    client
        .execute("INSERT INTO models (model_id, name, model_hash) VALUES ($1, 'x', 'sha256:m')", &[&model_id])
        .await
        .unwrap();
    fixture::enqueue_run(&client, &fixture::run()).await;
    let models: String = client.query_one("SELECT models::text FROM queue_jobs", &[]).await.unwrap().get(0);
    assert!(models.contains(&model_id.to_string()), "{models}");
    assert_eq!(count(&client, "models").await, 1);
}

/// Required GB = ⌈parameters × bytes × 1.15⌉, computed in `numeric`: a rounding error of floats could raise the
/// ceiling by 1 GB and exclude a card that is large enough.
#[tokio::test]
async fn the_lane_is_the_maximum_vram_and_all_quantizations_of_the_models() {
    let database = Database::create().await;
    let client = database.client().await;
    for (models, vram_gb, quantizations) in [
        (json!([fixture::model("a", "fp16", 10.0)]), 23, vec!["fp16"]), // 10 × 2 × 1.15 = 23 exactly
        (json!([fixture::model("b", "q8_0", 9.0)]), 12, vec!["q8_0"]),  // 11.002…
        (
            json!([
                fixture::model("b", "q8_0", 9.0),
                fixture::model("c", "fp16", 1.0),
                fixture::model("d", "q8_0", 2.0)
            ]),
            12,
            vec!["fp16", "q8_0"],
        ),
    ] {
        let mut run = fixture::run();
        run["models"] = models;
        let row = &fixture::enqueue_run(&client, &run).await.rows[0];
        assert_eq!(
            (row.required_vram_gb, row.quantizations.clone()),
            (vram_gb, quantizations.iter().map(ToString::to_string).collect())
        );
        let lane = "SELECT l.required_vram_gb, cardinality(l.quantization_ids)
                      FROM run_queue JOIN queue_lanes l USING (lane_id) WHERE queue_id = $1";
        let lane = client.query_one(lane, &[&row.queue_id]).await.unwrap();
        assert_eq!(
            (lane.get::<_, i32>(0), lane.get::<_, i32>(1)),
            (vram_gb, i32::try_from(quantizations.len()).unwrap())
        );
    }
}

#[tokio::test]
async fn a_claimed_job_has_tasks_and_config_byte_for_byte() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let tasks = "[ {\"id\" : \"sum\",\t\"x\": 1.50, \"y\": 1E+2, \"z\": -0, \"é\": \"\\u00e9\\/\"} ]";
    let config = "{\"b\":1,  \"a\": {\"big\": 123456789012345678901234567890, \"f\": 0.1000}\n}";
    let body = fixture::run().to_string().replacen(r#"[{"id":"sum"}]"#, tasks, 1).replacen(
        r#"{"run":{"seed":11}}"#,
        config,
        1,
    );
    let run = NewRun::parse(&body).unwrap();
    enqueue(&client, &fixture::admin(), &run).await.unwrap();
    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!((job.tasks.get(), job.config.get()), (tasks, config));
}

#[tokio::test]
async fn a_run_split_by_prompt_has_one_row_and_one_job_per_prompt() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let mut run = fixture::run();
    run["prompts"] = json!([fixture::prompt("a"), fixture::prompt("b")]);
    run["config"] =
        json!({ "z": 1, "prompts": [{ "id": "a", "system": "x" }, { "id": "b" }, { "id": "c" }] });
    run["split_by"] = json!("prompt");
    run["max_runtime_s"] = json!(60);
    let rows = fixture::enqueue_run(&client, &run).await.rows;
    assert_eq!(rows.len(), 2);
    assert_ne!(rows[0].prompt_id, rows[1].prompt_id);

    let mut prompts = Vec::new();
    for _ in 0..2 {
        let job = fixture::claim_next(&client, &runner).await;
        let own: Value = serde_json::from_str(job.prompts.get()).unwrap();
        let config: Value = serde_json::from_str(job.config.get()).unwrap();
        assert_eq!(own.as_array().unwrap().len(), 1);
        assert_eq!(config["prompts"].as_array().unwrap().len(), 1);
        assert_eq!((&config["prompts"][0]["id"], &config["z"]), (&own[0]["id"], &json!(1)));
        prompts.push((own[0]["prompt_id"].clone(), own[0]["id"].clone()));
    }
    prompts.sort_by_key(|(_, id)| id.to_string());
    let expected = [(json!(rows[0].prompt_id), json!("a")), (json!(rows[1].prompt_id), json!("b"))];
    assert_eq!(prompts, expected);

    let mut whole = fixture::run();
    whole["prompts"] = json!([fixture::prompt("b"), fixture::prompt("a")]);
    let row = &fixture::enqueue_run(&client, &whole).await.rows[0];
    assert_eq!(row.prompt_id, rows[1].prompt_id);
    let job = fixture::claim_next(&client, &runner).await;
    let both: Value = serde_json::from_str(job.prompts.get()).unwrap();
    assert_eq!((&both[0]["id"], &both[1]["id"]), (&json!("b"), &json!("a")));
}

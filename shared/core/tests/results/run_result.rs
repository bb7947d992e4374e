//! Tests of result validation: the harness's results are valid, and each error has its pointer.

use bakeoff_core::field_error::FieldErrors;
use bakeoff_core::results::run_result::{FailureCode, RunResult, RunStatus};
use serde_json::{Value, json};

/// Returns the result in a fixture of the harness.
fn real(name: &str) -> Value {
    let text = match name {
        "complete" => include_str!("../fixtures/signed-complete.json"),
        "incomplete" => include_str!("../fixtures/signed-incomplete.json"),
        "one-prompt" => include_str!("../fixtures/result-one-prompt.json"),
        "two-prompts" => include_str!("../fixtures/result-two-prompts.json"),
        other => panic!("no fixture is called {other}"),
    };
    let mut document: Value = serde_json::from_str(text).unwrap();
    if document.get("result").is_some() { document["result"].take() } else { document }
}

/// Returns a result with two tasks, two prompts and one model, every cell with score 1, and no optional members.
fn small() -> Value {
    let record = |task: &str, prompt: &str| -> Value {
        json!({"task_id": task, "prompt_id": prompt, "model_id": "m", "quality_heuristic": 1})
    };
    json!({
        "run_id": "r", "timestamp": "20261121-211113",
        "config": {"models": [{"id": "m", "gguf": "m.gguf"}], "prompts": [{"id": "p"}, {"id": "q"}]},
        "provenance": {"config_hash": "c", "seed": 0, "git": {"sha": "s"}},
        "model_metadata": [{"id": "m", "gguf": "m.gguf"}],
        "tasks": [{"id": "t"}, {"id": "u"}],
        "records": [record("t", "p"), record("t", "q"), record("u", "p"), record("u", "q")],
    })
}

fn small_with(change: impl FnOnce(&mut Value)) -> Value {
    let mut result = small();
    change(&mut result);
    result
}

fn parse(result: &Value) -> RunResult {
    RunResult::parse(&result.to_string()).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn errors(result: &Value) -> Vec<(String, String)> {
    let errors = RunResult::parse(&result.to_string()).expect_err("must be refused");
    errors.into_iter().map(|field_error| (field_error.pointer, field_error.detail)).collect()
}

fn pointers(result: &Value) -> Vec<String> {
    errors(result).into_iter().map(|(pointer, _)| pointer).collect()
}

/// Returns the pointers of the errors that a change to the small result causes.
fn errors_after(change: impl FnOnce(&mut Value)) -> Vec<String> {
    pointers(&small_with(change))
}

#[test]
fn the_harnesss_results_are_valid_and_their_scores_are_recomputed() {
    let complete = parse(&real("complete"));
    assert_eq!(complete.run_id(), "3f0d3b52-7f6e-4f2b-9a3e-6a6f1f6f0a01");
    assert_eq!(complete.git_sha(), "ad48ac3");
    assert_eq!(complete.config_hash(), "c6ab0f4736b64cc5");
    assert_eq!(complete.model_ids(), ["qwen3_5_9b_q4"]);
    assert_eq!(complete.prompt_ids(), ["plain"]);
    assert_eq!(complete.task_count(), 8);
    assert_eq!(complete.status(), RunStatus::Complete);
    assert_eq!(complete.scores()[0].partial_score, 0.625);
    let gpu = complete.hardware().gpu.as_ref().unwrap();
    assert_eq!((gpu.gpu_model.as_str(), gpu.vram_mb), ("NVIDIA GeForce RTX 4090", Some(24564)));
    assert_eq!(complete.hardware().power_limit_w, Some(450.0));
    assert_eq!(complete.hardware().system.ram_gb, Some(23.54));

    let incomplete = parse(&real("incomplete"));
    let score = &incomplete.scores()[0];
    assert_eq!(incomplete.status(), RunStatus::Incomplete);
    assert_eq!((score.cells_attempted, score.cells_total, score.partial_score), (9, 16, 0.3125));
    assert_eq!(score.dominant_failure_code, Some(FailureCode::Unknown));

    assert_eq!(parse(&real("one-prompt")).task_count(), 12);
    let two = parse(&real("two-prompts"));
    assert_eq!(two.prompt_ids(), ["plain", "cot"]);
    assert_eq!(two.scores()[0].cells_total, 120);
}

#[test]
fn optional_members_may_be_absent_null_or_unknown() {
    assert_eq!(parse(&small()).status(), RunStatus::Complete);
    let nulls = small_with(|result| {
        for name in ["run_status", "model_scores", "hardware", "resumed_from", "judgements"] {
            result[name] = Value::Null;
        }
        let record = &mut result["records"][0];
        for name in [
            "tier",
            "failure_code",
            "failure_detail",
            "error",
            "judge_score",
            "peak_vram_mb",
            "tokens_per_second",
        ] {
            record[name] = Value::Null;
        }
        result["records"][1]["failure_code"] = "".into();
        result["records"][1]["error"] = "".into();
        result["of_a_later_harness"] = json!({"anything": [1]});
        result["records"][2]["of_a_later_harness"] = true.into();
    });
    assert_eq!(parse(&nulls).status(), RunStatus::Complete);
}

#[test]
fn each_missing_required_member_is_reported() {
    let empty = ["/run_id", "/timestamp", "/config", "/provenance", "/model_metadata", "/tasks", "/records"];
    assert_eq!(pointers(&json!({})), empty);
    assert_eq!(pointers(&json!([])), [""]);
    assert_eq!(pointers(&json!("text")), [""]);
    assert_eq!(RunResult::parse("{} x").unwrap_err()[0].pointer, "");

    assert_eq!(errors_after(|r| r["run_id"] = "".into()), ["/run_id"]);
    assert_eq!(errors_after(|r| r["run_id"] = 7.into()), ["/run_id"]);
    assert_eq!(errors_after(|r| r["config"] = json!({})), ["/config/models", "/config/prompts"]);
    assert_eq!(errors_after(|r| r["config"]["models"] = json!([])), ["/config/models"]);
    assert_eq!(errors_after(|r| r["config"]["models"] = json!({})), ["/config/models"]);
    assert_eq!(errors_after(|r| r["config"]["models"][0]["gguf"] = Value::Null), ["/config/models/0/gguf"]);
    assert_eq!(
        errors_after(|r| r["config"]["prompts"][1] = json!({"id": "p"})).first().unwrap(),
        "/config/prompts/1/id"
    );
    assert_eq!(
        errors_after(|r| r["provenance"] = json!({"seed": null, "git": {"sha": ""}})),
        ["/provenance/config_hash", "/provenance/seed", "/provenance/git/sha"]
    );
    assert_eq!(errors_after(|r| r["provenance"]["git"] = Value::Null), ["/provenance/git"]);
    assert_eq!(errors_after(|r| r["provenance"]["git"] = json!(["sha"])), ["/provenance/git"]);
    assert_eq!(
        errors_after(|r| r["model_metadata"] = json!([{"gguf": 1}])),
        ["/model_metadata/0/gguf", "/model_metadata/0/id"]
    );
    assert_eq!(errors_after(|r| r["tasks"] = json!([])), ["/tasks"]);
    assert_eq!(errors_after(|r| r["records"] = json!([])), ["/records"]);
    assert_eq!(errors_after(|r| r["records"][3] = json!(["t", "p", "m"])), ["/records/3"]);
    assert_eq!(errors_after(|r| r["run_status"] = "done".into()), ["/run_status"]);
}

#[test]
fn a_failed_run_may_have_no_records() {
    let mut failed = small();
    failed["run_status"] = "failed".into();
    failed["records"] = json!([]);
    failed["model_scores"] = json!([{
        "model_id": "m", "status": "failed", "cells_total": 4, "cells_attempted": 0,
        "completeness": 0, "partial_score": 0.0, "dominant_failure_code": null,
    }]);
    let result = parse(&failed);
    assert_eq!(result.status(), RunStatus::Failed);
    assert_eq!(result.scores()[0].partial_score, 0.0);

    failed.as_object_mut().unwrap().remove("records");
    assert_eq!(parse(&failed).status(), RunStatus::Failed);
    failed["run_status"] = "incomplete".into();
    assert_eq!(pointers(&failed), ["/records"]);
}

#[test]
fn each_member_of_a_record_must_have_its_type_and_range() {
    let changes = json!({
        "quality_heuristic": true, "judge_score": "3", "failure_code": "exploded", "failure_detail": 1,
        "error": {}, "tier": "secret", "peak_vram_mb": -1, "tokens_per_second": 1e300,
        "flops_per_token_theoretical": -0.5, "energy_wh": [], "wall_clock_seconds": "1",
        "prompt_tokens": false, "task_id": "", "prompt_id": null, "model_id": 5,
    });
    for (name, value) in changes.as_object().unwrap() {
        let found = errors_after(|result| result["records"][1][name] = value.clone());
        assert_eq!(found, [format!("/records/1/{name}")], "{name}");
    }
    let all = errors_after(|result| {
        let record = result["records"][1].as_object_mut().unwrap();
        record.extend(changes.as_object().unwrap().clone());
    });
    assert_eq!(all.len(), changes.as_object().unwrap().len());
}

/// The database's columns are 32-bit integers. A larger number is refused and does not wrap around.
#[test]
fn values_that_the_database_cannot_store_are_refused() {
    assert_eq!(
        errors_after(|r| r["records"][0]["peak_vram_mb"] = 2147483647.5.into()),
        ["/records/0/peak_vram_mb"]
    );
    assert_eq!(errors_after(|r| r["records"][0]["peak_vram_mb"] = 1e300.into()), ["/records/0/peak_vram_mb"]);
    let hardware = json!({
        "vram_mb": 4294967296u64, "power_limit_w": -1, "cpu_cores": -2, "cpu_threads": "8", "ram_gb": 1e300,
        "gpu_model": "a\0b", "os_name": 1,
    });
    let mut found = errors_after(|r| r["hardware"] = hardware.clone());
    found.sort();
    let mut expected: Vec<String> =
        hardware.as_object().unwrap().keys().map(|name| format!("/hardware/{name}")).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(errors_after(|r| r["hardware"] = json!([])), ["/hardware"]);
}

#[test]
fn a_main_record_must_be_the_only_one_of_its_cell_in_the_run() {
    assert_eq!(errors_after(|r| r["records"][0]["task_id"] = "x".into()), ["/records/0/task_id"]);
    assert_eq!(errors_after(|r| r["records"][0]["prompt_id"] = "x".into()), ["/records/0/prompt_id"]);
    assert_eq!(errors_after(|r| r["records"][0]["model_id"] = "x".into()), ["/records/0/model_id"]);
    assert_eq!(errors_after(|r| r["records"][2]["task_id"] = "t".into()), ["/records/2"]);

    let floor = small_with(|r| {
        let floor = json!({"task_id": "d", "prompt_id": "floor", "model_id": "m", "tier": "dumb_model",
                           "failure_code": "oom", "quality_heuristic": 0});
        r["records"].as_array_mut().unwrap().extend([floor.clone(), floor]);
    });
    let floor = parse(&floor);
    assert_eq!(floor.status(), RunStatus::Complete);
    assert_eq!(floor.scores()[0].dominant_failure_code, None);
    assert_eq!(floor.scores()[0].partial_score, 1.0);
}

#[test]
fn cells_are_scored_by_the_harnesss_rules() {
    for (record, score) in [
        (json!({"quality_heuristic": 0.25}), 0.25),
        (json!({"quality_heuristic": 0.25, "judge_score": 5}), 0.25),
        (json!({"quality_heuristic": 1.5, "judge_score": 3}), 0.5),
        (json!({"quality_heuristic": -1, "judge_score": 9}), 1.0),
        (json!({"quality_heuristic": null, "judge_score": 0}), 0.0),
        (json!({"quality_heuristic": 2}), 0.0),
        (json!({"quality_heuristic": 1, "failure_code": "oom"}), 0.0),
        (json!({"quality_heuristic": 1, "error": "boom"}), 0.0),
    ] {
        let result = small_with(|result| {
            result["records"][0].as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
        });
        assert_eq!(parse(&result).scores()[0].partial_score, (3.0 + score) / 4.0, "{record}");
    }
}

#[test]
fn the_dominant_code_is_the_most_frequent_and_then_the_earliest() {
    let with_codes = |codes: [&str; 4]| {
        let result = small_with(|result| {
            for (index, code) in codes.into_iter().enumerate() {
                result["records"][index]["failure_code"] = code.into();
            }
        });
        parse(&result).scores()[0].dominant_failure_code
    };
    assert_eq!(with_codes(["oom", "timeout", "timeout", ""]), Some(FailureCode::Timeout));
    assert_eq!(with_codes(["oom", "timeout", "timeout", "oom"]), Some(FailureCode::Oom));
    assert_eq!(with_codes(["", "", "", ""]), None);
}

#[test]
fn the_run_status_is_the_worst_models() {
    let second_model = |records: usize| {
        let result = small_with(|result| {
            for list in ["/config/models", "/model_metadata"] {
                let list = result.pointer_mut(list).unwrap().as_array_mut().unwrap();
                list.push(json!({"id": "n", "gguf": "n"}));
            }
            let mut more = result["records"].as_array().unwrap()[..records].to_vec();
            more.iter_mut().for_each(|record| record["model_id"] = "n".into());
            result["records"].as_array_mut().unwrap().extend(more);
        });
        parse(&result).status()
    };
    assert_eq!(second_model(4), RunStatus::Complete);
    assert_eq!(second_model(1), RunStatus::Incomplete);
    assert_eq!(second_model(0), RunStatus::Failed);
}

#[test]
fn stated_scores_that_differ_from_the_records_are_refused() {
    let mut result = real("incomplete");
    result["run_status"] = "complete".into();
    let score = &mut result["model_scores"][0];
    score["partial_score"] = 0.5.into();
    score["completeness"] = 1.into();
    score["status"] = "complete".into();
    score["cells_attempted"] = 16.into();
    score["cells_total"] = 9.into();
    score["dominant_failure_code"] = Value::Null;
    let mut found = errors(&result);
    found.sort();
    let expected = [
        ("/model_scores/0/cells_attempted", "is 16, but the records give 9"),
        ("/model_scores/0/cells_total", "is 9, but the records give 16"),
        ("/model_scores/0/completeness", "is 1, but the records give 0.5625"),
        ("/model_scores/0/dominant_failure_code", "is null, but the records give unknown"),
        ("/model_scores/0/partial_score", "is 0.5, but the records give 0.3125"),
        ("/model_scores/0/status", "is complete, but the records give incomplete"),
        ("/run_status", "is complete, but the records give incomplete"),
    ];
    assert_eq!(found, expected.map(|(pointer, detail)| (pointer.to_owned(), detail.to_owned())));
}

#[test]
fn stated_scores_may_differ_by_rounding() {
    let stated = |score: f64| {
        let mut result = real("one-prompt");
        result["model_scores"][0]["partial_score"] = score.into();
        RunResult::parse(&result.to_string()).is_ok()
    };
    assert!(stated(2.0 / 3.0 + 1e-10));
    assert!(!stated(2.0 / 3.0 + 1e-8));
}

#[test]
fn model_scores_must_have_each_model_of_the_run_once() {
    assert_eq!(errors_after(|r| r["model_scores"] = json!([])), ["/model_scores"]);
    assert_eq!(
        errors_after(|r| r["model_scores"] = json!([{"model_id": "x"}])),
        ["/model_scores/0/model_id"]
    );
    let duplicate = json!([{"model_id": "m"}, {"model_id": "m"}]);
    assert_eq!(errors_after(|r| r["model_scores"] = duplicate), ["/model_scores/1/model_id"]);
    let invalid = json!([{"model_id": "m", "partial_score": "1", "status": 1}]);
    assert_eq!(
        errors_after(|r| r["model_scores"] = invalid),
        ["/model_scores/0/status", "/model_scores/0/partial_score"]
    );
}

#[test]
fn a_text_without_a_canonical_form_is_refused() {
    let text = small().to_string();
    let duplicate = text.replacen("\"run_id\":", "\"run_id\":\"x\",\"run_id\":", 1);
    let errors = RunResult::parse(&duplicate).unwrap_err();
    assert!(errors[0].detail.starts_with("duplicate key \"run_id\""), "{errors:?}");
}

#[test]
fn errors_of_a_large_invalid_result_are_bounded_in_number_and_length() {
    let result = small_with(|r| r["records"] = vec![json!({"model_id": "x".repeat(10_000)}); 500].into());
    let errors = errors(&result);
    assert_eq!(errors.len(), FieldErrors::LIMIT + 1);
    assert!(errors.iter().all(|(pointer, detail)| pointer.len() + detail.len() < 200));
}

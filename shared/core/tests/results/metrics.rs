//! Tests of the metrics computed from a result. The expected values for the harness's results were computed from
//! their records in Python.

use bakeoff_core::results::metrics::{HardwareMetrics, ModelMetrics, hardware_metrics, model_metrics};
use bakeoff_core::results::run_result::RunResult;
use serde_json::{Value, json};
use uuid::Uuid;

const MODEL: Uuid = Uuid::from_u128(7);

fn real(text: &str) -> RunResult {
    let mut document: Value = serde_json::from_str(text).unwrap();
    let result = if document.get("result").is_some() { document["result"].take() } else { document };
    parse(&result)
}

fn parse(result: &Value) -> RunResult {
    RunResult::parse(&result.to_string()).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn rows(result: &RunResult, model: &str, prompts: &[&str]) -> Vec<ModelMetrics> {
    let prompts: Vec<(String, i32)> = prompts.iter().map(|id| (*id).to_owned()).zip(1..).collect();
    model_metrics(result, &[(model.to_owned(), MODEL)], &prompts).unwrap()
}

/// Returns a result with four tasks, one model, the prompts `p` and `q`, and these records.
fn with_records(records: Value) -> RunResult {
    parse(&json!({
        "run_id": "r", "timestamp": "20261121-211113",
        "config": {"models": [{"id": "m", "gguf": "g"}], "prompts": [{"id": "p"}, {"id": "q"}]},
        "provenance": {"config_hash": "c", "seed": 0, "git": {"sha": "s"}},
        "model_metadata": [{"id": "m", "gguf": "g"}],
        "tasks": [{"id": "a"}, {"id": "b"}, {"id": "c"}, {"id": "d"}],
        "records": records,
    }))
}

/// Returns a record of prompt `p` with additional members.
fn record(task: &str, more: Value) -> Value {
    let mut record = json!({"task_id": task, "prompt_id": "p", "model_id": "m"});
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    record
}

fn row_of(records: Value) -> ModelMetrics {
    rows(&with_records(records), "m", &["p"]).remove(0)
}

#[track_caller]
fn assert_hardware(metrics: &HardwareMetrics, peak_vram_mb: i32, tflops: f64) {
    assert_eq!(metrics.peak_vram_mb, Some(peak_vram_mb));
    assert!((metrics.measured_tflops.unwrap() - tflops).abs() < 1e-9, "{metrics:?}");
    assert_eq!(metrics.power_limit_w, Some(450.0));
    assert_eq!(metrics.gpu_hardware.as_ref().unwrap().vram_mb, Some(24564));
    assert_eq!(metrics.system_hardware.cpu_model.as_deref(), Some("Intel(R) Xeon(R) Processor"));
    assert_eq!(metrics.system_software.driver_version.as_deref(), Some("560.35.03"));
}

#[test]
fn the_metrics_of_a_complete_run_equal_those_computed_in_python() {
    let result = real(include_str!("../fixtures/signed-complete.json"));
    let expected = ModelMetrics {
        prompt_id: 1,
        model_id: MODEL,
        score: Some(0.625),
        pass_fail: Some(false),
        failure_reason: None,
        failure_detail: None,
        gflops_per_token: Some(18.0),
    };
    assert_eq!(rows(&result, "qwen3_5_9b_q4", &["plain"]), [expected]);
    assert_hardware(&hardware_metrics(&result), 6863, 1.0884226693148027);
}

#[test]
fn the_metrics_of_an_incomplete_run_equal_those_computed_in_python() {
    let result = real(include_str!("../fixtures/signed-incomplete.json"));
    let rows = rows(&result, "flaky_llama31_8b_q4", &["plain"]);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].score, Some(0.3125));
    assert_eq!(rows[0].failure_reason.as_deref(), Some("unknown"));
    assert!(rows[0].failure_detail.as_ref().unwrap().starts_with("Server error '500"));
    assert_hardware(&hardware_metrics(&result), 6899, 2.164613665992245);
}

#[test]
fn the_metrics_of_bundles_equal_those_computed_in_python() {
    let result = real(include_str!("../fixtures/result-one-prompt.json"));
    let one = rows(&result, "qwen3_4b_q8", &["plain"]);
    assert!((one[0].score.unwrap() - 2.0 / 3.0).abs() < 1e-9);
    assert_hardware(&hardware_metrics(&result), 6836, 1.0960929293305184);

    let result = real(include_str!("../fixtures/result-two-prompts.json"));
    let two = rows(&result, "llama32_1b_q4", &["cot", "plain"]);
    assert_eq!(two.iter().map(|row| row.prompt_id).collect::<Vec<_>>(), [1, 2]);
    assert!(two.iter().all(|row| (row.score.unwrap() - 0.4166666666666667).abs() < 1e-9));
    assert_hardware(&hardware_metrics(&result), 6412, 1.415120282161275);
    // A prompt that is not part of the job is ignored.
    assert_eq!(rows(&result, "llama32_1b_q4", &["cot"]).len(), 1);
}

#[test]
fn a_cell_without_a_record_scores_0() {
    let passed = |task| record(task, json!({"quality_heuristic": 1}));
    let all = row_of(json!([passed("a"), passed("b"), passed("c"), passed("d")]));
    assert_eq!((all.score, all.pass_fail), (Some(1.0), Some(true)));
    let three = row_of(json!([passed("a"), passed("b"), passed("c")]));
    assert_eq!((three.score, three.pass_fail), (Some(0.75), Some(false)));
    let failed = record("d", json!({"quality_heuristic": 1, "failure_code": "oom"}));
    let failed = row_of(json!([passed("a"), passed("b"), passed("c"), failed]));
    assert_eq!((failed.score, failed.pass_fail), (Some(0.75), Some(false)));
}

#[test]
fn a_prompt_with_a_score_between_0_and_1_has_no_pass_fail() {
    let row = row_of(json!([record("a", json!({"quality_heuristic": 0.5}))]));
    assert_eq!((row.score, row.pass_fail), (Some(0.125), None));
}

#[test]
fn a_prompt_without_attempts_has_no_score() {
    let row = row_of(json!([record("a", json!({"error": "boom"}))]));
    assert_eq!((row.score, row.pass_fail), (None, Some(false)));
    assert_eq!((row.failure_reason, row.failure_detail, row.gflops_per_token), (None, None, None));

    let other_prompt = with_records(json!([record("a", json!({"quality_heuristic": 1}))]));
    let row = rows(&other_prompt, "m", &["q"]).remove(0);
    assert_eq!((row.score, row.pass_fail), (None, Some(false)));
}

#[test]
fn failure_reason_and_detail_are_of_the_most_frequent_code() {
    let failed = |task, code: &str, detail: Value| {
        record(task, json!({"failure_code": code, "failure_detail": detail}))
    };
    let row = row_of(json!([
        failed("a", "oom", "no room".into()),
        failed("b", "timeout", Value::Null),
        failed("c", "timeout", "slow\u{0}".into()),
        failed("d", "timeout", "slower".into()),
    ]));
    assert_eq!(row.failure_reason.as_deref(), Some("timeout"));
    assert_eq!(row.failure_detail.as_deref(), Some("slow\u{fffd}"));
}

#[test]
fn the_floor_suite_counts_for_the_hardware_metrics_only() {
    let floor = json!({"tier": "dumb_model", "prompt_id": "p", "quality_heuristic": 1, "failure_code": "oom",
                       "peak_vram_mb": 900.25, "tokens_per_second": 10, "flops_per_token_theoretical": 2e12});
    let result = with_records(json!([
        record(
            "a",
            json!({"quality_heuristic": 1, "peak_vram_mb": 800, "tokens_per_second": 5,
                           "flops_per_token_theoretical": 2000000000000u64})
        ),
        record("b", json!({"tokens_per_second": 1e9})),
        record("floor", floor),
    ]));
    let row = rows(&result, "m", &["p"]).remove(0);
    assert_eq!((row.score, row.failure_reason, row.gflops_per_token), (Some(0.25), None, Some(2000.0)));
    let hardware = hardware_metrics(&result);
    assert_eq!((hardware.peak_vram_mb, hardware.measured_tflops), (Some(901), Some(15.0)));
}

#[test]
fn missing_measurements_give_no_metrics() {
    let hardware = hardware_metrics(&with_records(json!([record("a", json!({}))])));
    assert_eq!(hardware.peak_vram_mb, None);
    assert_eq!(hardware.measured_tflops, None);
    assert_eq!(hardware.gpu_hardware, None);
}

#[test]
fn the_largest_accepted_measurements_give_finite_metrics() {
    let most = json!({"tokens_per_second": 1e9, "flops_per_token_theoretical": 1e21,
                      "peak_vram_mb": i32::MAX});
    let records = ["a", "b", "c", "d"].map(|task| record(task, most.clone()));
    let hardware = hardware_metrics(&with_records(records.to_vec().into()));
    assert_eq!(hardware.peak_vram_mb, Some(i32::MAX));
    assert_eq!(hardware.measured_tflops, Some(1e18));
}

#[test]
fn a_result_without_a_model_and_prompt_of_the_job_is_refused() {
    let result = real(include_str!("../fixtures/signed-complete.json"));
    let models = [("x".to_owned(), MODEL), ("qwen3_5_9b_q4".to_owned(), MODEL)];
    let prompts = [("plain".to_owned(), 1), ("cot".to_owned(), 2)];
    let errors = model_metrics(&result, &models, &prompts).unwrap_err();
    let pointers: Vec<&str> = errors.iter().map(|field_error| field_error.pointer.as_str()).collect();
    assert_eq!(pointers, ["/config/models", "/config/prompts"]);
}

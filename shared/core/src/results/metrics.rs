//! Computes the rows of the metrics tables from a result.
//!
//! A result identifies models and prompts by the ids of its configuration, the database by a UUID and an integer.
//! The job maps one to the other; models and prompts that are not part of the job are ignored.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::field_error::{FieldError, FieldErrors, quote};
use crate::results::run_result::{
    Cell, FailureCode, GpuHardware, Record, RunResult, SystemHardware, SystemSoftware, dominant_code,
};

/// A row of `run_model_metrics`: one model with one prompt, over all tasks of the run. Excludes the floor suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMetrics {
    /// `prompts.prompt_id`.
    pub prompt_id: i32,
    /// `models.model_id`.
    pub model_id: Uuid,
    /// Sum of the attempted cells' scores ÷ number of tasks, in [0, 1]; `None` if no cell was attempted.
    pub score: Option<f64>,
    /// Whether every cell scored 1; `None` if a cell scored between 0 and 1. A failed cell and one without a
    /// record score 0.
    pub pass_fail: Option<bool>,
    /// The most frequent failure code; the earliest one breaks a tie.
    pub failure_reason: Option<String>,
    /// The first detail with that code. U+0000, which Postgres cannot store, is replaced by U+FFFD.
    pub failure_detail: Option<String>,
    /// Theoretical GFLOP per token.
    pub gflops_per_token: Option<f64>,
}

/// A row of `run_hardware_metrics`, and the machine it refers to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HardwareMetrics {
    /// Processor and memory.
    pub system_hardware: SystemHardware,
    /// Operating system and driver.
    pub system_software: SystemSoftware,
    /// The graphics card; `None` if the harness could not identify it.
    pub gpu_hardware: Option<GpuHardware>,
    /// Maximum of the records' peak graphics memory, in MB, rounded up.
    pub peak_vram_mb: Option<i32>,
    /// The card's power limit, in watts.
    pub power_limit_w: Option<f64>,
    /// Mean of tokens per second × theoretical FLOP per token, in TFLOP/s, over the records with both.
    pub measured_tflops: Option<f64>,
}

/// Computes the `run_model_metrics` rows of a job, one for each prompt and model, ordered by prompt and then model.
///
/// `models` and `prompts` are the job's mapping from the configuration's ids to the database's.
///
/// # Errors
///
/// A field error for each model or prompt of the job that the result's configuration lacks: it is then not a
/// result of this job.
pub fn model_metrics(
    result: &RunResult,
    models: &[(String, Uuid)],
    prompts: &[(String, i32)],
) -> Result<Vec<ModelMetrics>, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    let models = positions(models, result.model_ids(), "/config/models", "model", &mut errors);
    let prompts = positions(prompts, result.prompt_ids(), "/config/prompts", "prompt", &mut errors);
    if !errors.is_empty() {
        return Err(errors.into_vec());
    }
    let mut records: HashMap<(usize, usize), Vec<(&Cell, &Record)>> = HashMap::new();
    for record in result.records() {
        if let Some(cell) = &record.cell {
            records.entry((cell.prompt, cell.model)).or_default().push((cell, record));
        }
    }
    let rows = prompts.iter().flat_map(|(prompt, prompt_id)| {
        let records = &records;
        models.iter().map(move |(model, model_id)| {
            let records = records.get(&(*prompt, *model)).map_or(&[][..], Vec::as_slice);
            metrics_row(*prompt_id, *model_id, records, result.task_count())
        })
    });
    Ok(rows.collect())
}

/// Computes the `run_hardware_metrics` row from all records, including the floor suite's.
pub fn hardware_metrics(result: &RunResult) -> HardwareMetrics {
    let records = result.records();
    let hardware = result.hardware();
    let peak_vram_mb = records.iter().filter_map(|record| record.peak_vram_mb).reduce(f64::max);
    let flops: Vec<f64> = records
        .iter()
        .filter_map(|record| Some(record.tokens_per_second? * record.flops_per_token?))
        .collect();
    let mean = flops.iter().sum::<f64>() / flops.len() as f64;
    HardwareMetrics {
        system_hardware: hardware.system.clone(),
        system_software: hardware.software.clone(),
        gpu_hardware: hardware.gpu.clone(),
        // Fits an i32: `RunResult` refuses a larger value.
        peak_vram_mb: peak_vram_mb.map(|peak| peak.ceil() as i32),
        power_limit_w: hardware.power_limit_w,
        measured_tflops: (!flops.is_empty()).then_some(mean / 1e12),
    }
}

fn positions<T: Copy>(
    required: &[(String, T)],
    ids: &[String],
    pointer: &str,
    kind: &str,
    errors: &mut FieldErrors,
) -> Vec<(usize, T)> {
    let mut found = Vec::new();
    for (id, database_id) in required {
        match ids.iter().position(|known| known == id) {
            Some(position) => found.push((position, *database_id)),
            None => errors.push(pointer, format!("must contain the {kind} {} of the job", quote(id))),
        }
    }
    found
}

fn metrics_row(prompt_id: i32, model_id: Uuid, records: &[(&Cell, &Record)], tasks: usize) -> ModelMetrics {
    let cells = || records.iter().map(|(cell, _)| *cell);
    let scores: Vec<f64> = cells().filter_map(|cell| cell.score).collect();
    let reason = dominant_code(cells().filter_map(|cell| cell.failure_code));
    let detail = reason.and_then(|code| {
        let with_code = cells().filter(|cell| cell.failure_code == Some(code));
        with_code.filter_map(|cell| cell.failure_detail.as_deref()).find(|detail| !detail.is_empty())
    });
    let flops_per_token = records.iter().find_map(|(_, record)| record.flops_per_token);
    let score = scores.iter().sum::<f64>() / tasks as f64;
    ModelMetrics {
        prompt_id,
        model_id,
        score: (!scores.is_empty()).then_some(score),
        pass_fail: pass_fail(&scores, tasks),
        failure_reason: reason.map(|code| FailureCode::as_str(code).to_owned()),
        failure_detail: detail.map(|detail| detail.replace('\0', "\u{fffd}")),
        gflops_per_token: flops_per_token.map(|flops| flops / 1e9),
    }
}

fn pass_fail(attempted: &[f64], tasks: usize) -> Option<bool> {
    let ungraded = attempted.iter().all(|score| *score == 0.0 || *score == 1.0);
    ungraded.then(|| attempted.len() == tasks && attempted.iter().all(|score| *score == 1.0))
}

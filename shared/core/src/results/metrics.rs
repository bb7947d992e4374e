//! From a result to the rows of the results tables.
//!
//! A result speaks of models and prompts by the configuration's own ids, the database by a UUID and a
//! number. Which is which only the job can say; what a result reports beyond its job is left out.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use crate::field_error::{FieldError, FieldErrors, quote};
use crate::results::run_result::{
    Cell, FailureCode, GpuHardware, Record, RunResult, SystemHardware, SystemSoftware, dominant,
};

/// One row of `run_model_metrics`: how one model did with one prompt, over all tasks of the run.
/// The floor suite has no part in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelMetrics {
    /// `prompts.prompt_id`.
    pub prompt_id: i32,
    /// `models.model_id`.
    pub model_id: Uuid,
    /// Sum of the attempted cells' scores ÷ number of tasks, in [0, 1]; none when no cell was
    /// attempted.
    pub score: Option<f64>,
    /// Whether every cell scored 1; none when a cell scored something between 0 and 1. A cell that
    /// failed or has no record scored 0.
    pub pass_fail: Option<bool>,
    /// The most frequent failure code, the first seen winning a tie.
    pub failure_reason: Option<String>,
    /// The first detail that came with that code. U+0000, which Postgres cannot hold, is U+FFFD here.
    pub failure_detail: Option<String>,
    /// Theoretical GFLOP for one token.
    pub gflops_per_token: Option<f64>,
}

/// The row of `run_hardware_metrics`, and the machine it names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HardwareMetrics {
    /// Processor and memory.
    pub system_hardware: SystemHardware,
    /// Operating system and driver.
    pub system_software: SystemSoftware,
    /// The graphics card, if the harness could name it.
    pub gpu_hardware: Option<GpuHardware>,
    /// The most graphics memory any record saw in use, in MB, rounded up.
    pub peak_vram_mb: Option<i32>,
    /// The card's power limit in watts.
    pub power_limit_w: Option<f64>,
    /// Mean of tokens per second × theoretical FLOP per token, in TFLOP/s, over the records that
    /// have both.
    pub measured_tflops: Option<f64>,
}

/// The `run_model_metrics` rows of a job, one for each of its prompts and models.
///
/// `models` and `prompts` are the job's mapping from the configuration's ids to the database's. The
/// rows come prompt by prompt in that order.
///
/// # Errors
///
/// One fault, pointing to the list that lacks it, for each model or prompt of the job that the
/// result's configuration does not have: it is then not a result of this job.
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
            row(*prompt_id, *model_id, records, result.task_count())
        })
    });
    Ok(rows.collect())
}

/// The `run_hardware_metrics` row: all records count, the floor suite's too.
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
        // Every record's figure is within an i32: a result with another is not valid.
        peak_vram_mb: peak_vram_mb.map(|peak| peak.ceil() as i32),
        power_limit_w: hardware.power_limit_w,
        measured_tflops: (!flops.is_empty()).then_some(mean / 1e12),
    }
}

fn positions<T: Copy>(
    wanted: &[(String, T)],
    ids: &[String],
    pointer: &str,
    kind: &str,
    errors: &mut FieldErrors,
) -> Vec<(usize, T)> {
    let mut found = Vec::new();
    for (id, database_id) in wanted {
        match ids.iter().position(|known| known == id) {
            Some(position) => found.push((position, *database_id)),
            None => errors.push(pointer, format!("lacks the job's {kind} {}", quote(id))),
        }
    }
    found
}

fn row(prompt_id: i32, model_id: Uuid, records: &[(&Cell, &Record)], tasks: usize) -> ModelMetrics {
    let cells = || records.iter().map(|(cell, _)| *cell);
    let scores: Vec<f64> = cells().filter_map(|cell| cell.score).collect();
    let reason = dominant(cells().filter_map(|cell| cell.failure_code));
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
    let clear_cut = attempted.iter().all(|score| *score == 0.0 || *score == 1.0);
    clear_cut.then(|| attempted.len() == tasks && attempted.iter().all(|score| *score == 1.0))
}

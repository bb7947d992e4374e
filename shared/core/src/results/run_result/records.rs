//! The `records` member of a result: one record per cell, which is a task × prompt × model.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use serde::Deserialize;

use super::members::{
    ANY_NUMBER, At, DATABASE_INTEGER, Raw, failure_code, for_each_object, number, required_text, text,
};
use super::{Axes, FailureCode};
use crate::field_error::{FieldErrors, quote};

/// Upper bounds above any real machine, which keep the products and sums of the metrics finite.
const TOKENS_PER_SECOND: RangeInclusive<f64> = 0.0..=1e9;
const FLOPS_PER_TOKEN: RangeInclusive<f64> = 0.0..=1e21;

/// One record: its measurements, and its cell of the main tier. A record of the floor suite has no cell.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) cell: Option<Cell>,
    pub(crate) peak_vram_mb: Option<f64>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) flops_per_token: Option<f64>,
}

/// One cell of the main tier: task × prompt × model.
#[derive(Debug)]
pub(crate) struct Cell {
    task: usize,
    /// Index into [`RunResult::prompt_ids`].
    pub(crate) prompt: usize,
    /// Index into [`RunResult::model_ids`].
    pub(crate) model: usize,
    /// The score in [0, 1]; `None` if the cell was not attempted, that is, has a failure code or an error.
    pub(crate) score: Option<f64>,
    pub(crate) failure_code: Option<FailureCode>,
    pub(crate) failure_detail: Option<String>,
}

/// Reads the valid records, and reports the invalid ones.
pub(super) fn read_records(records: Raw<'_>, axes: &Axes<'_>, errors: &mut FieldErrors) -> Vec<Record> {
    let mut accepted = Vec::new();
    let mut cells = HashSet::new();
    let read_one = |members: RecordMembers<'_>, pointer: &str, errors: &mut FieldErrors| {
        let record = read_record(&members, axes, pointer, errors);
        if let Some(Cell { task, prompt, model, .. }) = record.cell
            && !cells.insert((task, prompt, model))
        {
            errors.push(pointer, "must be the only record of its task, prompt and model");
        }
        accepted.push(record);
    };
    if records.is_some() {
        for_each_object(records, "/records", errors, read_one);
    }
    accepted
}

#[derive(Deserialize)]
struct RecordMembers<'a> {
    #[serde(borrow)]
    task_id: Raw<'a>,
    #[serde(borrow)]
    prompt_id: Raw<'a>,
    #[serde(borrow)]
    model_id: Raw<'a>,
    #[serde(borrow)]
    tier: Raw<'a>,
    #[serde(borrow)]
    prompt_tokens: Raw<'a>,
    #[serde(borrow)]
    completion_tokens: Raw<'a>,
    #[serde(borrow)]
    wall_clock_seconds: Raw<'a>,
    #[serde(borrow)]
    seconds_to_first_token: Raw<'a>,
    #[serde(borrow)]
    tokens_per_second: Raw<'a>,
    #[serde(borrow)]
    energy_wh: Raw<'a>,
    #[serde(borrow)]
    peak_vram_mb: Raw<'a>,
    #[serde(borrow)]
    gpu_sm_utilization_pct: Raw<'a>,
    #[serde(borrow)]
    flops_per_token_theoretical: Raw<'a>,
    #[serde(borrow)]
    tflops_utilization_pct: Raw<'a>,
    #[serde(borrow)]
    quality_heuristic: Raw<'a>,
    #[serde(borrow)]
    judge_score: Raw<'a>,
    #[serde(borrow)]
    failure_code: Raw<'a>,
    #[serde(borrow)]
    failure_detail: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
}

fn read_record(
    members: &RecordMembers<'_>,
    axes: &Axes<'_>,
    pointer: &str,
    errors: &mut FieldErrors,
) -> Record {
    let at = |name| At(pointer, name);
    // No score or metric uses these members, but each must be a number if present.
    for (name, raw) in [
        ("prompt_tokens", members.prompt_tokens),
        ("completion_tokens", members.completion_tokens),
        ("wall_clock_seconds", members.wall_clock_seconds),
        ("seconds_to_first_token", members.seconds_to_first_token),
        ("energy_wh", members.energy_wh),
        ("gpu_sm_utilization_pct", members.gpu_sm_utilization_pct),
        ("tflops_utilization_pct", members.tflops_utilization_pct),
    ] {
        number(raw, at(name), ANY_NUMBER, errors);
    }
    let flops = members.flops_per_token_theoretical;
    Record {
        cell: read_cell(members, axes, pointer, errors),
        peak_vram_mb: number(members.peak_vram_mb, at("peak_vram_mb"), DATABASE_INTEGER, errors),
        tokens_per_second: number(
            members.tokens_per_second,
            at("tokens_per_second"),
            TOKENS_PER_SECOND,
            errors,
        ),
        flops_per_token: number(flops, at("flops_per_token_theoretical"), FLOPS_PER_TOKEN, errors),
    }
}

/// Reads the record's cell. Returns `None` for a record of the floor suite, whose task and prompt are not in the
/// run's lists.
fn read_cell(
    members: &RecordMembers<'_>,
    axes: &Axes<'_>,
    pointer: &str,
    errors: &mut FieldErrors,
) -> Option<Cell> {
    let at = |name| At(pointer, name);
    let task_id = required_text(members.task_id, at("task_id"), errors);
    let prompt_id = required_text(members.prompt_id, at("prompt_id"), errors);
    let model_id = required_text(members.model_id, at("model_id"), errors);
    let quality = number(members.quality_heuristic, at("quality_heuristic"), ANY_NUMBER, errors);
    let judged = number(members.judge_score, at("judge_score"), ANY_NUMBER, errors);
    let failure_code = failure_code(members.failure_code, at("failure_code"), errors);
    let failure_detail = text(members.failure_detail, at("failure_detail"), errors);
    let error = text(members.error, at("error"), errors).filter(|error| !error.is_empty());
    let tier = text(members.tier, at("tier"), errors);
    match tier.as_deref() {
        None | Some("main") => {}
        Some("dumb_model") => return None,
        Some(other) => {
            errors.push(at("tier").pointer(), format!("is {}; must be `main` or `dumb_model`", quote(other)));
            return None;
        }
    }
    let task = position(task_id, &axes.tasks, at("task_id"), "tasks", errors);
    let prompt = position(prompt_id, &axes.prompts, at("prompt_id"), "config.prompts", errors);
    let model = position(model_id, &axes.models, at("model_id"), "config.models", errors);
    let attempted = failure_code.is_none() && error.is_none();
    Some(Cell {
        task: task?,
        prompt: prompt?,
        model: model?,
        score: attempted.then(|| cell_score(quality, judged)),
        failure_code,
        failure_detail,
    })
}

/// Computes the score of an attempted cell: the heuristic if it is within [0, 1], otherwise the judge's score of 1
/// to 5 scaled to [0, 1], otherwise 0.
fn cell_score(quality: Option<f64>, judged: Option<f64>) -> f64 {
    let judged = || judged.map(|score| ((score - 1.0) / 4.0).clamp(0.0, 1.0));
    quality.filter(|quality| (0.0..=1.0).contains(quality)).or_else(judged).unwrap_or(0.0)
}

/// Returns the index of an id in its list, and reports an unknown id.
pub(super) fn position(
    id: Option<String>,
    known: &HashMap<&str, usize>,
    at: At<'_>,
    list: &str,
    errors: &mut FieldErrors,
) -> Option<usize> {
    // A missing or empty list is reported once already, and not again for every record.
    let id = id.filter(|_| !known.is_empty())?;
    let position = known.get(id.as_str()).copied();
    if position.is_none() {
        errors.push(at.pointer(), format!("is {}, which is not in `{list}`", quote(&id)));
    }
    position
}

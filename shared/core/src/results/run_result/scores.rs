//! Computes scores from the records, and compares them with the scores that the result states.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::members::{ANY_NUMBER, At, Raw, failure_code, for_each_object, number, required_text, status};
use super::records::{Cell, Record, position};
use super::{Axes, FailureCode, RunStatus};
use crate::field_error::{FieldErrors, quote};

/// Accepted difference between a stated and a recomputed score: a sum of floats depends on their order.
const SCORE_TOLERANCE: f64 = 1e-9;

/// A model's score over the main tier, computed from the records.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelScore {
    /// Whether all, some or none of the cells were attempted.
    pub status: RunStatus,
    /// Number of cells: tasks × prompts of the run.
    pub cells_total: usize,
    /// Number of cells whose record has neither failure code nor error.
    pub cells_attempted: usize,
    /// Attempted ÷ total.
    pub completeness: f64,
    /// Sum of the attempted cells' scores ÷ total.
    pub partial_score: f64,
    /// The most frequent failure code; the earliest one breaks a tie.
    pub dominant_failure_code: Option<FailureCode>,
}

pub(super) fn score_models(records: &[Record], models: usize, cells_total: usize) -> Vec<ModelScore> {
    let mut cells = vec![Vec::new(); models];
    for cell in records.iter().filter_map(|record| record.cell.as_ref()) {
        cells[cell.model].push(cell);
    }
    cells.iter().map(|cells| score_model(cells, cells_total)).collect()
}

/// Computes a model's score. A cell with a failure code is not attempted, so a model with a load failure is never
/// complete.
fn score_model(cells: &[&Cell], cells_total: usize) -> ModelScore {
    let scores = cells.iter().filter_map(|cell| cell.score);
    let cells_attempted = scores.clone().count();
    ModelScore {
        status: match cells_attempted {
            0 => RunStatus::Failed,
            all if all == cells_total => RunStatus::Complete,
            _ => RunStatus::Incomplete,
        },
        cells_total,
        cells_attempted,
        completeness: cells_attempted as f64 / cells_total as f64,
        partial_score: scores.sum::<f64>() / cells_total as f64,
        dominant_failure_code: dominant_code(cells.iter().filter_map(|cell| cell.failure_code)),
    }
}

/// Returns the most frequent code; the earliest one breaks a tie.
pub(crate) fn dominant_code(codes: impl Iterator<Item = FailureCode>) -> Option<FailureCode> {
    let mut counts: Vec<(FailureCode, usize)> = Vec::new();
    for code in codes {
        match counts.iter_mut().find(|(counted, _)| *counted == code) {
            Some((_, count)) => *count += 1,
            None => counts.push((code, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(code, _)| code)
}

/// The stated score of one model. Members that the result leaves out are not compared.
pub(super) struct StatedScore {
    model: usize,
    status: Option<RunStatus>,
    cells_total: Option<f64>,
    cells_attempted: Option<f64>,
    completeness: Option<f64>,
    partial_score: Option<f64>,
    /// `Some(None)` is an explicit `null`, which states that no cell has a failure code.
    dominant_failure_code: Option<Option<FailureCode>>,
}

/// Reads the stated scores. Ignores `cells_failed` and the floor suite's numbers, because the harness documents
/// neither how it counts cells without a record as failed nor when a floor cell has passed.
pub(super) fn read_model_scores(
    scores: Raw<'_>,
    axes: &Axes<'_>,
    errors: &mut FieldErrors,
) -> Option<Vec<StatedScore>> {
    scores?;
    let mut stated = Vec::new();
    let mut models = HashSet::new();
    for_each_object(scores, "/model_scores", errors, |members, pointer, errors| {
        let Some(score) = read_model_score(members, axes, pointer, errors) else {
            return;
        };
        if !models.insert(score.model) {
            errors.push(format!("{pointer}/model_id"), "must be the only score of its model");
        }
        stated.push(score);
    });
    Some(stated)
}

#[derive(Deserialize)]
struct ScoreMembers<'a> {
    #[serde(borrow)]
    model_id: Raw<'a>,
    #[serde(borrow)]
    status: Raw<'a>,
    #[serde(borrow)]
    cells_total: Raw<'a>,
    #[serde(borrow)]
    cells_attempted: Raw<'a>,
    #[serde(borrow)]
    completeness: Raw<'a>,
    #[serde(borrow)]
    partial_score: Raw<'a>,
    #[serde(borrow, default, deserialize_with = "explicit_null")]
    dominant_failure_code: Option<&'a RawValue>,
}

fn read_model_score(
    members: ScoreMembers<'_>,
    axes: &Axes<'_>,
    pointer: &str,
    errors: &mut FieldErrors,
) -> Option<StatedScore> {
    let at = |name| At(pointer, name);
    let model_id = required_text(members.model_id, at("model_id"), errors);
    let model = position(model_id, &axes.models, at("model_id"), "config.models", errors);
    let code = members.dominant_failure_code.map(|code| {
        let code = Some(code).filter(|code| code.get() != "null");
        failure_code(code, at("dominant_failure_code"), errors)
    });
    let status = status(members.status, at("status"), errors);
    let mut figure = |raw, name| number(raw, at(name), ANY_NUMBER, errors);
    Some(StatedScore {
        cells_total: figure(members.cells_total, "cells_total"),
        cells_attempted: figure(members.cells_attempted, "cells_attempted"),
        completeness: figure(members.completeness, "completeness"),
        partial_score: figure(members.partial_score, "partial_score"),
        model: model?,
        status,
        dominant_failure_code: code,
    })
}

/// Deserializes a present member, keeping an explicit `null` apart from an absent member.
fn explicit_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Raw<'de>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

pub(super) fn compare_scores(
    stated: &Option<Vec<StatedScore>>,
    scores: &[ModelScore],
    model_ids: &[String],
    errors: &mut FieldErrors,
) {
    let Some(stated) = stated else { return };
    for (index, stated) in stated.iter().enumerate() {
        compare_score(stated, &scores[stated.model], &format!("/model_scores/{index}"), errors);
    }
    let scored: HashSet<usize> = stated.iter().map(|score| score.model).collect();
    for (_, id) in model_ids.iter().enumerate().filter(|(model, _)| !scored.contains(model)) {
        errors.push("/model_scores", format!("must contain a score of model {}", quote(id)));
    }
}

fn compare_score(stated: &StatedScore, score: &ModelScore, pointer: &str, errors: &mut FieldErrors) {
    for (name, stated, recomputed) in [
        ("cells_total", stated.cells_total, score.cells_total as f64),
        ("cells_attempted", stated.cells_attempted, score.cells_attempted as f64),
        ("completeness", stated.completeness, score.completeness),
        ("partial_score", stated.partial_score, score.partial_score),
    ] {
        if let Some(stated) = stated.filter(|stated| (stated - recomputed).abs() > SCORE_TOLERANCE) {
            push_difference(format!("{pointer}/{name}"), stated, recomputed, errors);
        }
    }
    if let Some(stated) = stated.status.filter(|stated| *stated != score.status) {
        push_difference(format!("{pointer}/status"), stated.as_str(), score.status.as_str(), errors);
    }
    let recomputed = score.dominant_failure_code;
    if let Some(stated) = stated.dominant_failure_code.filter(|stated| *stated != recomputed) {
        let name = |code: Option<FailureCode>| code.map_or("null", FailureCode::as_str);
        let pointer = format!("{pointer}/dominant_failure_code");
        push_difference(pointer, name(stated), name(recomputed), errors);
    }
}

/// Reports a stated value that differs from the recomputed one.
pub(super) fn push_difference<T: fmt::Display>(
    pointer: String,
    stated: T,
    recomputed: T,
    errors: &mut FieldErrors,
) {
    errors.push(pointer, format!("is {stated}, but the records give {recomputed}"));
}

//! Expected rows, computed from a result by the harness's rules, without the service's code.

use serde_json::Value;

use super::harness_run::HarnessRun;

/// A row of `run_model_metrics`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelMetrics {
    /// The prompt's id in the run's config.
    pub(super) prompt: String,
    /// The model's id in the run's config.
    pub(super) model: String,
    /// `None` if no cell was attempted.
    pub(super) score: Option<f64>,
    /// The most frequent failure code.
    pub(super) failure: Option<String>,
}

impl ModelMetrics {
    /// Returns whether the rows are equal, with scores compared to within 1e-9.
    pub(super) fn is_close_to(&self, other: &Self) -> bool {
        let scores = match (self.score, other.score) {
            (Some(one), Some(other)) => (one - other).abs() < 1e-9,
            (one, other) => one == other,
        };
        let others = (&other.prompt, &other.model, &other.failure);
        scores && (&self.prompt, &self.model, &self.failure) == others
    }
}

/// Returns one row per prompt and model, ordered by their ids.
pub(super) fn model_metrics(run: &HarnessRun) -> Vec<ModelMetrics> {
    let ids = |pointer| {
        let mut ids: Vec<&str> = run.list(pointer).iter().filter_map(|item| item["id"].as_str()).collect();
        ids.sort_unstable();
        ids
    };
    let models = ids("/config/models");
    let pairs = ids("/config/prompts")
        .into_iter()
        .flat_map(|prompt| models.iter().map(move |model| (prompt, *model)));
    pairs.map(|(prompt, model)| metrics_of(run, prompt, model)).collect()
}

fn metrics_of(run: &HarnessRun, prompt: &str, model: &str) -> ModelMetrics {
    // The floor suite (`dumb_model`) does not count towards the score.
    let cells: Vec<&Value> = run
        .list("/records")
        .iter()
        .filter(|cell| cell["prompt_id"] == prompt && cell["model_id"] == model)
        .filter(|cell| cell["tier"] != "dumb_model")
        .collect();
    let attempted: Vec<&&Value> =
        cells.iter().filter(|cell| !is_set(&cell["failure_code"]) && !is_set(&cell["error"])).collect();
    let tasks = run.list("/tasks").len() as f64;
    let sum: f64 = attempted.iter().map(|cell| score(cell)).sum();
    ModelMetrics {
        prompt: prompt.to_owned(),
        model: model.to_owned(),
        score: (!attempted.is_empty()).then_some(sum / tasks),
        failure: most_frequent(cells.iter().filter_map(|cell| cell["failure_code"].as_str())),
    }
}

fn is_set(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

fn score(cell: &Value) -> f64 {
    match (cell["quality_heuristic"].as_f64(), cell["judge_score"].as_f64()) {
        (Some(quality), _) if (0.0..=1.0).contains(&quality) => quality,
        (_, Some(judged)) => ((judged - 1.0) / 4.0).clamp(0.0, 1.0),
        _ => 0.0,
    }
}

/// Returns the most frequent code; among equally frequent ones, the first in the input.
fn most_frequent<'a>(codes: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for code in codes {
        match counts.iter_mut().find(|(counted, _)| *counted == code) {
            Some((_, count)) => *count += 1,
            None => counts.push((code, 1)),
        }
    }
    // `max_by_key` returns the last of equal items, so iterate in reverse.
    counts.iter().rev().max_by_key(|(_, count)| *count).map(|(code, _)| (*code).to_owned())
}

/// Returns the highest `peak_vram_mb` of the records, in MB.
pub(super) fn peak_vram_mb(run: &HarnessRun) -> Option<f64> {
    run.list("/records").iter().filter_map(|cell| cell["peak_vram_mb"].as_f64()).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::super::harness_run;
    use super::*;

    #[test]
    fn the_harness_runs_have_the_expected_metrics() {
        let runs = harness_run::all().unwrap();
        let found: Vec<_> = runs.iter().flat_map(model_metrics).collect();
        let metrics = |model: &str, score, failure: Option<&str>| ModelMetrics {
            prompt: "plain".into(),
            model: model.into(),
            score: Some(score),
            failure: failure.map(str::to_owned),
        };
        let expected =
            [metrics("qwen3_5_9b_q4", 0.625, None), metrics("flaky_llama31_8b_q4", 0.3125, Some("unknown"))];
        let agree = found.len() == 2 && found.iter().zip(&expected).all(|(a, b)| a.is_close_to(b));
        assert!(agree, "{found:?}");
    }

    #[test]
    fn the_first_of_equally_frequent_codes_wins() {
        assert_eq!(most_frequent(["oom", "timeout", "timeout", "oom"].into_iter()).as_deref(), Some("oom"));
        assert_eq!(most_frequent(["oom", "timeout", "timeout"].into_iter()).as_deref(), Some("timeout"));
        assert_eq!(most_frequent([].into_iter()), None);
    }
}

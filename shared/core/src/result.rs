//! What the harness reports of a run, read into a form that can be relied on.
//!
//! A result says its scores twice: in the records, cell by cell, and in `model_scores` and
//! `run_status`. The records count. Scores and status are computed from them again, and a result that
//! disagrees with itself is refused.
//!
//! Members the harness adds in future are let through: only what is used here is checked. `null` and
//! an absent member mean the same.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::canonical::Unambiguous;
use crate::fault::{Fault, Faults, quoted};

/// How far a stated score may be from the recomputed one: sums of floats depend on their order.
const SCORE_TOLERANCE: f64 = 1e-9;

/// Beyond what any machine reaches; keeps the products and sums of the metrics finite.
const TOKENS_PER_SECOND: RangeInclusive<f64> = 0.0..=1e9;
const FLOPS_PER_TOKEN: RangeInclusive<f64> = 0.0..=1e21;
/// What the database's `integer` holds.
const DATABASE_INTEGER: RangeInclusive<f64> = 0.0..=i32::MAX as f64;
const ANY_NUMBER: RangeInclusive<f64> = f64::MIN..=f64::MAX;
const WATTS_OR_GIGABYTES: RangeInclusive<f64> = 0.0..=1e9;

/// A valid result of one run. Only [`RunResult::parse`] and [`RunResult::read`] make one.
#[derive(Debug)]
pub struct RunResult {
    run_id: String,
    git_sha: String,
    config_hash: String,
    model_ids: Vec<String>,
    prompt_ids: Vec<String>,
    task_count: usize,
    hardware: Hardware,
    records: Vec<Record>,
    scores: Vec<ModelScore>,
    status: RunStatus,
}

/// How far a run, or one model in it, got. In order from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Every cell was attempted.
    Complete,
    /// Some cells were attempted.
    Incomplete,
    /// No cell was attempted.
    Failed,
}

impl RunStatus {
    /// The harness's word for it, as `runs.run_status` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// Why a cell, or an attempt at a run, came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the harness's own words")]
pub enum FailureCode {
    Timeout,
    Refusal,
    MalformedOutput,
    Oom,
    LoadFailure,
    CapabilityGap,
    InfraError,
    Cancelled,
    Unknown,
}

impl FailureCode {
    /// All the codes the harness knows.
    pub const ALL: [Self; 9] = [
        Self::Timeout,
        Self::Refusal,
        Self::MalformedOutput,
        Self::Oom,
        Self::LoadFailure,
        Self::CapabilityGap,
        Self::InfraError,
        Self::Cancelled,
        Self::Unknown,
    ];

    /// The harness's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refusal => "refusal",
            Self::MalformedOutput => "malformed_output",
            Self::Oom => "oom",
            Self::LoadFailure => "load_failure",
            Self::CapabilityGap => "capability_gap",
            Self::InfraError => "infra_error",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }
}

/// The machine a run was made on. Anything may be unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hardware {
    /// Processor and memory.
    pub system: SystemHardware,
    /// Operating system and driver.
    pub software: SystemSoftware,
    /// The graphics card; none when the harness could not name it.
    pub gpu: Option<GpuHardware>,
    /// The card's power limit in watts.
    pub power_limit_w: Option<f64>,
}

/// Processor and memory, as a row of `system_hardware` has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SystemHardware {
    /// The processor's own name.
    pub cpu_model: Option<String>,
    /// Physical cores.
    pub cpu_cores: Option<i32>,
    /// Logical cores.
    pub cpu_threads: Option<i32>,
    /// Memory in GB.
    pub ram_gb: Option<f64>,
}

/// Operating system and driver, as a row of `system_software` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SystemSoftware {
    /// `Linux`, for one.
    pub os_name: Option<String>,
    /// The kernel's or system's version text.
    pub os_version: Option<String>,
    /// The graphics driver's version.
    pub driver_version: Option<String>,
}

/// A graphics card, as a row of `gpu_hardware` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuHardware {
    /// The card's own name; never empty.
    pub gpu_model: String,
    /// Its memory in MB, to the nearest.
    pub vram_mb: Option<i32>,
}

/// A model's score over the main tier, computed from the records.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelScore {
    /// How far the model got.
    pub status: RunStatus,
    /// Tasks × prompts of the run.
    pub cells_total: usize,
    /// Cells with a record that has neither failure code nor error.
    pub cells_attempted: usize,
    /// Attempted ÷ total.
    pub completeness: f64,
    /// Sum of the attempted cells' scores ÷ total.
    pub partial_score: f64,
    /// The most frequent failure code; the first seen wins a tie.
    pub dominant_failure_code: Option<FailureCode>,
}

/// One record: what was measured, and the main cell it belongs to unless it is of the floor suite.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) cell: Option<Cell>,
    pub(crate) peak_vram_mb: Option<f64>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) flops_per_token: Option<f64>,
}

/// One cell of the main tier, task × prompt × model.
#[derive(Debug)]
pub(crate) struct Cell {
    task: usize,
    /// Index into [`RunResult::prompt_ids`].
    pub(crate) prompt: usize,
    /// Index into [`RunResult::model_ids`].
    pub(crate) model: usize,
    /// The score in [0, 1] if the cell was attempted, which neither a failure code nor an error was.
    pub(crate) score: Option<f64>,
    pub(crate) failure_code: Option<FailureCode>,
    pub(crate) failure_detail: Option<String>,
}

impl RunResult {
    /// Reads a result, the JSON text that was signed.
    ///
    /// # Errors
    ///
    /// Everything that does not fit, with RFC 6901 pointers into the result; at most
    /// [`Faults::LIMIT`] faults and the number of the others. A text with no canonical form (see
    /// [`crate::canonical`]: duplicate keys, lone surrogates and the like) is one fault.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        Self::read(Unambiguous::of(text).map_err(|why| vec![Fault::new("", why.to_string())])?)
    }

    /// The same for a text that is known to have a canonical form.
    ///
    /// # Errors
    ///
    /// As [`RunResult::parse`].
    pub fn read(text: Unambiguous<'_>) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        match read_result(text.as_str(), &mut faults) {
            Some(result) if faults.is_empty() => Ok(result),
            _ => Err(faults.into_vec()),
        }
    }

    /// The run's id as signed: `run.name` of the harness's configuration.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// The harness's commit (`provenance.git.sha`), the version of the prompts used.
    pub fn git_sha(&self) -> &str {
        &self.git_sha
    }

    /// The digest of the configuration (`provenance.config_hash`).
    pub fn config_hash(&self) -> &str {
        &self.config_hash
    }

    /// The models' ids, in the order of the configuration.
    pub fn model_ids(&self) -> &[String] {
        &self.model_ids
    }

    /// The prompts' ids, in the order of the configuration.
    pub fn prompt_ids(&self) -> &[String] {
        &self.prompt_ids
    }

    /// How many tasks each model was to do with each prompt; at least 1.
    pub fn task_count(&self) -> usize {
        self.task_count
    }

    /// The machine, as the harness saw it.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// The models' scores, in the order of [`RunResult::model_ids`].
    pub fn scores(&self) -> &[ModelScore] {
        &self.scores
    }

    /// The worst of the models' statuses.
    pub fn status(&self) -> RunStatus {
        self.status
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }
}

/// A member's value as received; none when absent or `null`.
type Raw<'a> = Option<&'a RawValue>;

#[derive(Deserialize)]
struct ResultMembers<'a> {
    #[serde(borrow)]
    run_id: Raw<'a>,
    #[serde(borrow)]
    timestamp: Raw<'a>,
    #[serde(borrow)]
    run_status: Raw<'a>,
    #[serde(borrow)]
    config: Raw<'a>,
    #[serde(borrow)]
    provenance: Raw<'a>,
    #[serde(borrow)]
    model_metadata: Raw<'a>,
    #[serde(borrow)]
    tasks: Raw<'a>,
    #[serde(borrow)]
    records: Raw<'a>,
    #[serde(borrow)]
    model_scores: Raw<'a>,
    #[serde(borrow)]
    hardware: Raw<'a>,
}

fn read_result(text: &str, faults: &mut Faults) -> Option<RunResult> {
    let members: ResultMembers<'_> = object(text, "", faults)?;
    let run_id = required_text(members.run_id, At("", "run_id"), faults);
    required_text(members.timestamp, At("", "timestamp"), faults);
    let stated_status = status(members.run_status, At("", "run_status"), faults);
    let (model_ids, prompt_ids) = read_config(members.config, faults);
    let provenance = read_provenance(members.provenance, faults);
    read_identified(members.model_metadata, "/model_metadata", Gguf::Required, faults);
    let tasks = read_identified(members.tasks, "/tasks", Gguf::Ignored, faults);
    let hardware = read_hardware(members.hardware, faults);

    let axes = Axes { tasks: index(&tasks), prompts: index(&prompt_ids), models: index(&model_ids) };
    let records = read_records(members.records, &axes, faults);
    if records.is_empty() && stated_status != Some(RunStatus::Failed) {
        faults.push("/records", "must not be empty, unless run_status is failed");
    }
    let stated_scores = read_model_scores(members.model_scores, &axes, faults);
    if !faults.is_empty() {
        // Scores of cells that could not be read would differ for that reason alone.
        return None;
    }

    let scores = score_models(&records, model_ids.len(), tasks.len() * prompt_ids.len());
    compare_scores(&stated_scores, &scores, &model_ids, faults);
    let worst = scores.iter().map(|score| score.status).max()?;
    if let Some(stated) = stated_status.filter(|stated| *stated != worst) {
        differs("/run_status".to_owned(), stated.as_str(), worst.as_str(), faults);
    }
    let Provenance { git_sha, config_hash } = provenance?;
    Some(RunResult {
        run_id: run_id?,
        git_sha,
        config_hash,
        model_ids,
        prompt_ids,
        task_count: tasks.len(),
        hardware,
        records,
        scores,
        status: worst,
    })
}

fn read_config(config: Raw<'_>, faults: &mut Faults) -> (Vec<String>, Vec<String>) {
    #[derive(Deserialize)]
    struct Config<'a> {
        #[serde(borrow)]
        models: Raw<'a>,
        #[serde(borrow)]
        prompts: Raw<'a>,
    }
    let Some(config) = required_object::<Config<'_>>(config, "/config", faults) else {
        return Default::default();
    };
    let models = read_identified(config.models, "/config/models", Gguf::Required, faults);
    let prompts = read_identified(config.prompts, "/config/prompts", Gguf::Ignored, faults);
    (models, prompts)
}

struct Provenance {
    git_sha: String,
    config_hash: String,
}

fn read_provenance(provenance: Raw<'_>, faults: &mut Faults) -> Option<Provenance> {
    #[derive(Deserialize)]
    struct Members<'a> {
        #[serde(borrow)]
        config_hash: Raw<'a>,
        #[serde(borrow)]
        seed: Raw<'a>,
        #[serde(borrow)]
        git: Raw<'a>,
    }
    #[derive(Deserialize)]
    struct Git<'a> {
        #[serde(borrow)]
        sha: Raw<'a>,
    }
    let members: Members<'_> = required_object(provenance, "/provenance", faults)?;
    let config_hash = required_text(members.config_hash, At("/provenance", "config_hash"), faults);
    if members.seed.is_none() {
        faults.push("/provenance/seed", "is required (0 is a seed, null is none)");
    }
    let git: Option<Git<'_>> = required_object(members.git, "/provenance/git", faults);
    let git_sha = required_text(git?.sha, At("/provenance/git", "sha"), faults);
    Some(Provenance { git_sha: git_sha?, config_hash: config_hash? })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gguf {
    Required,
    Ignored,
}

/// The ids of a list that must have an entry, in order. No id may stand in it twice.
fn read_identified(list: Raw<'_>, pointer: &str, gguf: Gguf, faults: &mut Faults) -> Vec<String> {
    #[derive(Deserialize)]
    struct Identified<'a> {
        #[serde(borrow)]
        id: Raw<'a>,
        #[serde(borrow)]
        gguf: Raw<'a>,
    }
    let mut ids = Vec::new();
    let mut seen = HashSet::new();
    let length = each(list, pointer, faults, |entry, pointer, faults| {
        let Some(entry) = object::<Identified<'_>>(entry.get(), pointer, faults) else {
            return;
        };
        if gguf == Gguf::Required {
            required_text(entry.gguf, At(pointer, "gguf"), faults);
        }
        let Some(id) = required_text(entry.id, At(pointer, "id"), faults) else {
            return;
        };
        if !seen.insert(id.clone()) {
            faults.push(format!("{pointer}/id"), format!("{} stands in the list twice", quoted(&id)));
        }
        ids.push(id);
    });
    if length == Some(0) {
        faults.push(pointer, "must not be empty");
    }
    ids
}

fn read_hardware(hardware: Raw<'_>, faults: &mut Faults) -> Hardware {
    #[derive(Deserialize)]
    struct Members<'a> {
        #[serde(borrow)]
        gpu_model: Raw<'a>,
        #[serde(borrow)]
        vram_mb: Raw<'a>,
        #[serde(borrow)]
        power_limit_w: Raw<'a>,
        #[serde(borrow)]
        cpu_model: Raw<'a>,
        #[serde(borrow)]
        cpu_cores: Raw<'a>,
        #[serde(borrow)]
        cpu_threads: Raw<'a>,
        #[serde(borrow)]
        ram_gb: Raw<'a>,
        #[serde(borrow)]
        os_name: Raw<'a>,
        #[serde(borrow)]
        os_version: Raw<'a>,
        #[serde(borrow)]
        driver_version: Raw<'a>,
    }
    let Some(hardware) = hardware else {
        return Hardware::default();
    };
    let Some(members) = object::<Members<'_>>(hardware.get(), "/hardware", faults) else {
        return Hardware::default();
    };
    let at = |name| At("/hardware", name);
    let mut name = |raw, at| storable_text(raw, at, faults).filter(|name| !name.is_empty());
    let gpu_model = name(members.gpu_model, at("gpu_model"));
    let cpu_model = name(members.cpu_model, at("cpu_model"));
    let software = SystemSoftware {
        os_name: name(members.os_name, at("os_name")),
        os_version: name(members.os_version, at("os_version")),
        driver_version: name(members.driver_version, at("driver_version")),
    };
    let mut integer = |raw, at| {
        let number = number(raw, at, DATABASE_INTEGER, faults);
        number.map(|number| number.round() as i32)
    };
    let vram_mb = integer(members.vram_mb, at("vram_mb"));
    let cpu_cores = integer(members.cpu_cores, at("cpu_cores"));
    let cpu_threads = integer(members.cpu_threads, at("cpu_threads"));
    let ram_gb = number(members.ram_gb, at("ram_gb"), WATTS_OR_GIGABYTES, faults);
    Hardware {
        system: SystemHardware { cpu_model, cpu_cores, cpu_threads, ram_gb },
        software,
        gpu: gpu_model.map(|gpu_model| GpuHardware { gpu_model, vram_mb }),
        power_limit_w: number(members.power_limit_w, at("power_limit_w"), WATTS_OR_GIGABYTES, faults),
    }
}

/// Where each task, prompt and model of the run stands in its list.
struct Axes<'a> {
    tasks: HashMap<&'a str, usize>,
    prompts: HashMap<&'a str, usize>,
    models: HashMap<&'a str, usize>,
}

fn index(ids: &[String]) -> HashMap<&str, usize> {
    ids.iter().enumerate().map(|(index, id)| (id.as_str(), index)).collect()
}

fn read_records(records: Raw<'_>, axes: &Axes<'_>, faults: &mut Faults) -> Vec<Record> {
    let mut read = Vec::new();
    let mut seen = HashSet::new();
    let mut one = |record: &RawValue, pointer: &str, faults: &mut Faults| {
        let Some(record) = read_record(record, axes, pointer, faults) else {
            return;
        };
        if let Some(Cell { task, prompt, model, .. }) = record.cell
            && !seen.insert((task, prompt, model))
        {
            faults.push(pointer, "this task, prompt and model have a record already");
        }
        read.push(record);
    };
    if records.is_some() {
        each(records, "/records", faults, &mut one);
    }
    read
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

fn read_record(record: &RawValue, axes: &Axes<'_>, pointer: &str, faults: &mut Faults) -> Option<Record> {
    let members: RecordMembers<'_> = object(record.get(), pointer, faults)?;
    let at = |name| At(pointer, name);
    // Not used for any score or metric, but what is there must be what it is called.
    for (name, raw) in [
        ("prompt_tokens", members.prompt_tokens),
        ("completion_tokens", members.completion_tokens),
        ("wall_clock_seconds", members.wall_clock_seconds),
        ("seconds_to_first_token", members.seconds_to_first_token),
        ("energy_wh", members.energy_wh),
        ("gpu_sm_utilization_pct", members.gpu_sm_utilization_pct),
        ("tflops_utilization_pct", members.tflops_utilization_pct),
    ] {
        number(raw, at(name), ANY_NUMBER, faults);
    }
    let flops = members.flops_per_token_theoretical;
    Some(Record {
        cell: read_cell(&members, axes, pointer, faults),
        peak_vram_mb: number(members.peak_vram_mb, at("peak_vram_mb"), DATABASE_INTEGER, faults),
        tokens_per_second: number(
            members.tokens_per_second,
            at("tokens_per_second"),
            TOKENS_PER_SECOND,
            faults,
        ),
        flops_per_token: number(flops, at("flops_per_token_theoretical"), FLOPS_PER_TOKEN, faults),
    })
}

/// The record's main cell; none for the floor suite, whose tasks and prompt the run does not list.
fn read_cell(
    members: &RecordMembers<'_>,
    axes: &Axes<'_>,
    pointer: &str,
    faults: &mut Faults,
) -> Option<Cell> {
    let at = |name| At(pointer, name);
    let task_id = required_text(members.task_id, at("task_id"), faults);
    let prompt_id = required_text(members.prompt_id, at("prompt_id"), faults);
    let model_id = required_text(members.model_id, at("model_id"), faults);
    let quality = number(members.quality_heuristic, at("quality_heuristic"), ANY_NUMBER, faults);
    let judged = number(members.judge_score, at("judge_score"), ANY_NUMBER, faults);
    let failure_code = failure_code(members.failure_code, at("failure_code"), faults);
    let failure_detail = text(members.failure_detail, at("failure_detail"), faults);
    let error = text(members.error, at("error"), faults).filter(|error| !error.is_empty());
    let tier = text(members.tier, at("tier"), faults);
    match tier.as_deref() {
        None | Some("main") => {}
        Some("dumb_model") => return None,
        Some(other) => {
            faults.push(at("tier").pointer(), format!("{} is neither main nor dumb_model", quoted(other)));
            return None;
        }
    }
    let task = position(task_id, &axes.tasks, at("task_id"), "tasks", faults);
    let prompt = position(prompt_id, &axes.prompts, at("prompt_id"), "config.prompts", faults);
    let model = position(model_id, &axes.models, at("model_id"), "config.models", faults);
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

/// The score of an attempted cell: a heuristic outside [0, 1] does not count, and then the judge's
/// 1 to 5 does.
fn cell_score(quality: Option<f64>, judged: Option<f64>) -> f64 {
    let judged = || judged.map(|score| ((score - 1.0) / 4.0).clamp(0.0, 1.0));
    quality.filter(|quality| (0.0..=1.0).contains(quality)).or_else(judged).unwrap_or(0.0)
}

fn position(
    id: Option<String>,
    known: &HashMap<&str, usize>,
    at: At<'_>,
    list: &str,
    faults: &mut Faults,
) -> Option<usize> {
    // A list that is missing or empty is a fault already, and would be one again in every record.
    let id = id.filter(|_| !known.is_empty())?;
    let position = known.get(id.as_str()).copied();
    if position.is_none() {
        faults.push(at.pointer(), format!("{} is not in {list}", quoted(&id)));
    }
    position
}

fn score_models(records: &[Record], models: usize, cells_total: usize) -> Vec<ModelScore> {
    let mut cells = vec![Vec::new(); models];
    for cell in records.iter().filter_map(|record| record.cell.as_ref()) {
        cells[cell.model].push(cell);
    }
    cells.iter().map(|cells| score_model(cells, cells_total)).collect()
}

/// A model with a load failure is never complete: a cell with a failure code is not attempted.
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
        dominant_failure_code: dominant(cells.iter().filter_map(|cell| cell.failure_code)),
    }
}

/// The most frequent code; the first seen wins a tie.
pub(crate) fn dominant(codes: impl Iterator<Item = FailureCode>) -> Option<FailureCode> {
    let mut counts: Vec<(FailureCode, usize)> = Vec::new();
    for code in codes {
        match counts.iter_mut().find(|(seen, _)| *seen == code) {
            Some((_, count)) => *count += 1,
            None => counts.push((code, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(code, _)| code)
}

/// What a result says of one model's score. A figure it does not give cannot disagree.
struct StatedScore {
    model: usize,
    status: Option<RunStatus>,
    cells_total: Option<f64>,
    cells_attempted: Option<f64>,
    completeness: Option<f64>,
    partial_score: Option<f64>,
    /// Stated as `null` means that no cell failed with a code, which is a claim too.
    dominant_failure_code: Option<Option<FailureCode>>,
}

/// The stated scores. `cells_failed` and the floor suite's figures are left alone: how the harness
/// counts cells without a record as failed, and which floor cells have passed, is not written down.
fn read_model_scores(scores: Raw<'_>, axes: &Axes<'_>, faults: &mut Faults) -> Option<Vec<StatedScore>> {
    scores?;
    let mut stated = Vec::new();
    let mut seen = HashSet::new();
    each(scores, "/model_scores", faults, |score, pointer, faults| {
        let Some(score) = read_model_score(score, axes, pointer, faults) else {
            return;
        };
        if !seen.insert(score.model) {
            faults.push(format!("{pointer}/model_id"), "this model has a score already");
        }
        stated.push(score);
    });
    Some(stated)
}

fn read_model_score(
    score: &RawValue,
    axes: &Axes<'_>,
    pointer: &str,
    faults: &mut Faults,
) -> Option<StatedScore> {
    #[derive(Deserialize)]
    struct Members<'a> {
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
        #[serde(borrow, default, deserialize_with = "stated")]
        dominant_failure_code: Option<&'a RawValue>,
    }
    let members: Members<'_> = object(score.get(), pointer, faults)?;
    let at = |name| At(pointer, name);
    let model_id = required_text(members.model_id, at("model_id"), faults);
    let model = position(model_id, &axes.models, at("model_id"), "config.models", faults);
    let code = members.dominant_failure_code.map(|code| {
        let code = Some(code).filter(|code| code.get() != "null");
        failure_code(code, at("dominant_failure_code"), faults)
    });
    let status = status(members.status, at("status"), faults);
    let mut figure = |raw, name| number(raw, at(name), ANY_NUMBER, faults);
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

/// A value that is there, be it `null`.
fn stated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Raw<'de>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn compare_scores(
    stated: &Option<Vec<StatedScore>>,
    scores: &[ModelScore],
    model_ids: &[String],
    faults: &mut Faults,
) {
    let Some(stated) = stated else { return };
    for (index, stated) in stated.iter().enumerate() {
        compare_score(stated, &scores[stated.model], &format!("/model_scores/{index}"), faults);
    }
    let scored: HashSet<usize> = stated.iter().map(|score| score.model).collect();
    for (_, id) in model_ids.iter().enumerate().filter(|(model, _)| !scored.contains(model)) {
        faults.push("/model_scores", format!("has no score of model {}", quoted(id)));
    }
}

fn compare_score(stated: &StatedScore, score: &ModelScore, pointer: &str, faults: &mut Faults) {
    for (name, stated, recomputed) in [
        ("cells_total", stated.cells_total, score.cells_total as f64),
        ("cells_attempted", stated.cells_attempted, score.cells_attempted as f64),
        ("completeness", stated.completeness, score.completeness),
        ("partial_score", stated.partial_score, score.partial_score),
    ] {
        if let Some(stated) = stated.filter(|stated| (stated - recomputed).abs() > SCORE_TOLERANCE) {
            differs(format!("{pointer}/{name}"), stated, recomputed, faults);
        }
    }
    if let Some(stated) = stated.status.filter(|stated| *stated != score.status) {
        differs(format!("{pointer}/status"), stated.as_str(), score.status.as_str(), faults);
    }
    let recomputed = score.dominant_failure_code;
    if let Some(stated) = stated.dominant_failure_code.filter(|stated| *stated != recomputed) {
        let word = |code: Option<FailureCode>| code.map_or("null", FailureCode::as_str);
        let pointer = format!("{pointer}/dominant_failure_code");
        differs(pointer, word(stated), word(recomputed), faults);
    }
}

fn differs<T: fmt::Display>(pointer: String, stated: T, recomputed: T, faults: &mut Faults) {
    faults.push(pointer, format!("is {stated}, recomputed {recomputed}"));
}

/// A member's place. Put together only when there is a fault to tell: a result has many members.
#[derive(Clone, Copy)]
struct At<'a>(&'a str, &'static str);

impl At<'_> {
    fn pointer(self) -> String {
        format!("{}/{}", self.0, self.1)
    }
}

/// The members of an object, as received; only something else than an object is a fault.
fn object<'a, T: Deserialize<'a>>(text: &'a str, pointer: &str, faults: &mut Faults) -> Option<T> {
    // serde reads a struct from an array too, by position.
    let is_object = text.trim_start().starts_with('{');
    let members = is_object.then(|| serde_json::from_str(text).ok()).flatten();
    if members.is_none() {
        faults.push(pointer, "must be an object");
    }
    members
}

fn required_object<'a, T: Deserialize<'a>>(raw: Raw<'a>, pointer: &str, faults: &mut Faults) -> Option<T> {
    if raw.is_none() {
        faults.push(pointer, "is required");
    }
    object(raw?.get(), pointer, faults)
}

/// Hands each element of a list over with its place, one after the other: a list of any length is
/// never held as a whole. Gives the length; a list that is missing or none is a fault.
fn each<'a>(
    list: Raw<'a>,
    pointer: &str,
    faults: &mut Faults,
    mut element: impl FnMut(&'a RawValue, &str, &mut Faults),
) -> Option<usize> {
    struct Elements<F>(F);
    impl<'de, F: FnMut(usize, &'de RawValue)> Visitor<'de> for Elements<F> {
        type Value = usize;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<S: SeqAccess<'de>>(mut self, mut elements: S) -> Result<usize, S::Error> {
            let mut length = 0;
            while let Some(element) = elements.next_element()? {
                (self.0)(length, element);
                length += 1;
            }
            Ok(length)
        }
    }
    let Some(list) = list else {
        faults.push(pointer, "is required");
        return None;
    };
    let elements = Elements(|index, raw: &'a RawValue| element(raw, &format!("{pointer}/{index}"), faults));
    let length = serde_json::Deserializer::from_str(list.get()).deserialize_seq(elements).ok();
    if length.is_none() {
        faults.push(pointer, "must be a list");
    }
    length
}

fn text(raw: Raw<'_>, at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = serde_json::from_str(raw?.get()).ok();
    if text.is_none() {
        faults.push(at.pointer(), "must be text");
    }
    text
}

/// Text that goes into a column of its own. Postgres keeps no U+0000 in text.
fn storable_text(raw: Raw<'_>, at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = text(raw, at, faults)?;
    if text.contains('\0') {
        faults.push(at.pointer(), "must not contain U+0000");
    }
    Some(text)
}

fn required_text(raw: Raw<'_>, at: At<'_>, faults: &mut Faults) -> Option<String> {
    if raw.is_none() {
        faults.push(at.pointer(), "is required");
    }
    let text = storable_text(raw, at, faults)?;
    if text.is_empty() {
        faults.push(at.pointer(), "must not be empty");
        return None;
    }
    Some(text)
}

/// A number, integer or float alike: the harness writes both for one member.
fn number(raw: Raw<'_>, at: At<'_>, range: RangeInclusive<f64>, faults: &mut Faults) -> Option<f64> {
    let spelling = raw?.get();
    // The standard library's reading is exact; what else it reads (`inf`) is no JSON.
    let number = spelling.parse::<f64>().ok();
    match number {
        Some(number) if range.contains(&number) => return number.into(),
        Some(_) if range == ANY_NUMBER => faults.push(at.pointer(), "must be a finite number"),
        Some(_) => {
            let (least, most) = range.into_inner();
            faults.push(at.pointer(), format!("must be at least {least} and at most {most}"));
        }
        None => faults.push(at.pointer(), "must be a number"),
    }
    None
}

fn status(raw: Raw<'_>, at: At<'_>, faults: &mut Faults) -> Option<RunStatus> {
    let status = serde_json::from_str(raw?.get()).ok();
    if status.is_none() {
        faults.push(at.pointer(), "must be complete, incomplete or failed");
    }
    status
}

/// A failure code; empty text is none, as it is in Python.
fn failure_code(raw: Raw<'_>, at: At<'_>, faults: &mut Faults) -> Option<FailureCode> {
    let word = text(raw, at, faults).filter(|word| !word.is_empty())?;
    let code = FailureCode::from_word(&word);
    if code.is_none() {
        let known = FailureCode::ALL.map(FailureCode::as_str).join(", ");
        faults.push(at.pointer(), format!("{} is none of {known}", quoted(&word)));
    }
    code
}

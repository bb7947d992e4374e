//! Parses and validates the harness's result of a run.
//!
//! A result states its scores twice: per cell in the records, and in `model_scores` and `run_status`. Scores and
//! status are recomputed from the records, and a result whose stated scores differ is refused.
//!
//! Only the members used here are validated, so that results of newer harness versions with more members are
//! accepted. `null` means the same as an absent member.

mod hardware;
mod members;
mod outcome;
mod records;
mod scores;

pub use hardware::{GpuHardware, Hardware, SystemHardware, SystemSoftware};
pub use outcome::{FailureCode, RunStatus};
pub(crate) use records::{Cell, Record};
pub use scores::ModelScore;
pub(crate) use scores::dominant_code;

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use crate::field_error::{FieldError, FieldErrors, quote};
use crate::results::binding::Binding;
use crate::results::canonical_json::CanonicalJson;

use hardware::read_hardware;
use members::{At, Raw, for_each_object, object, required_object, required_text, status};
use records::read_records;
use scores::{compare_scores, push_difference, read_model_scores, score_models};

/// A valid result of one run. Only [`RunResult::parse`] and the submit create one.
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
    binding: Binding,
}

impl RunResult {
    /// Parses a result, the signed JSON text.
    ///
    /// # Errors
    ///
    /// Every field error, with pointers into the result: the first [`FieldErrors::LIMIT`] and the number of the
    /// others. A text without a canonical form ([`crate::results::canonical_json`]) is a single error.
    pub fn parse(text: &str) -> Result<Self, Vec<FieldError>> {
        Self::from_canonical(
            CanonicalJson::parse(text).map_err(|why| vec![FieldError::new("", why.to_string())])?,
        )
    }

    /// Parses a text that is known to have a canonical form.
    ///
    /// # Errors
    ///
    /// As [`RunResult::parse`].
    pub(crate) fn from_canonical(text: CanonicalJson<'_>) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        match read_result(text.as_str(), &mut errors) {
            Some(result) if errors.is_empty() => Ok(result),
            _ => Err(errors.into_vec()),
        }
    }

    /// Returns the signed run id: `run.name` of the harness's configuration.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Returns the harness's commit (`provenance.git.sha`), which is the version of the prompts.
    pub fn git_sha(&self) -> &str {
        &self.git_sha
    }

    /// Returns the digest of the configuration (`provenance.config_hash`).
    pub fn config_hash(&self) -> &str {
        &self.config_hash
    }

    /// Returns the models' ids, in the order of the configuration.
    pub fn model_ids(&self) -> &[String] {
        &self.model_ids
    }

    /// Returns the prompts' ids, in the order of the configuration.
    pub fn prompt_ids(&self) -> &[String] {
        &self.prompt_ids
    }

    /// Returns the number of tasks for each model and prompt, at least 1.
    pub fn task_count(&self) -> usize {
        self.task_count
    }

    /// Returns the machine as detected by the harness.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// Returns the models' scores, in the order of [`RunResult::model_ids`].
    pub fn scores(&self) -> &[ModelScore] {
        &self.scores
    }

    /// Returns the worst of the models' statuses.
    pub fn status(&self) -> RunStatus {
        self.status
    }

    /// Returns the claim that the configuration names (`config.queue`).
    pub fn binding(&self) -> Binding {
        self.binding
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }
}

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

fn read_result(text: &str, errors: &mut FieldErrors) -> Option<RunResult> {
    let members: ResultMembers<'_> = object(text, "", errors)?;
    let run_id = required_text(members.run_id, At("", "run_id"), errors);
    required_text(members.timestamp, At("", "timestamp"), errors);
    let stated_status = status(members.run_status, At("", "run_status"), errors);
    let (model_ids, prompt_ids, binding) = read_config(members.config, errors);
    let provenance = read_provenance(members.provenance, errors);
    read_ids(members.model_metadata, "/model_metadata", Gguf::Required, errors);
    let tasks = read_ids(members.tasks, "/tasks", Gguf::Ignored, errors);
    let hardware = read_hardware(members.hardware, errors);

    let axes = Axes { tasks: index(&tasks), prompts: index(&prompt_ids), models: index(&model_ids) };
    let records = read_records(members.records, &axes, errors);
    if records.is_empty() && stated_status != Some(RunStatus::Failed) {
        errors.push("/records", "must not be empty, unless `run_status` is `failed`");
    }
    let stated_scores = read_model_scores(members.model_scores, &axes, errors);
    if !errors.is_empty() {
        // Scores computed from an incomplete set of cells would add misleading errors.
        return None;
    }

    let scores = score_models(&records, model_ids.len(), tasks.len() * prompt_ids.len());
    compare_scores(&stated_scores, &scores, &model_ids, errors);
    let worst = scores.iter().map(|score| score.status).max()?;
    if let Some(stated) = stated_status.filter(|stated| *stated != worst) {
        push_difference("/run_status".to_owned(), stated.as_str(), worst.as_str(), errors);
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
        binding,
    })
}

fn read_config(config: Raw<'_>, errors: &mut FieldErrors) -> (Vec<String>, Vec<String>, Binding) {
    #[derive(Deserialize)]
    struct Config<'a> {
        #[serde(borrow)]
        models: Raw<'a>,
        #[serde(borrow)]
        prompts: Raw<'a>,
        #[serde(borrow)]
        queue: Raw<'a>,
    }
    let Some(config) = required_object::<Config<'_>>(config, "/config", errors) else {
        return (Vec::new(), Vec::new(), Binding::Absent);
    };
    let models = read_ids(config.models, "/config/models", Gguf::Required, errors);
    let prompts = read_ids(config.prompts, "/config/prompts", Gguf::Ignored, errors);
    (models, prompts, Binding::parse(config.queue))
}

struct Provenance {
    git_sha: String,
    config_hash: String,
}

fn read_provenance(provenance: Raw<'_>, errors: &mut FieldErrors) -> Option<Provenance> {
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
    let members: Members<'_> = required_object(provenance, "/provenance", errors)?;
    let config_hash = required_text(members.config_hash, At("/provenance", "config_hash"), errors);
    if members.seed.is_none() {
        errors.push("/provenance/seed", "is required; 0 is a valid seed, null is not");
    }
    let git: Option<Git<'_>> = required_object(members.git, "/provenance/git", errors);
    let git_sha = required_text(git?.sha, At("/provenance/git", "sha"), errors);
    Some(Provenance { git_sha: git_sha?, config_hash: config_hash? })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gguf {
    Required,
    Ignored,
}

/// Reads the ids of a list's entries, in order. The list must not be empty, and its ids must be unique.
fn read_ids(list: Raw<'_>, pointer: &str, gguf: Gguf, errors: &mut FieldErrors) -> Vec<String> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        id: Raw<'a>,
        #[serde(borrow)]
        gguf: Raw<'a>,
    }
    let mut ids = Vec::new();
    let mut unique = HashSet::new();
    let length = for_each_object(list, pointer, errors, |entry: Entry<'_>, pointer, errors| {
        if gguf == Gguf::Required {
            required_text(entry.gguf, At(pointer, "gguf"), errors);
        }
        let Some(id) = required_text(entry.id, At(pointer, "id"), errors) else {
            return;
        };
        if !unique.insert(id.clone()) {
            errors.push(format!("{pointer}/id"), format!("{} is used twice; ids must be unique", quote(&id)));
        }
        ids.push(id);
    });
    if length == Some(0) {
        errors.push(pointer, "must not be empty");
    }
    ids
}

/// The index of each task, prompt and model of the run in its list.
struct Axes<'a> {
    tasks: HashMap<&'a str, usize>,
    prompts: HashMap<&'a str, usize>,
    models: HashMap<&'a str, usize>,
}

fn index(ids: &[String]) -> HashMap<&str, usize> {
    ids.iter().enumerate().map(|(index, id)| (id.as_str(), index)).collect()
}

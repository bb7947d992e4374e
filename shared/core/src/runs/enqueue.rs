//! Enqueueing a run. The requirements of its rows are computed once, here, and stored as their lane.

use crate::document::{Object, check_storable};
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors, pointer_token, quote};
use crate::name::{NOT_A_NAME, Name};
use crate::runners::runner::Admin;
use crate::runs::known_names::KnownNames;
use crate::runs::model::NewModel;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

/// Maximum number of models, and of prompts, of one run.
const LIST_MAX: usize = 1000;
/// Maximum total size of tasks and config of a split run's rows, in bytes: each row stores a copy.
const SPLIT_BYTES_MAX: usize = 64_000_000;
/// Maximum number of labels that a run asks for.
const LABELS_MAX: usize = 16;
/// Length of a label's key and of its value, in bytes.
const LABEL_BYTES: RangeInclusive<usize> = 1..=200;
/// SQLSTATE that `queue_enqueue` raises for a model or prompt it refuses.
const REFUSED_SQLSTATE: &str = "BQ001";

/// A run to enqueue, validated as far as possible without the database.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub(super) run_id: Option<Uuid>,
    pub(super) publisher_id: String,
    pub(super) priority: i32,
    pub(super) max_attempts: i32,
    pub(super) max_runtime_s: Option<i32>,
    pub(super) models: Vec<NewModel>,
    pub(super) prompts: Vec<NewPrompt>,
    pub(super) tasks: Box<RawValue>,
    pub(super) config: Box<RawValue>,
    pub(super) split_by_prompt: bool,
    /// Labels that the runner must have; `runner_id` stands for its name.
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(super) struct NewPrompt {
    pub(super) id: String,
    pub(super) pointer: String,
    pub(super) spec: Value,
}

/// An enqueued run.
#[derive(Clone, Debug, Serialize)]
pub struct Enqueued {
    /// The run.
    pub run_id: Uuid,
    /// The run's rows, in the order of its prompts.
    pub rows: Vec<EnqueuedRow>,
}

/// A row of an enqueued run.
#[derive(Clone, Debug, Serialize)]
pub struct EnqueuedRow {
    /// The row.
    pub queue_id: Uuid,
    /// The row's first prompt.
    pub prompt_id: i32,
    /// GPU memory required of a runner, in GB.
    pub required_vram_gb: i32,
    /// Quantizations required of a runner.
    pub quantizations: Vec<String>,
}

impl NewRun {
    /// Parses the request's body and reports every invalid field.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let run = Object::parse(body, "", &mut errors).and_then(|object| Self::read(object, &mut errors));
        errors.finish(run)
    }

    /// Sets the run's id to `default` if the request gave none.
    ///
    /// A caller that retries on a lost connection must pass the same id each time. Otherwise: the first
    /// attempt commits, its reply is lost, and the second attempt enqueues another run.
    #[must_use]
    pub fn with_default_id(self, default: Uuid) -> Self {
        Self { run_id: self.run_id.or(Some(default)), ..self }
    }

    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let run_id = object.uuid("run_id", errors);
        let publisher_id = object.required_name("publisher_id", 1..=200, errors).map(String::from);
        let priority = object.integer("priority", 0..=1_000_000, errors).unwrap_or(100);
        let max_attempts = object.integer("max_attempts", 0..=100, errors).unwrap_or(5);
        let max_runtime_s = object.integer("max_runtime_s", 1..=30 * 86_400, errors);
        let models = read_list(&mut object, "models", errors, NewModel::read);
        if models.is_empty() && !errors.any_at_or_under("/models") {
            errors.push("/models", "must list at least one model");
        }
        let prompts = read_list(&mut object, "prompts", errors, NewPrompt::read);
        if prompts.is_empty() && !errors.any_at_or_under("/prompts") {
            errors.push("/prompts", "must list at least one prompt");
        }
        let tasks = read_document(&mut object, "tasks", '[', errors);
        let config = read_document(&mut object, "config", '{', errors);
        let labels = read_labels(&mut object, errors);
        let split_by_prompt = match object.text("split_by", 1..=16, errors).as_deref() {
            None => false,
            Some("prompt") => true,
            Some(_) => {
                errors.push("/split_by", "must be `prompt`, or left out");
                false
            }
        };
        let row_bytes = tasks.iter().chain(&config).map(|document| document.get().len()).sum::<usize>();
        if split_by_prompt && row_bytes.saturating_mul(prompts.len()) > SPLIT_BYTES_MAX {
            let detail = format!(
                "would store tasks and config {} times; together at most {SPLIT_BYTES_MAX} bytes are allowed",
                prompts.len()
            );
            errors.push("/split_by", detail);
        }
        object.finish(errors);
        check_unique_ids(models.iter().map(|model| (&model.id, &model.pointer)), errors);
        check_unique_ids(prompts.iter().map(|prompt| (&prompt.id, &prompt.pointer)), errors);
        Some(Self {
            run_id,
            publisher_id: publisher_id?,
            priority,
            max_attempts,
            max_runtime_s,
            models,
            prompts,
            tasks: tasks?,
            config: config?,
            split_by_prompt,
            labels,
        })
    }

    /// Prefixes the field pointers, for a run that is itself a field of a request.
    pub(super) fn with_pointer_prefix(mut self, prefix: &str) -> Self {
        for pointer in self.models.iter_mut().map(|model| &mut model.pointer) {
            pointer.insert_str(0, prefix);
        }
        for pointer in self.prompts.iter_mut().map(|prompt| &mut prompt.pointer) {
            pointer.insert_str(0, prefix);
        }
        self
    }

    /// Returns the prompts of each row, as indices into `prompts`.
    fn row_prompts(&self) -> Vec<Vec<usize>> {
        let all = 0..self.prompts.len();
        if self.split_by_prompt { all.map(|prompt| vec![prompt]).collect() } else { vec![all.collect()] }
    }

    /// Returns the config of each row.
    pub(super) fn row_configs(&self) -> Result<Vec<Json<Box<RawValue>>>, Error> {
        self.row_prompts().iter().map(|row| self.row_config(row).map(Json)).collect()
    }

    /// Returns `p_spec` of `enqueue.sql`.
    pub(super) fn spec(&self, run_id: Uuid) -> Value {
        json!({
            "run_id": run_id,
            "publisher_id": self.publisher_id,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "max_runtime_s": self.max_runtime_s,
            "models": self.models.iter().map(|model| &model.spec).collect::<Vec<_>>(),
            "prompts": self.prompts.iter().map(|prompt| &prompt.spec).collect::<Vec<_>>(),
            "rows": self.row_prompts(),
            "labels": self.labels,
        })
    }

    /// Returns the config of a row: as received, except that a row of a split run lists its own prompt only.
    /// With the full list, its runner would run every prompt.
    fn row_config(&self, row: &[usize]) -> Result<Box<RawValue>, Error> {
        if !self.split_by_prompt {
            return Ok(self.config.clone());
        }
        let unreadable = |error| Error::Internal(format!("reading a validated config: {error}"));
        let mut members: Vec<(String, Box<RawValue>)> = members_in_order(&self.config).map_err(unreadable)?;
        for (name, value) in &mut members {
            let Some(prompts) = (name == "prompts").then(|| serde_json::from_str(value.get()).ok()).flatten()
            else {
                continue;
            };
            let prompts: Vec<Box<RawValue>> = prompts;
            let own: Vec<_> = prompts
                .into_iter()
                .filter(|prompt| {
                    let id = serde_json::from_str::<Value>(prompt.get()).ok();
                    let id = id.as_ref().and_then(|prompt| prompt["id"].as_str());
                    row.iter().any(|index| id == Some(&self.prompts[*index].id))
                })
                .collect();
            *value = serde_json::value::to_raw_value(&own).map_err(unreadable)?;
        }
        let members: Vec<String> = members
            .iter()
            .map(|(name, value)| format!("{}:{}", Value::String(name.clone()), value.get()))
            .collect();
        RawValue::from_string(format!("{{{}}}", members.join(","))).map_err(unreadable)
    }
}

/// Returns an object's members in the order received.
fn members_in_order(object: &RawValue) -> Result<Vec<(String, Box<RawValue>)>, serde_json::Error> {
    struct InOrder(Vec<(String, Box<RawValue>)>);
    impl<'de> serde::Deserialize<'de> for InOrder {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = InOrder;
                fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
                    let mut members = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        members.push(member);
                    }
                    Ok(InOrder(members))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }
    serde_json::from_str::<InOrder>(object.get()).map(|InOrder(members)| members)
}

/// Reads the labels that a runner must have: at most [`LABELS_MAX`], each a [`Name`] with a [`Name`] as its value.
fn read_labels(object: &mut Object, errors: &mut FieldErrors) -> BTreeMap<String, String> {
    let labels = object.texts("labels", errors).unwrap_or_default();
    let labels: BTreeMap<_, _> = labels.into_iter().map(|(key, value)| (key, value.into_owned())).collect();
    let pointer = object.pointer("labels");
    if labels.len() > LABELS_MAX {
        errors.push(&pointer, format!("must have at most {LABELS_MAX} labels"));
        return labels;
    }
    let is_name = |text: &String| LABEL_BYTES.contains(&text.len()) && Name::parse(text.clone()).is_some();
    for (key, value) in &labels {
        if !is_name(key) || !is_name(value) {
            let (min, max) = LABEL_BYTES.into_inner();
            let detail = format!("{NOT_A_NAME}; label and value must be {min} to {max} bytes long");
            errors.push(format!("{pointer}/{}", pointer_token(key)), detail);
        }
    }
    labels
}

/// Reads a list of at most [`LIST_MAX`] objects with `read`, which is given each object and its pointer.
pub(super) fn read_list<T>(
    object: &mut Object,
    name: &'static str,
    errors: &mut FieldErrors,
    read: fn(Object, String, &mut FieldErrors) -> Option<T>,
) -> Vec<T> {
    object
        .list(name, LIST_MAX, errors)
        .into_iter()
        .filter_map(|(pointer, value)| {
            let element = Object::parse(value.get(), &pointer, errors)?;
            read(element, pointer, errors)
        })
        .collect()
}

/// Takes a required JSON document that is passed on as received. It must have a canonical form, so that a
/// runner's parser cannot read it differently.
fn read_document(
    object: &mut Object,
    name: &'static str,
    opening: char,
    errors: &mut FieldErrors,
) -> Option<Box<RawValue>> {
    if !object.check_present(name, errors) {
        return None;
    }
    let value = object.raw(name)?;
    if !value.get().starts_with(opening) {
        let kind = if opening == '[' { "a list" } else { "an object" };
        errors.push(object.pointer(name), format!("must be {kind}"));
        return None;
    }
    check_storable(value.get(), &object.pointer(name), errors)?;
    Some(value.to_owned())
}

fn check_unique_ids<'a>(ids: impl Iterator<Item = (&'a String, &'a String)>, errors: &mut FieldErrors) {
    let mut unique = BTreeSet::new();
    for (id, pointer) in ids {
        if !unique.insert(id) {
            errors.push(
                format!("{pointer}/id"),
                format!("{} is used twice; ids must be unique within the run", quote(id)),
            );
        }
    }
}

impl NewPrompt {
    fn read(mut object: Object, pointer: String, errors: &mut FieldErrors) -> Option<Self> {
        let id = object.required_name("id", 1..=200, errors).map(String::from);
        let spec = if object.has("prompt_id") {
            let prompt_id = object.integer("prompt_id", 1..=i32::MAX, errors);
            prompt_id.map(|prompt_id| json!({ "prompt_id": prompt_id }))
        } else {
            let file_path = object.required_text("file_path", 1..=1000, errors);
            let git_commit_hash = object.required_text("git_commit_hash", 1..=64, errors);
            file_path
                .zip(git_commit_hash)
                .map(|(path, commit)| json!({ "file_path": path, "git_commit_hash": commit }))
        };
        object.finish(errors);
        let id = id?;
        let mut spec = spec?;
        spec["id"] = Value::String(id.clone());
        Some(Self { id, pointer, spec })
    }
}

/// Enqueues a run.
///
/// # Errors
///
/// [`Error::RunExists`]. [`Error::Invalid`] for a name or id that the database does not know (quantization,
/// architecture, file format, source type, model, prompt), for a model without the data from which its
/// required GPU memory is computed, and for a model or prompt listed twice under different ids.
pub async fn enqueue(client: &Client, admin: &Admin, run: &NewRun) -> Result<Enqueued, Error> {
    let run_id = run.run_id.unwrap_or_else(Uuid::new_v4);
    let errors = KnownNames::read(client).await?.unknown_names(run);
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let configs = run.row_configs()?;
    let spec = run.spec(run_id);
    let enqueued = client
        .query_typed(
            "SELECT * FROM queue_enqueue($1, $2, $3, $4)",
            &[
                (&admin.principal(), Type::TEXT),
                (&Json(spec), Type::JSONB),
                (&Json(&run.tasks), Type::JSON),
                (&configs, Type::JSON_ARRAY),
            ],
        )
        .await
        .map_err(|error| to_field_error(run, error))?;
    if enqueued.first().is_some_and(|row| row.get::<_, &str>("outcome") == "run_exists") {
        return Err(Error::RunExists);
    }
    let rows = enqueued
        .iter()
        .map(|row| EnqueuedRow {
            queue_id: row.get("new_queue_id"),
            prompt_id: row.get("first_prompt_id"),
            required_vram_gb: row.get("needed_vram_gb"),
            quantizations: row.get("needed_quantizations"),
        })
        .collect();
    Ok(Enqueued { run_id, rows })
}

/// Translates a refusal by `queue_enqueue` into a field error of the request.
pub(super) fn to_field_error(run: &NewRun, error: tokio_postgres::Error) -> Error {
    let Some(refused) = error.as_db_error().filter(|error| error.code().code() == REFUSED_SQLSTATE) else {
        return Error::Database(error);
    };
    let id = refused.detail().unwrap_or_default();
    let model = run.models.iter().find(|model| model.id == id).map(|model| &model.pointer);
    let prompt = run.prompts.iter().find(|prompt| prompt.id == id).map(|prompt| &prompt.pointer);
    let (pointer, detail) = match refused.message() {
        "model_unknown" => (model, "no model with this `model_id`"),
        "model_incomplete" => (
            model,
            "the stored model lacks its quantization or active_parameter_count_b, from which the required GPU \
             memory is computed; send a `descriptor` instead",
        ),
        "model_duplicate" => {
            (model, "the run lists this model twice; metrics are stored once per model, so list it once")
        }
        "prompt_duplicate" => {
            (prompt, "the run lists this prompt twice; metrics are stored once per prompt, so list it once")
        }
        _ => (prompt, "no prompt with this `prompt_id`"),
    };
    Error::Invalid(vec![FieldError::new(pointer.cloned().unwrap_or_default(), detail)])
}

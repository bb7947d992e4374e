//! Enqueueing a run: who may serve it is decided here, once, and every claim finds it in the lane.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::results::canonical_json::CanonicalForm;
use crate::runners::runner::Admin;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};
use uuid::{Uuid, uuid};

/// Namespace of the harness's model ids.
const MODEL_NAMESPACE: Uuid = uuid!("dbc87c22-6b6d-4f89-9757-d186f0f62719");
/// Namespace of the harness's creator ids.
const CREATOR_NAMESPACE: Uuid = uuid!("efaf4f4e-cbd1-43f7-a535-f72079513d00");
/// The most models, or prompts, of one run.
const LIST_MAX: usize = 1000;
/// The most bytes that the rows of a split run may hold together: each has tasks and config of its own.
const SPLIT_BYTES_MAX: usize = 64_000_000;
/// SQLSTATE raised by `queue_enqueue` for what only the database could know.
const REFUSED: &str = "BQ001";

/// A run to enqueue, checked as far as the request alone allows.
#[derive(Clone, Debug)]
pub struct NewRun {
    run_id: Option<Uuid>,
    publisher_id: String,
    priority: i32,
    max_attempts: i32,
    max_runtime_s: Option<i32>,
    models: Vec<NewModel>,
    prompts: Vec<NewPrompt>,
    tasks: Box<RawValue>,
    config: Box<RawValue>,
    split_by_prompt: bool,
}

#[derive(Clone, Debug)]
struct NewModel {
    id: String,
    pointer: String,
    spec: Value,
}

#[derive(Clone, Debug)]
struct NewPrompt {
    id: String,
    pointer: String,
    spec: Value,
}

/// An enqueued run.
#[derive(Clone, Debug, Serialize)]
pub struct Enqueued {
    /// The run.
    pub run_id: Uuid,
    /// Its rows, in the order of its prompts.
    pub rows: Vec<EnqueuedRow>,
}

/// A row of an enqueued run.
#[derive(Clone, Debug, Serialize)]
pub struct EnqueuedRow {
    /// The row.
    pub queue_id: Uuid,
    /// Its (first) prompt.
    pub prompt_id: i32,
    /// GPU memory a runner must have, in GB.
    pub required_vram_gb: i32,
    /// Quantizations a runner must support.
    pub quantizations: Vec<String>,
}

impl NewRun {
    /// Reads the request's body; every fault is listed.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let run = Object::parse(body, "", &mut errors).and_then(|object| Self::read(object, &mut errors));
        errors.finish(run)
    }

    /// With `fresh` for an id, unless it has one: who may have to send the run twice, after a lost answer,
    /// must not make two of it.
    #[must_use]
    pub fn or_named(self, fresh: Uuid) -> Self {
        Self { run_id: self.run_id.or(Some(fresh)), ..self }
    }

    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let run_id = object.optional("run_id", errors);
        let publisher_id = object.required_text("publisher_id", 1..=200, errors);
        let priority = object.integer("priority", 0..=1_000_000, errors).unwrap_or(100);
        let max_attempts = object.integer("max_attempts", 0..=100, errors).unwrap_or(5);
        let max_runtime_s = object.integer("max_runtime_s", 1..=30 * 86_400, errors);
        let models = read_list(&mut object, "models", errors, NewModel::read);
        let prompts = read_list(&mut object, "prompts", errors, NewPrompt::read);
        if prompts.is_empty() && !errors.any_at_or_under("/prompts") {
            errors.push("/prompts", "is empty or missing: a row of the queue needs a prompt");
        }
        let tasks = read_document(&mut object, "tasks", '[', errors);
        let config = read_document(&mut object, "config", '{', errors);
        let split_by_prompt = match object.text("split_by", 1..=16, errors).as_deref() {
            None => false,
            Some("prompt") => true,
            Some(_) => {
                errors.push("/split_by", "is not \"prompt\"");
                false
            }
        };
        let document = tasks.iter().chain(&config).map(|document| document.get().len()).sum::<usize>();
        if split_by_prompt && document.saturating_mul(prompts.len()) > SPLIT_BYTES_MAX {
            errors.push("/split_by", format!("would write tasks and config {} times", prompts.len()));
        }
        object.finish(errors);
        no_id_twice(models.iter().map(|model| (&model.id, &model.pointer)), errors);
        no_id_twice(prompts.iter().map(|prompt| (&prompt.id, &prompt.pointer)), errors);
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
        })
    }

    /// The prompts of each row, as indices.
    fn rows(&self) -> Vec<Vec<usize>> {
        let all = 0..self.prompts.len();
        if self.split_by_prompt { all.map(|prompt| vec![prompt]).collect() } else { vec![all.collect()] }
    }

    /// The config of a row: as received, but a row of a split run gets its own prompt only, or its
    /// runner would run all of them.
    fn config_of(&self, row: &[usize]) -> Result<Box<RawValue>, Error> {
        if !self.split_by_prompt {
            return Ok(self.config.clone());
        }
        let unreadable = |error| Error::Internal(format!("a checked config: {error}"));
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

/// An object's members in the order received.
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

fn read_list<T>(
    object: &mut Object,
    name: &str,
    errors: &mut FieldErrors,
    read: fn(Object, String, &mut FieldErrors) -> Option<T>,
) -> Vec<T> {
    let values = object.list(name, errors);
    if values.len() > LIST_MAX {
        errors.push(object.pointer(name), format!("holds {} elements; allowed are {LIST_MAX}", values.len()));
        return Vec::new();
    }
    values
        .into_iter()
        .filter_map(|(pointer, value)| {
            let element = Object::parse(value.get(), &pointer, errors)?;
            read(element, pointer, errors)
        })
        .collect()
}

/// Takes a document that is handed on as received. It is held to the same strictness as a result, or a
/// runner might read another document than the one that was enqueued.
fn read_document(
    object: &mut Object,
    name: &str,
    opens: char,
    errors: &mut FieldErrors,
) -> Option<Box<RawValue>> {
    if !object.present(name, errors) {
        return None;
    }
    let value = object.raw(name)?;
    if !value.get().starts_with(opens) {
        let kind = if opens == '[' { "a list" } else { "an object" };
        errors.push(object.pointer(name), format!("is not {kind}"));
        return None;
    }
    if let Err(refused) = CanonicalForm::of(value.get().as_bytes()) {
        errors.push(object.pointer(name), refused.to_string());
        return None;
    }
    if value.get().contains("\\u0000") {
        errors.push(object.pointer(name), "holds a NUL character");
        return None;
    }
    Some(value.to_owned())
}

fn no_id_twice<'a>(ids: impl Iterator<Item = (&'a String, &'a String)>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (id, pointer) in ids {
        if !seen.insert(id) {
            errors.push(format!("{pointer}/id"), format!("{id:?} comes twice"));
        }
    }
}

impl NewModel {
    fn read(mut object: Object, pointer: String, errors: &mut FieldErrors) -> Option<Self> {
        let id = object.required_text("id", 1..=200, errors);
        let named = object.has("model_id");
        let model_id: Option<Uuid> = object.optional("model_id", errors);
        let spec = match (object.has("descriptor"), named) {
            (true, false) => object
                .object("descriptor", errors)
                .and_then(|descriptor| Self::read_descriptor(descriptor, errors)),
            (false, true) => model_id.map(|model_id| json!({ "model_id": model_id, "named": true })),
            _ => {
                errors.push(&*pointer, "needs either a descriptor or the model_id of a known model");
                None
            }
        };
        object.finish(errors);
        let id = id?;
        let mut spec = spec?;
        spec["id"] = Value::String(id.clone());
        Some(Self { id, pointer, spec })
    }

    /// Reads the harness's model descriptor (schema_version 1) and gives the model its id.
    fn read_descriptor(mut object: Object, errors: &mut FieldErrors) -> Option<Value> {
        if object.optional::<u32>("schema_version", errors).is_some_and(|version| version != 1) {
            errors.push(object.pointer("schema_version"), "is not 1");
        }
        let name = object.required_text("name", 1..=500, errors);
        let model_hash = object.text("model_hash", 1..=200, errors);
        let parameters_text = object.peek("parameter_count_b").map(str::to_owned);
        let size_text = object.peek("model_source_size").map(str::to_owned);
        let parameters = read_count(&mut object, "parameter_count_b", false, errors);
        // Without it nobody could tell who may run the model.
        let active = read_count(&mut object, "active_parameter_count_b", true, errors);
        let quantization =
            object.required_text("quantization", 1..=64, errors).map(|name| name.to_ascii_lowercase());
        let size: Option<i64> = object.optional("model_source_size", errors);
        let mut spec = json!({
            "architecture": object.text("architecture", 1..=64, errors),
            "file_format": object.text("file_format", 1..=64, errors),
            "context_length_default": object.integer("context_length_default", 0..=i32::MAX, errors),
            "context_length_min": object.integer("context_length_min", 0..=i32::MAX, errors),
            "context_length_max": object.integer("context_length_max", 0..=i32::MAX, errors),
            "version": object.text("version", 0..=200, errors),
            "description": object.text("description", 0..=10_000, errors),
            "model_source_size": size,
            "parameter_count_b": parameters,
        });
        spec["creator"] = object
            .object("creator", errors)
            .and_then(|creator| Self::read_creator(creator, errors))
            .unwrap_or_default();
        let sources = Self::read_sources(&mut object, errors);
        // Known to the harness, of no use here.
        for ignored in
            ["provisional", "model_id", "release_date", "model_source_mtime", "predecessor_model_id"]
        {
            object.raw(ignored);
        }
        object.finish(errors);

        let url = sources.first().and_then(|source| source["url"].as_str()).unwrap_or("None");
        let identity = match &model_hash {
            Some(hash) => hash.clone(),
            None => format!("{url}|{}|{}", python_text(parameters_text), python_text(size_text)),
        };
        spec["model_id"] = json!(Uuid::new_v5(&MODEL_NAMESPACE, identity.as_bytes()));
        spec["model_hash"] = json!(model_hash);
        spec["name"] = json!(name?);
        spec["active_parameter_count_b"] = json!(active?);
        spec["quantization"] = json!(quantization?);
        spec["sources"] = Value::Array(sources);
        Some(spec)
    }

    fn read_creator(mut object: Object, errors: &mut FieldErrors) -> Option<Value> {
        let name = object.required_text("name", 1..=200, errors);
        let display_name = object.text("display_name", 1..=200, errors);
        let homepage = object.text("homepage", 1..=1000, errors);
        let service_identifiers = object.json("service_identifiers", errors);
        let provisional: Option<bool> = object.optional("provisional", errors);
        object.raw("creator_id");
        object.finish(errors);
        let name = name?;
        let identity = homepage.as_ref().or(display_name.as_ref()).unwrap_or(&name);
        Some(json!({
            "creator_id": Uuid::new_v5(&CREATOR_NAMESPACE, identity.as_bytes()),
            "name": name, "display_name": display_name, "homepage": homepage,
            "service_identifiers": service_identifiers,
            "provisional": provisional.unwrap_or(homepage.is_none()),
        }))
    }

    fn read_sources(object: &mut Object, errors: &mut FieldErrors) -> Vec<Value> {
        read_list(object, "sources", errors, |mut source, _, errors| {
            let source_type = source.required_text("source_type", 1..=64, errors);
            let url = source.required_text("url", 1..=2000, errors);
            let metadata = source.json("source_metadata", errors);
            source.raw("updated");
            source.finish(errors);
            Some(json!({ "source_type": source_type?, "url": url?, "source_metadata": metadata }))
        })
    }
}

/// A number of parameters, in billions.
fn read_count(object: &mut Object, name: &str, required: bool, errors: &mut FieldErrors) -> Option<f64> {
    let count: f64 = if required { object.required(name, errors)? } else { object.optional(name, errors)? };
    if !(count > 0.0 && count <= 1e6) {
        errors.push(object.pointer(name), format!("is {count}; allowed is more than 0, up to 1000000"));
        return None;
    }
    Some(count)
}

/// A number as Python writes it in an f-string; the harness's provisional ids are made of such text.
fn python_text(number: Option<String>) -> String {
    number
        .and_then(|number| CanonicalForm::of(number.as_bytes()).ok())
        .and_then(|canonical| String::from_utf8(canonical.bytes().to_vec()).ok())
        .unwrap_or_else(|| "None".to_owned())
}

impl NewPrompt {
    fn read(mut object: Object, pointer: String, errors: &mut FieldErrors) -> Option<Self> {
        let id = object.required_text("id", 1..=200, errors);
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

/// Enqueues a run. Refused: [`Error::RunExists`]; [`Error::Invalid`] for names that the database does
/// not know (quantization, architecture, file format, source type, model, prompt) and for models of which
/// nobody could tell who may run them.
pub async fn enqueue(client: &Client, admin: &Admin, run: &NewRun) -> Result<Enqueued, Error> {
    let run_id = run.run_id.unwrap_or_else(Uuid::new_v4);
    refuse_unknown_names(client, run).await?;
    let rows = run.rows();
    let configs = rows.iter().map(|row| run.config_of(row).map(Json)).collect::<Result<Vec<_>, _>>()?;
    let spec = json!({
        "run_id": run_id,
        "publisher_id": run.publisher_id,
        "priority": run.priority,
        "max_attempts": run.max_attempts,
        "max_runtime_s": run.max_runtime_s,
        "models": run.models.iter().map(|model| &model.spec).collect::<Vec<_>>(),
        "prompts": run.prompts.iter().map(|prompt| &prompt.spec).collect::<Vec<_>>(),
        "rows": rows,
    });
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
        .map_err(|error| refusal(run, error))?;
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

/// What `queue_enqueue` found unknown, as a fault of the request.
fn refusal(run: &NewRun, error: tokio_postgres::Error) -> Error {
    let Some(refused) = error.as_db_error().filter(|error| error.code().code() == REFUSED) else {
        return Error::Database(error);
    };
    let id = refused.detail().unwrap_or_default();
    let model = run.models.iter().find(|model| model.id == id).map(|model| &model.pointer);
    let prompt = run.prompts.iter().find(|prompt| prompt.id == id).map(|prompt| &prompt.pointer);
    let (pointer, detail) = match refused.message() {
        "model_unknown" => (model, "names no known model"),
        "model_unfit" => {
            (model, "has no quantization or active_parameter_count_b: nobody could tell who may run it")
        }
        "model_twice" => (model, "is the same model as another of the run: their metrics would be one row"),
        "prompt_twice" => {
            (prompt, "is the same prompt as another of the run: their metrics would be one row")
        }
        _ => (prompt, "names no known prompt"),
    };
    Error::Invalid(vec![FieldError::new(pointer.cloned().unwrap_or_default(), detail)])
}

/// Names that the database must know, all checked at once.
async fn refuse_unknown_names(client: &Client, run: &NewRun) -> Result<(), Error> {
    let rows = client
        .query_typed(
            "SELECT 'quantization' AS kind, name FROM quantization_methods
             UNION ALL SELECT 'architecture', name FROM model_architectures
             UNION ALL SELECT 'file_format', name FROM model_file_formats
             UNION ALL SELECT 'source_type', name FROM source_types",
            &[],
        )
        .await?;
    let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in &rows {
        known.entry(row.get("kind")).or_default().insert(row.get("name"));
    }
    let mut errors = Vec::new();
    let mut check = |kind: &str, name: &Value, pointer: String| {
        let Some(name) = name.as_str() else { return };
        if !known.get(kind).is_some_and(|names| names.contains(name)) {
            errors.push(FieldError::new(pointer, format!("{name:?} is not a known {kind}")));
        }
    };
    for model in &run.models {
        let at = format!("{}/descriptor", model.pointer);
        for kind in ["quantization", "architecture", "file_format"] {
            check(kind, &model.spec[kind], format!("{at}/{kind}"));
        }
        for (i, source) in model.spec["sources"].as_array().into_iter().flatten().enumerate() {
            check("source_type", &source["source_type"], format!("{at}/sources/{i}/source_type"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

//! The models of a new run: the harness's model descriptor, and the ids derived from it.

use super::enqueue::read_list;
use crate::document::Object;
use crate::field_error::FieldErrors;
use crate::results::canonical_json::CanonicalForm;
use serde_json::{Value, json};
use uuid::{Uuid, uuid};

/// Namespace of the harness's model ids.
const MODEL_NAMESPACE: Uuid = uuid!("dbc87c22-6b6d-4f89-9757-d186f0f62719");
/// Namespace of the harness's creator ids.
const CREATOR_NAMESPACE: Uuid = uuid!("efaf4f4e-cbd1-43f7-a535-f72079513d00");

/// A model of a new run: described in full, or referenced by its id.
#[derive(Clone, Debug)]
pub(super) struct NewModel {
    /// Id within the run, as config and records use it.
    pub(super) id: String,
    /// JSON Pointer of the model in the request.
    pub(super) pointer: String,
    /// The model's element of `p_spec.models` in `enqueue.sql`.
    pub(super) spec: Value,
}

impl NewModel {
    pub(super) fn read(mut object: Object, pointer: String, errors: &mut FieldErrors) -> Option<Self> {
        let id = object.required_name("id", 1..=200, errors).map(String::from);
        let by_id = object.has("model_id");
        let model_id = object.uuid("model_id", errors);
        let spec = match (object.has("descriptor"), by_id) {
            (true, false) => object
                .object("descriptor", errors)
                .and_then(|descriptor| Self::read_descriptor(descriptor, errors)),
            (false, true) => model_id.map(|model_id| json!({ "model_id": model_id, "by_id": true })),
            _ => {
                errors.push(&*pointer, "must have either a `descriptor` or the `model_id` of a known model");
                None
            }
        };
        object.finish(errors);
        let id = id?;
        let mut spec = spec?;
        spec["id"] = Value::String(id.clone());
        Some(Self { id, pointer, spec })
    }

    /// Reads the harness's model descriptor (`schema_version` 1) and derives the model's id from it.
    fn read_descriptor(mut object: Object, errors: &mut FieldErrors) -> Option<Value> {
        if object.value::<u32>("schema_version", "1", errors).is_some_and(|version| version != 1) {
            errors.push(object.pointer("schema_version"), "must be 1");
        }
        let name = object.required_text("name", 1..=500, errors);
        let model_hash = object.text("model_hash", 1..=200, errors);
        let parameters_text = object.peek("parameter_count_b").map(str::to_owned);
        let size_text = object.peek("model_source_size").map(str::to_owned);
        let parameters = read_count(&mut object, "parameter_count_b", false, errors);
        // Required, because the GPU memory a runner needs is computed from it.
        let active = read_count(&mut object, "active_parameter_count_b", true, errors);
        let quantization =
            object.required_text("quantization", 1..=64, errors).map(|name| name.to_ascii_lowercase());
        let size: Option<i64> = object.value("model_source_size", "an integer (a number of bytes)", errors);
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
        // Fields of the harness's descriptor that the queue does not use.
        for unused in
            ["provisional", "model_id", "release_date", "model_source_mtime", "predecessor_model_id"]
        {
            object.raw(unused);
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
        let provisional: Option<bool> = object.value("provisional", "true or false", errors);
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

/// Reads a number of parameters, in billions.
fn read_count(
    object: &mut Object,
    name: &'static str,
    required: bool,
    errors: &mut FieldErrors,
) -> Option<f64> {
    const EXPECTED: &str = "a number of billions greater than 0, up to 1000000, such as 7.6";
    let count: f64 = if required {
        object.required_value(name, EXPECTED, errors)?
    } else {
        object.value(name, EXPECTED, errors)?
    };
    if !(count > 0.0 && count <= 1e6) {
        errors.push(object.pointer(name), format!("must be {EXPECTED}"));
        return None;
    }
    Some(count)
}

/// Formats a number as a Python f-string does: the harness hashes such text into a provisional model id.
fn python_text(number: Option<String>) -> String {
    number
        .and_then(|number| CanonicalForm::parse(number.as_bytes()).ok())
        .and_then(|canonical| String::from_utf8(canonical.bytes().to_vec()).ok())
        .unwrap_or_else(|| "None".to_owned())
}

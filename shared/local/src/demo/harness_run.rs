//! The demo's input: two runs that the benchmark harness wrote and signed.

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

const ENVELOPES: [&str; 2] =
    [include_str!("../../demo/signed-complete.json"), include_str!("../../demo/signed-incomplete.json")];
/// Seed of the test key that signed both runs; for tests only.
const RUNNER_KEY_SEED: &str = include_str!("../../demo/runner_key.seed");

/// A signed run.
pub(crate) struct HarnessRun {
    envelope: &'static str,
    /// The parsed result.
    pub(crate) result: Value,
    raw: RawResult,
}

/// The parts that are sent to the API byte for byte as the harness wrote them.
#[derive(Deserialize)]
struct RawResult {
    config: Box<RawValue>,
    tasks: Box<RawValue>,
}

/// Returns both runs, in the demo's order.
pub(crate) fn all() -> Result<Vec<HarnessRun>> {
    ENVELOPES.into_iter().map(HarnessRun::read).collect()
}

/// Returns the key that signed both runs.
pub(crate) fn runner_key() -> Result<SigningKey> {
    let seed = STANDARD.decode(RUNNER_KEY_SEED.trim()).ok().and_then(|seed| seed.try_into().ok());
    seed.map(|seed| SigningKey::from_bytes(&seed)).ok_or_else(|| invalid_fixture("runner_key.seed"))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

impl HarnessRun {
    fn read(envelope: &'static str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Envelope<T> {
            result: T,
        }
        let read: Envelope<Value> = serde_json::from_str(envelope).map_err(invalid_fixture)?;
        let raw: Envelope<RawResult> = serde_json::from_str(envelope).map_err(invalid_fixture)?;
        Ok(Self { envelope, result: read.result, raw: raw.result })
    }

    /// The signed envelope's text.
    pub(crate) fn envelope(&self) -> &'static str {
        self.envelope
    }

    /// The run's id.
    pub(crate) fn id(&self) -> &str {
        self.result["run_id"].as_str().unwrap_or_default()
    }

    /// Returns the items of a list in the result, such as `/config/models`.
    pub(crate) fn list(&self, pointer: &str) -> &[Value] {
        self.result.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Returns the body of `POST /api/admin/runs` for the job that produced this result.
    pub(crate) fn enqueue_request(&self) -> Result<Box<RawValue>> {
        #[derive(Serialize)]
        struct Request<'a> {
            run_id: &'a str,
            publisher_id: &'a str,
            models: Vec<Value>,
            prompts: Vec<Value>,
            tasks: &'a RawValue,
            config: &'a RawValue,
        }
        let models = self.list("/config/models").iter().zip(self.list("/model_metadata"));
        let request = Request {
            run_id: self.id(),
            publisher_id: "demo",
            models: models.map(|(model, metadata)| model_entry(model, metadata)).collect(),
            prompts: self.list("/config/prompts").iter().map(prompt_entry).collect(),
            tasks: &self.raw.tasks,
            config: &self.raw.config,
        };
        to_raw_value(&request).map_err(invalid_fixture)
    }

    /// Returns the body of `POST …/submit`, with the envelope unchanged.
    pub(crate) fn submission(&self, claim_id: &str) -> Result<Box<RawValue>> {
        #[derive(Serialize)]
        struct Submission<'a> {
            claim_id: &'a str,
            envelope: &'a RawValue,
        }
        let envelope = serde_json::from_str(self.envelope).map_err(invalid_fixture)?;
        to_raw_value(&Submission { claim_id, envelope }).map_err(invalid_fixture)
    }
}

/// Builds a request's model from the run's config and metadata, with a harness model descriptor.
fn model_entry(model: &Value, metadata: &Value) -> Value {
    let name = model["id"].as_str().unwrap_or_default();
    let repository = metadata["repo_id"].as_str().unwrap_or_default();
    let creator = repository.split('/').next().unwrap_or_default();
    let parameters_b = model["num_params"].as_f64().unwrap_or_default() / 1e9;
    json!({"id": name, "descriptor": {
        "schema_version": 1,
        "name": name,
        "creator": {
            "name": creator,
            "display_name": creator,
            "homepage": format!("https://huggingface.co/{creator}"),
        },
        "model_hash": format!("sha256:{}", crate::hex(&Sha256::digest(name))),
        "parameter_count_b": parameters_b,
        "active_parameter_count_b": parameters_b,
        "architecture": "Dense",
        "file_format": "GGUF",
        "quantization": metadata["quantization"].as_str().unwrap_or_default().to_lowercase(),
        "sources": [{"source_type": "huggingface", "url": format!("https://huggingface.co/{repository}")}],
    }})
}

/// Builds a request's prompt, which names its file and commit.
fn prompt_entry(prompt: &Value) -> Value {
    let id = prompt["id"].as_str().unwrap_or_default();
    json!({"id": id, "file_path": format!("prompts/{id}.md"), "git_commit_hash": "ad48ac3"})
}

fn invalid_fixture(cause: impl std::fmt::Display) -> Error {
    Error::Failed(format!("the demo's input files are invalid: {cause}"))
}

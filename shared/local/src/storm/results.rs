//! Signed results of both forms, made from one that the benchmark harness really wrote.

use ed25519_dalek::{Signer, SigningKey};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use bakeoff_core::results::canonical_json::CanonicalForm;

use crate::demo::harness_run::{self, HarnessRun, base64};
use crate::error::{Error, Result};
use crate::hex;

/// The prompts that a run of the storm may have. The harness's result is of the first.
const PROMPTS: [&str; 2] = ["plain", "terse"];

/// The job that every run of the storm asks for, and its result.
pub(super) struct Template {
    run: HarnessRun,
    enqueue: Value,
    /// The signed result's text, to the last digit.
    result: String,
}

/// How the result is signed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// The harness's envelope.
    Envelope,
    /// A publication bundle signed with the runner's key.
    Bundle,
}

impl Template {
    pub(super) fn read() -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Envelope {
            result: Box<RawValue>,
        }
        let run = harness_run::all()?.into_iter().next();
        let run = run.ok_or_else(|| Error::Failed("there is no run of the harness".into()))?;
        let envelope: Envelope = serde_json::from_str(run.envelope()).map_err(broken)?;
        let enqueue = serde_json::from_str(run.enqueue_request()?.get()).map_err(broken)?;
        Ok(Self { result: envelope.result.get().to_owned(), enqueue, run })
    }

    /// The body of a request to enqueue: `big` ones need a runner with 24 GB, `split` ones have a row for each
    /// of two prompts.
    pub(super) fn enqueue(&self, run_id: Uuid, terms: Terms) -> Value {
        let mut request = self.enqueue.clone();
        request["run_id"] = json!(run_id);
        request["publisher_id"] = json!("storm");
        request["priority"] = json!(terms.priority);
        request["max_attempts"] = json!(terms.max_attempts);
        if terms.big {
            let descriptor = &mut request["models"][0]["descriptor"];
            descriptor["name"] = json!("a big one");
            descriptor["model_hash"] = json!("sha256:big");
            descriptor["parameter_count_b"] = json!(32.0);
            descriptor["active_parameter_count_b"] = json!(32.0);
        }
        if terms.split {
            let prompt = |id: &str| json!({"id": id, "file_path": format!("prompts/{id}.md"), "git_commit_hash": "ad48ac3"});
            request["prompts"] = PROMPTS.map(prompt).into_iter().collect();
            request["split_by"] = json!("prompt");
        }
        request
    }

    /// The body of a submit: the result of this run and prompt, signed.
    pub(super) fn submission(
        &self,
        key: &SigningKey,
        job: &Job,
        claim_id: Uuid,
        form: Form,
    ) -> Result<Box<RawValue>> {
        let of_prompt = match job.prompt.as_str() {
            "plain" => self.result.clone(),
            other => self.result.replace("\"plain\"", &format!("\"{other}\"")),
        };
        let result = of_prompt.replace(self.run.id(), &job.run_id.to_string());
        match form {
            Form::Envelope => envelope(key, &result, claim_id),
            Form::Bundle => bundle(key, &result, claim_id),
        }
    }
}

/// What differs from run to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) priority: i32,
    pub(super) max_attempts: i32,
    pub(super) big: bool,
    pub(super) split: bool,
}

/// What a runner must know of its job to answer it.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) run_id: Uuid,
    pub(super) prompt: String,
}

fn envelope(key: &SigningKey, result: &str, claim_id: Uuid) -> Result<Box<RawValue>> {
    #[derive(Serialize)]
    struct Submission<'a> {
        claim_id: Uuid,
        envelope: Envelope<'a>,
    }
    #[derive(Serialize)]
    struct Envelope<'a> {
        result: &'a RawValue,
        sig: Value,
    }
    let digest = CanonicalForm::parse(result.as_bytes()).map_err(broken)?.sha256();
    let sig = json!({
        "sha256": hex(&digest), "signature": base64(&key.sign(&digest).to_bytes()),
        "runner_id": "storm", "signed_at": "2026-11-21T21:11:11Z",
    });
    let result = serde_json::from_str(result).map_err(broken)?;
    let submission = Submission { claim_id, envelope: Envelope { result, sig } };
    serde_json::value::to_raw_value(&submission).map_err(broken)
}

fn bundle(key: &SigningKey, result: &str, claim_id: Uuid) -> Result<Box<RawValue>> {
    let read: Value = serde_json::from_str(result).map_err(broken)?;
    let summary = format!("# Run {}\n", read["run_id"].as_str().unwrap_or_default());
    let signature = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": base64(key.verifying_key().as_bytes())}},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": base64(&Sha256::digest(result))},
            "signature": base64(&key.sign(result.as_bytes()).to_bytes()),
        },
    })
    .to_string();
    let digest = |text: &str| json!({"sha256": hex(&Sha256::digest(text))});
    let manifest = json!({
        "schema_version": "bakeoff-results/v1",
        "run_id": read["run_id"], "timestamp": read["timestamp"], "run_status": read["run_status"],
        "config_hash": read["provenance"]["config_hash"],
        "model_ids": read["config"]["models"].as_array().into_iter().flatten()
            .map(|model| model["id"].clone()).collect::<Vec<_>>(),
        "model_scores_summary": read["model_scores"].as_array().into_iter().flatten()
            .map(|scores| json!({"model_id": scores["model_id"], "status": scores["status"]}))
            .collect::<Vec<_>>(),
        "files": {
            "result.json": digest(result), "summary.md": digest(&summary),
            "signature.sigstore.json": digest(&signature),
        },
        "signature": {
            "kind": "sigstore-bundle", "path": "signature.sigstore.json", "signed_file": "result.json",
            "required": true,
        },
    })
    .to_string();
    let body = json!({"claim_id": claim_id, "files": {
        "result.json": base64(result.as_bytes()), "manifest.json": base64(manifest.as_bytes()),
        "summary.md": base64(summary.as_bytes()), "signature.sigstore.json": base64(signature.as_bytes()),
    }});
    serde_json::value::to_raw_value(&body).map_err(broken)
}

fn broken(cause: impl std::fmt::Display) -> Error {
    Error::Failed(format!("the storm's own result is broken: {cause}"))
}

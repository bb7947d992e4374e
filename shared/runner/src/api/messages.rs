//! The contract's messages. Answers may carry more fields than are read here: the service may be newer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

/// What a runner can do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capabilities {
    /// GPU memory, in GB.
    pub vram_gb: f64,
    /// Lower-case names of quantizations.
    pub quantizations: Vec<String>,
    /// What the owner says of the machine.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub labels: Map<String, Value>,
}

/// `POST /api/runners/register`.
#[derive(Debug, Clone, Serialize)]
pub struct Registration {
    /// Base64 of the 32 raw bytes.
    pub public_key: String,
    /// Absent: the key's thumbprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_id: Option<String>,
    /// The machine's name.
    pub hostname: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Ours.
    pub process_id: u32,
    /// The user we run as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_user: Option<String>,
    /// Program and version, and the GPU.
    pub description: String,
}

/// The answer to a registration.
#[derive(Debug, Clone, Deserialize)]
pub struct Registered {
    /// The name the runner is known by.
    pub runner_id: String,
    /// For `Authorization: Bearer`.
    pub token: String,
    /// The token's end, by the service's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// The service's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub server_time: OffsetDateTime,
    /// Names that the service does not know: typos, as a rule.
    #[serde(default)]
    pub unknown_quantizations: Vec<String>,
    /// The most bytes of a request's body, compressed.
    #[serde(default)]
    pub max_body_bytes: Option<u64>,
}

/// The answer to a claim.
#[derive(Debug)]
pub enum Claimed {
    /// A job.
    Job {
        /// As far as the runner reads it.
        job: Box<Job>,
        /// The whole answer.
        text: String,
    },
    /// Nothing is eligible.
    Nothing {
        /// When to ask again.
        retry_after: Option<Duration>,
    },
}

/// A claimed job.
#[derive(Debug, Deserialize)]
pub struct Job {
    /// The run.
    pub run_id: Uuid,
    /// The row of the queue.
    pub queue_id: Uuid,
    /// The claim.
    pub claim_id: Uuid,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// How many tries the job has.
    pub max_attempts: u32,
    /// How often to send a heartbeat.
    pub heartbeat_interval_s: u64,
    /// Binds a result to this claim: written into the config, so that the harness signs it.
    #[serde(default)]
    pub nonce: Option<String>,
    /// The first model.
    #[serde(default)]
    pub model: Option<JobModel>,
    /// The models by the ids that config and records use.
    #[serde(default)]
    pub models: Vec<Value>,
    /// The prompts by the ids that config and records use.
    #[serde(default)]
    pub prompts: Vec<JobPrompt>,
    /// As enqueued.
    #[serde(default)]
    pub tasks: Vec<Value>,
    /// As enqueued.
    pub config: Box<RawValue>,
}

/// A model of a job, as far as the runner reads it.
#[derive(Debug, Clone, Deserialize)]
pub struct JobModel {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its quantization.
    #[serde(default)]
    pub quantization: Option<String>,
    /// What it needs, in GB.
    #[serde(default)]
    pub required_vram_gb: Option<f64>,
}

/// A prompt of a job.
#[derive(Debug, Clone, Deserialize)]
pub struct JobPrompt {
    /// The id in config and records.
    pub id: String,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Heartbeat {
    /// What to do with the job.
    pub directive: Directive,
}

/// What to do with the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// Go on.
    Continue,
    /// Stop: the run was cancelled, or another's result completed it.
    Cancel,
}

/// `GET /api/queue/{run_id}`.
#[derive(Debug, Deserialize)]
pub struct RunStatus {
    /// The rows.
    pub rows: Vec<RowStatus>,
}

/// A row of a run.
#[derive(Debug, Deserialize)]
pub struct RowStatus {
    /// The row.
    pub queue_id: Uuid,
    /// Its status.
    pub status: String,
}

impl RunStatus {
    /// Whether the row has ended for good, so that no result can complete it. A FAILED row still takes one.
    pub fn has_ended(&self, queue_id: Uuid) -> bool {
        let row = self.rows.iter().find(|row| row.queue_id == queue_id);
        row.is_some_and(|row| matches!(row.status.as_str(), "COMPLETE" | "CANCELLED"))
    }
}

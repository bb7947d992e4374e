//! A run as an admin sees it: its rows, every claim, what was submitted, and why it waits.

use crate::error::Error;
use crate::queue::waiting::{Waiting, waiting};
use crate::runs::status::status_of_rows;
use crate::utc;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

const SHOW: &str = include_str!("show.sql");

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The run.
    pub run_id: Uuid,
    /// The database's time.
    #[serde(with = "time::serde::rfc3339")]
    pub server_time: OffsetDateTime,
    /// The status all its rows share, or `IN_PROGRESS` while they differ; `EMPTY` for a run without a row.
    pub status: String,
    /// How the results ended that were submitted so far: the worst of `complete`, `incomplete`, `failed`.
    pub run_status: Option<String>,
    /// Whose run it is.
    pub publisher_id: String,
    /// By whom it was enqueued; null for a run that another tool inserted.
    pub enqueued: Option<Enqueuer>,
    /// Why it waits; null if no row of it is PENDING.
    pub waiting: Option<Waiting>,
    /// Its rows, oldest first.
    pub rows: Vec<ShownRow>,
    /// What was measured, by prompt and model.
    pub metrics: Vec<Metric>,
    /// On which hardware, if a result said so.
    pub hardware: Option<Hardware>,
}

/// Who enqueued a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Enqueuer {
    /// An IAM principal's ARN.
    pub by: String,
    /// When.
    #[serde(with = "utc")]
    pub at: Option<OffsetDateTime>,
}

/// A row of a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ShownRow {
    /// The row.
    pub queue_id: Uuid,
    /// Its (first) prompt.
    pub prompt_id: i32,
    /// The prompt's file.
    pub prompt_path: String,
    /// The file's commit.
    pub prompt_commit: String,
    /// PENDING, CLAIMED, IN_PROGRESS, COMPLETE, FAILED or CANCELLED.
    pub status: String,
    /// Lower comes first.
    pub priority: i32,
    /// How many attempts have failed.
    pub attempt_count: i32,
    /// How often a failed attempt is tried again.
    pub max_attempts: i32,
    /// How long a claim may take in all, in seconds.
    pub max_runtime_s: Option<i32>,
    /// GPU memory a runner must have, in GB.
    pub required_vram_gb: i32,
    /// Quantizations a runner must support.
    pub quantizations: Vec<String>,
    /// Labels a runner must have.
    pub labels: BTreeMap<String, String>,
    /// The models by the ids that config and records use.
    pub models: Vec<NamedModel>,
    /// The prompts by the ids that config and records use.
    pub prompts: Vec<NamedPrompt>,
    /// When it was enqueued.
    #[serde(with = "utc")]
    pub created_at: Option<OffsetDateTime>,
    /// When it may be claimed again.
    #[serde(with = "utc")]
    pub retry_after: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "utc")]
    pub completed_at: Option<OffsetDateTime>,
    /// Why the last attempt failed.
    pub error_detail: Option<String>,
    /// What the runner last said of its progress.
    pub progress: Option<Value>,
    /// The file from which another tool inserted the row.
    pub source_file: Option<String>,
    /// Every claim of the row, the oldest first.
    pub claims: Vec<ShownClaim>,
    /// The accepted result.
    pub submission: Option<ShownSubmission>,
}

/// A model of a job.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NamedModel {
    /// As config and records name it.
    pub id: String,
    /// As the database names it.
    pub model_id: Uuid,
}

/// A prompt of a job.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NamedPrompt {
    /// As config and records name it.
    pub id: String,
    /// As the database names it.
    pub prompt_id: i32,
}

/// A claim of a row.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ShownClaim {
    /// The claim; null for one by a tool that makes no claim ids.
    pub claim_id: Option<Uuid>,
    /// Who made it.
    pub runner_id: String,
    /// When; null for one that was completed late.
    #[serde(with = "utc")]
    pub claimed_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "utc")]
    pub ended_at: Option<OffsetDateTime>,
    /// `live`, or how it ended: `completed`, `cancelled`, `lapsed`, `released`, `failed`, `revoked`, or
    /// `superseded` by another claim's late result.
    pub state: String,
    /// What the runner said of a failure, or the reaper of a lapse.
    pub detail: Option<String>,
    /// When it lapses unless a heartbeat comes.
    #[serde(with = "utc")]
    pub lease_expires_at: Option<OffsetDateTime>,
}

/// An accepted result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ShownSubmission {
    /// The submission.
    pub submission_id: Uuid,
    /// The claim it was made under.
    pub claim_id: Uuid,
    /// Who made it.
    pub runner_id: String,
    /// SHA-256 of what was signed, in hexadecimal.
    pub sha256: String,
    /// Who signed it.
    pub signer: Signer,
    /// `complete`, `incomplete` or `failed`.
    pub run_status: String,
    /// Whether the claim's lease had lapsed.
    pub late: bool,
    /// When it was accepted.
    #[serde(with = "utc")]
    pub submitted_at: Option<OffsetDateTime>,
    /// The receipt, a JWS.
    pub receipt: String,
    /// The evidence as received.
    pub files: Vec<EvidenceFile>,
}

/// Who signed a result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Signer {
    /// `envelope`, `key-bundle` or `keyless-bundle`.
    pub kind: String,
    /// The key's thumbprint, or the certificate's identity.
    pub id: String,
    /// The issuer of the identity.
    pub issuer: Option<String>,
}

/// A file of the evidence.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EvidenceFile {
    /// Its name, unique within the submission.
    pub name: String,
    /// Its size, in bytes.
    pub size: i64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// What was measured of a model with a prompt.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Metric {
    /// The prompt.
    pub prompt_id: i32,
    /// The model.
    pub model_id: Uuid,
    /// The model's name.
    pub model: String,
    /// 0 to 1.
    pub score: Option<f64>,
    /// Whether it passed.
    pub pass_fail: Option<bool>,
    /// Why it did not.
    pub failure_reason: Option<String>,
    /// The same at length.
    pub failure_detail: Option<String>,
    /// Theoretical cost of a token, in GFLOP.
    pub gflops_per_token: Option<f64>,
}

/// The machine that a result was made on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Hardware {
    /// The GPU.
    pub gpu_model: Option<String>,
    /// Its memory, in MB.
    pub gpu_vram_mb: Option<i32>,
    /// The CPU.
    pub cpu_model: Option<String>,
    /// Main memory, in GB.
    pub ram_gb: Option<f64>,
    /// The operating system.
    pub os_name: Option<String>,
    /// Its version.
    pub os_version: Option<String>,
    /// The GPU driver's version.
    pub driver_version: Option<String>,
    /// The most GPU memory in use, in MB.
    pub peak_vram_mb: Option<i32>,
    /// The GPU's power limit, in W.
    pub power_limit_w: Option<f64>,
    /// Measured speed, in TFLOPS.
    pub measured_tflops: Option<f64>,
}

/// Shows a run.
///
/// # Errors
/// [`Error::RunNotFound`].
pub async fn show(client: &Client, run_id: Uuid) -> Result<Shown, Error> {
    let run = client.query_typed_opt(SHOW, &[(&run_id, Type::UUID)]).await?.ok_or(Error::RunNotFound)?;
    let Json(rows): Json<Vec<ShownRow>> = run.try_get("rows")?;
    let Json(metrics) = run.try_get("metrics")?;
    let enqueued: Option<Json<Enqueuer>> = run.try_get("enqueued")?;
    let hardware: Option<Json<Hardware>> = run.try_get("hardware")?;
    Ok(Shown {
        run_id: run.try_get("run_id")?,
        server_time: run.try_get("server_time")?,
        status: status_of_rows(rows.iter().map(|row| row.status.as_str())).unwrap_or("EMPTY").to_owned(),
        run_status: run.try_get("run_status")?,
        publisher_id: run.try_get("publisher_id")?,
        enqueued: enqueued.map(|Json(enqueued)| enqueued),
        waiting: waiting(client, run_id).await?,
        rows,
        metrics,
        hardware: hardware.map(|Json(hardware)| hardware),
    })
}

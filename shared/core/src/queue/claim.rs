//! Claim: gives a runner the first job that it can serve, under a lease. `claim.sql` has the statement and
//! `claim.md` explains the protocol.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::queue::lease::LeaseTerms;
use crate::runners::runner::{AuthenticatedRunner, Capabilities};
use crate::session::Session;
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

const CLAIM: &str = "SELECT * FROM queue_claim($1, $2, $3, $4, $5, $6)";

/// A request for a job.
#[derive(Clone, Debug, Default)]
pub struct ClaimRequest {
    /// Fencing token and idempotency key in one, chosen by the runner. Sent again, it returns the same live
    /// claim.
    pub claim_id: Option<Uuid>,
    /// The runner's capabilities; those of its registration if absent.
    pub capabilities: Option<Capabilities>,
}

/// A claimed job: the reply to the runner.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// The run: the result must be signed for it.
    pub run_id: Uuid,
    /// The claimed row of the queue.
    pub queue_id: Uuid,
    /// The claim. Every later request about the job names it.
    pub claim_id: Uuid,
    /// Known to the claim's holder only: a signed result that holds it was computed under this claim.
    pub nonce: Uuid,
    /// Number of this attempt, from 1.
    pub attempt: i32,
    /// How many times a failed attempt is retried.
    pub max_attempts: i32,
    /// Priority; a lower number is claimed first.
    pub priority: i32,
    /// When the lease expires unless a heartbeat renews it.
    #[serde(with = "time::serde::rfc3339")]
    pub lease_expires_at: OffsetDateTime,
    /// Seconds between two heartbeats.
    pub heartbeat_interval_s: i32,
    /// The database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub server_time: OffsetDateTime,
    /// The first model in full; null if the row names no model.
    pub model: Option<Box<RawValue>>,
    /// The models, by the ids that `config` and the records use.
    pub models: Box<RawValue>,
    /// The prompts, by the ids that `config` and the records use.
    pub prompts: Box<RawValue>,
    /// As enqueued.
    pub tasks: Box<RawValue>,
    /// As enqueued.
    pub config: Box<RawValue>,
    /// Quantizations of the runner that the database does not know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_quantizations: Vec<String>,
}

/// The outcome of a claim.
#[derive(Clone, Debug)]
pub enum ClaimOutcome {
    /// The runner has a job.
    Claimed(Box<Job>),
    /// No job is eligible.
    NoJob,
    /// The runner failed several jobs in a row, and its claims are paused.
    Paused {
        /// Seconds until the pause ends.
        retry_after_s: u64,
    },
}

impl ClaimOutcome {
    /// Returns the job, if there is one.
    pub fn job(self) -> Option<Job> {
        match self {
            Self::Claimed(job) => Some(*job),
            Self::NoJob | Self::Paused { .. } => None,
        }
    }
}

impl ClaimRequest {
    /// Parses the request's body and reports every invalid field.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let request = Object::parse(body, "", &mut errors).map(|mut object| {
            let claim_id = object.uuid("claim_id", &mut errors);
            let capabilities = object
                .object("capabilities", &mut errors)
                .and_then(|inner| Capabilities::read(inner, &mut errors));
            object.finish(&mut errors);
            Self { claim_id, capabilities }
        });
        errors.finish(request)
    }
}

/// Claims the first job that the runner can serve: lowest priority, then oldest.
///
/// # Errors
///
/// [`Error::KeyNotAllowed`]; [`Error::ClaimLost`] if the claim id was used before and its claim has ended;
/// [`Error::ClaimIdTaken`] if the claim id is another runner's.
pub async fn claim(
    client: &impl Session,
    runner: &AuthenticatedRunner,
    terms: LeaseTerms,
    request: &ClaimRequest,
) -> Result<ClaimOutcome, Error> {
    let capabilities = request.capabilities.as_ref();
    let row = client
        .query_row(
            CLAIM,
            &[
                (&runner.runner_id(), Type::TEXT),
                (&runner.key().key_id().as_str(), Type::TEXT),
                (&request.claim_id, Type::UUID),
                (&capabilities.map(|c| c.vram_gb), Type::FLOAT8),
                (&capabilities.map(|c| &c.quantizations), Type::TEXT_ARRAY),
                (&terms.ttl_s, Type::INT4),
            ],
        )
        .await?;
    match row.get("outcome") {
        "claimed" => Ok(ClaimOutcome::Claimed(Box::new(Job::from_row(&row, terms)?))),
        "empty" => Ok(ClaimOutcome::NoJob),
        "paused" => {
            let seconds: i32 = row.try_get("paused_s")?;
            Ok(ClaimOutcome::Paused { retry_after_s: u64::try_from(seconds).unwrap_or_default() })
        }
        "key_not_allowed" => Err(Error::KeyNotAllowed),
        "claim_lost" => Err(Error::ClaimLost),
        "claim_id_taken" => Err(Error::ClaimIdTaken),
        other => Err(Error::Internal(format!("queue_claim answered {other:?}"))),
    }
}

impl Job {
    fn from_row(row: &Row, terms: LeaseTerms) -> Result<Self, Error> {
        Ok(Self {
            run_id: row.try_get("run_id")?,
            queue_id: row.try_get("queue_id")?,
            claim_id: row.try_get("claim_id")?,
            nonce: row.try_get("nonce")?,
            attempt: row.try_get("attempt")?,
            max_attempts: row.try_get("max_attempts")?,
            priority: row.try_get("priority")?,
            lease_expires_at: row.try_get("lease_expires_at")?,
            heartbeat_interval_s: terms.heartbeat_interval_s,
            server_time: row.try_get("server_time")?,
            model: received(row, "model")?,
            models: required(row, "models")?,
            prompts: required(row, "prompts")?,
            tasks: required(row, "tasks")?,
            config: required(row, "config")?,
            unknown_quantizations: row.try_get("unknown_quantizations")?,
        })
    }
}

fn received(row: &Row, column: &str) -> Result<Option<Box<RawValue>>, Error> {
    let value: Option<Json<Box<RawValue>>> = row.try_get(column)?;
    Ok(value.map(|Json(value)| value).filter(|value| value.get() != "null"))
}

fn required(row: &Row, column: &str) -> Result<Box<RawValue>, Error> {
    received(row, column)?.ok_or_else(|| Error::Internal(format!("a claimed row without {column}")))
}

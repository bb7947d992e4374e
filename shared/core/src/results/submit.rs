//! Submit: accepts a signed result, completes its row and returns a receipt. `submit.sql` has the statements.
//!
//! Checks run in the contract's order: shape, signature, signer, binding to the run, schema, claim. Nothing is
//! written before all of them have passed.

use crate::error::Error;
use crate::results::metrics::{ModelMetrics, hardware_metrics, model_metrics};
use crate::results::run_result::RunResult;
use crate::results::submission::{VerifiedSubmission, with_pointer_prefix};
use crate::runners::runner::AuthenticatedRunner;
use crate::runners::token::{ReceiptClaims, ServiceKeys};
use crate::session::Session;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt::Write as _;
use time::OffsetDateTime;
use tokio::task::yield_now;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

const LOOKUP: &str = "SELECT * FROM queue_submit_lookup($1, $2, $3, $4, $5)";
const SUBMIT: &str = "SELECT queue_submit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, \
                      $16, $17, $18, $19, $20, $21, $22, $23)";
/// Maximum lookups of one submit. Another is needed only if the row's state changed between lookup and write,
/// because another transaction reaped, claimed, cancelled or completed it.
const LOOKUPS_MAX: u32 = 5;

/// What the service demands of a result, and signs its receipt with.
#[derive(Clone, Copy, Debug)]
pub struct SubmitTerms<'a> {
    /// The service's keys.
    pub keys: &'a ServiceKeys,
    /// The service's public URL, which receipts name as their issuer.
    pub service: &'a str,
    /// Whether a result must be bound to its claim.
    pub require_bound: bool,
}

/// An accepted result: the reply to the runner.
#[derive(Clone, Debug, Serialize)]
pub struct Accepted {
    /// The submission.
    pub submission_id: Uuid,
    /// The run.
    pub run_id: Uuid,
    /// The row it completed.
    pub queue_id: Uuid,
    /// `COMPLETE`.
    pub status: &'static str,
    /// SHA-256 of what was signed, in hexadecimal.
    pub sha256: String,
    /// The signer.
    pub signer: AcceptedSigner,
    /// Whether the claim had ended before: its lease lapsed, or its key was revoked and allowed again.
    pub late: bool,
    /// Whether the signed result holds the claim's nonce.
    pub bound: bool,
    /// The rows of `run_model_metrics`.
    pub metrics: Box<RawValue>,
    /// A JWS of the service (compact serialization, RFC 7515 section 7.1).
    pub receipt: String,
    /// False if this result was accepted before, and the reply is repeated.
    #[serde(skip)]
    pub new: bool,
}

/// The signer of an accepted result.
#[derive(Clone, Debug, Serialize)]
pub struct AcceptedSigner {
    /// `envelope`, `key-bundle` or `keyless-bundle`.
    pub kind: String,
    /// The key's thumbprint, or the certificate's identity.
    pub name: String,
    /// The OIDC issuer of a keyless signer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// Accepts a verified result: writes evidence, metrics, run and row in one transaction.
///
/// Idempotent: the same result gets the same receipt. A lapsed claim still completes its row if no other result
/// has.
///
/// # Errors
/// [`Error::RunMismatch`], [`Error::Invalid`], [`Error::KeyNotAllowed`], [`Error::SignerNotAllowed`],
/// [`Error::ClaimLost`], [`Error::RunFinished`].
pub async fn submit(
    client: &impl Session,
    terms: SubmitTerms<'_>,
    runner: &AuthenticatedRunner,
    run_id: Uuid,
    claim_id: Uuid,
    verified: &VerifiedSubmission<'_>,
) -> Result<Accepted, Error> {
    let lookup = || ClaimState::lookup(client, runner, run_id, claim_id, &verified.sha256);
    // Parsing takes about as long as a lookup. It starts once the connection has sent that.
    let (mut state, result) = tokio::join!(lookup(), async {
        yield_now().await;
        verified.result_of(run_id)
    });
    let result = result?;
    for _ in 0..LOOKUPS_MAX {
        let acceptable = match state? {
            ClaimState::AcceptedBefore(accepted) => return Ok(*accepted),
            ClaimState::AcceptableClaim(acceptable) => acceptable,
        };
        let writing = Writing { terms, runner, run_id, claim_id, verified, result: &result };
        if let Some(accepted) = writing.write(client, &acceptable).await? {
            return Ok(accepted);
        }
        state = lookup().await;
    }
    Err(Error::Internal(format!("the row of claim {claim_id} changed {LOOKUPS_MAX} times during one submit")))
}

/// The result of a lookup.
enum ClaimState {
    AcceptedBefore(Box<Accepted>),
    AcceptableClaim(AcceptableClaim),
}

/// A claim that may complete its row.
struct AcceptableClaim {
    queue_id: Uuid,
    nonce: Option<Uuid>,
    late: bool,
    server_time: OffsetDateTime,
    models: Vec<(String, Uuid)>,
    prompts: Vec<(String, i32)>,
}

#[derive(Deserialize)]
struct JobModel {
    id: String,
    model_id: Uuid,
}

#[derive(Deserialize)]
struct JobPrompt {
    id: String,
    prompt_id: i32,
}

impl ClaimState {
    async fn lookup(
        client: &impl Session,
        runner: &AuthenticatedRunner,
        run_id: Uuid,
        claim_id: Uuid,
        sha256: &[u8; 32],
    ) -> Result<Self, Error> {
        let row = client
            .query_row(
                LOOKUP,
                &[
                    (&run_id, Type::UUID),
                    (&claim_id, Type::UUID),
                    (&runner.runner_id(), Type::TEXT),
                    (&runner.key().key_id().as_str(), Type::TEXT),
                    (&sha256.as_slice(), Type::BYTEA),
                ],
            )
            .await?;
        if !row.get::<_, bool>("allowed") {
            return Err(Error::KeyNotAllowed);
        }
        if let Some(submission_id) = row.try_get::<_, Option<Uuid>>("submission_id")? {
            if !row.try_get::<_, bool>("own")? {
                return Err(Error::RunFinished("another runner submitted this result"));
            }
            return Ok(Self::AcceptedBefore(Box::new(Accepted::before(
                &row,
                submission_id,
                run_id,
                sha256,
            )?)));
        }
        let late = match row.try_get("claim_state")? {
            "on_time" => false,
            "late" => true,
            "run_finished" => return Err(Error::RunFinished("another result completed it")),
            "cancelled" => return Err(Error::RunFinished("it was cancelled")),
            _ => return Err(Error::ClaimLost),
        };
        let models: Option<Json<Vec<JobModel>>> = row.try_get("models")?;
        let prompts: Option<Json<Vec<JobPrompt>>> = row.try_get("prompts")?;
        Ok(Self::AcceptableClaim(AcceptableClaim {
            queue_id: row.try_get("queue_id")?,
            nonce: row.try_get("nonce")?,
            late,
            server_time: row.try_get("server_time")?,
            // A row that a foreign tool inserted has no job, which would map the result's model and prompt ids
            // to the database's: it gets no rows of run_model_metrics. The evidence has its scores.
            models: models.into_iter().flat_map(|Json(m)| m).map(|m| (m.id, m.model_id)).collect(),
            prompts: prompts.into_iter().flat_map(|Json(p)| p).map(|p| (p.id, p.prompt_id)).collect(),
        }))
    }
}

/// A submit that passed its checks.
struct Writing<'a> {
    terms: SubmitTerms<'a>,
    runner: &'a AuthenticatedRunner,
    run_id: Uuid,
    claim_id: Uuid,
    verified: &'a VerifiedSubmission<'a>,
    result: &'a RunResult,
}

impl Writing<'_> {
    /// Writes the result. Returns `None` if the row's state has changed since the lookup.
    async fn write(
        &self,
        client: &impl Session,
        acceptable: &AcceptableClaim,
    ) -> Result<Option<Accepted>, Error> {
        let required = self.terms.require_bound;
        let bound = self.result.binding().check(self.claim_id, acceptable.nonce, required)?;
        let metrics = model_metrics(self.result, &acceptable.models, &acceptable.prompts)
            .map_err(|errors| with_pointer_prefix("/result", errors))?;
        let hardware = hardware_metrics(self.result);
        let signer = &self.verified.signer;
        let accepted = self.accepted(acceptable, bound, &metrics)?;
        let (names, contents): (Vec<&str>, Vec<&[u8]>) = self.verified.files.iter().copied().unzip();
        let written = client
            .query_row(
                SUBMIT,
                &[
                    (&self.run_id, Type::UUID),
                    (&acceptable.queue_id, Type::UUID),
                    (&self.claim_id, Type::UUID),
                    (&self.runner.runner_id(), Type::TEXT),
                    (&self.runner.key().key_id().as_str(), Type::TEXT),
                    (&acceptable.late, Type::BOOL),
                    (&accepted.bound, Type::BOOL),
                    (&accepted.submission_id, Type::UUID),
                    (&self.verified.sha256.as_slice(), Type::BYTEA),
                    (&signer.kind.as_str(), Type::TEXT),
                    (&signer.name, Type::TEXT),
                    (&signer.issuer, Type::TEXT),
                    (&signer.key_id, Type::TEXT),
                    (&signer.verified_times, Type::TIMESTAMPTZ_ARRAY),
                    (&signer.trust_root_sha256.as_ref().map(|digest| digest.as_slice()), Type::BYTEA),
                    (&self.result.status().as_str(), Type::TEXT),
                    (&self.result.git_sha(), Type::TEXT),
                    (&Json(&accepted.metrics), Type::JSON),
                    (&Json(&hardware), Type::JSON),
                    (&accepted.receipt, Type::TEXT),
                    (&acceptable.server_time, Type::TIMESTAMPTZ),
                    (&names, Type::TEXT_ARRAY),
                    (&contents, Type::BYTEA_ARRAY),
                ],
            )
            .await;
        let row = match written {
            Ok(row) => row,
            // The same result was submitted at the same time: the next lookup finds its receipt.
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => return Ok(None),
            Err(error) => return Err(Error::Database(error)),
        };
        match row.try_get(0)? {
            "accepted" => Ok(Some(accepted)),
            "moved" => Ok(None),
            "key_not_allowed" => Err(Error::KeyNotAllowed),
            "signer_not_allowed" => Err(Error::SignerNotAllowed(signer.name.clone())),
            other => Err(Error::Internal(format!("queue_submit answered {other:?}"))),
        }
    }

    fn accepted(
        &self,
        acceptable: &AcceptableClaim,
        bound: bool,
        metrics: &[ModelMetrics],
    ) -> Result<Accepted, Error> {
        let signer = &self.verified.signer;
        let submission_id = Uuid::new_v4();
        let sha256 = hex(&self.verified.sha256);
        let receipt = self.terms.keys.receipt(&ReceiptClaims {
            iss: self.terms.service.to_owned(),
            submission_id,
            run_id: self.run_id,
            queue_id: acceptable.queue_id,
            claim_id: self.claim_id,
            runner_id: self.runner.runner_id().to_owned(),
            sha256: sha256.clone(),
            signer_kind: signer.kind.as_str().to_owned(),
            signer: signer.name.clone(),
            late: acceptable.late,
            bound,
            iat: acceptable.server_time.unix_timestamp(),
        })?;
        Ok(Accepted {
            submission_id,
            run_id: self.run_id,
            queue_id: acceptable.queue_id,
            status: "COMPLETE",
            sha256,
            signer: AcceptedSigner {
                kind: signer.kind.as_str().to_owned(),
                name: signer.name.clone(),
                issuer: signer.issuer.clone(),
            },
            late: acceptable.late,
            bound,
            metrics: serde_json::value::to_raw_value(metrics)
                .map_err(|error| Error::Internal(format!("metrics as JSON: {error}")))?,
            receipt,
            new: true,
        })
    }
}

impl Accepted {
    fn before(row: &Row, submission_id: Uuid, run_id: Uuid, sha256: &[u8; 32]) -> Result<Self, Error> {
        let Json(metrics) = row.try_get::<_, Json<Box<RawValue>>>("metrics")?;
        Ok(Self {
            submission_id,
            run_id,
            queue_id: row.try_get("submitted_queue_id")?,
            status: "COMPLETE",
            sha256: hex(sha256),
            signer: AcceptedSigner {
                kind: row.try_get("signer_kind")?,
                name: row.try_get("signer")?,
                issuer: row.try_get("signer_issuer")?,
            },
            late: row.try_get("late")?,
            bound: row.try_get("bound")?,
            metrics,
            receipt: row.try_get("receipt")?,
            new: false,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

//! Submit: accepts a signed result, completes its row and returns a receipt. `submit.sql` has the statements.
//!
//! Checks run in the contract's order: shape, signature, signer, binding to the run, schema, claim. Nothing is
//! written before all of them have passed.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::results::canonical_json::CanonicalJson;
use crate::results::envelope::Envelope;
use crate::results::metrics::{ModelMetrics, hardware_metrics, model_metrics};
use crate::results::run_result::RunResult;
use crate::runners::runner::AuthenticatedRunner;
use crate::runners::token::{ReceiptClaims, ServiceKeys};
use crate::session::Session;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use time::OffsetDateTime;
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

/// A request to submit. Nothing in it is verified yet.
#[derive(Debug)]
pub struct SubmitRequest<'a> {
    /// The claim the result was made under.
    pub claim_id: Uuid,
    /// The signed result.
    pub form: Form<'a>,
}

/// The two forms of a submission.
#[derive(Debug)]
pub enum Form<'a> {
    /// The harness's signed envelope, as received.
    Envelope(&'a RawValue),
    /// A publication bundle: base64 of each file, by file name.
    Files(BTreeMap<String, Cow<'a, str>>),
}

/// A result whose signature verified. Created by [`verify_envelope`], and through
/// [`VerifiedSubmission::attested`] by the caller of the attestation crate.
#[derive(Debug)]
pub struct VerifiedSubmission<'a> {
    signer: Signer,
    sha256: [u8; 32],
    result: CanonicalJson<'a>,
    files: Vec<(&'a str, &'a [u8])>,
}

/// The verified signer, and the evidence of it.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The kind of signature.
    pub kind: SignerKind,
    /// The key's thumbprint, or the certificate's identity.
    pub name: String,
    /// The OIDC issuer of a keyless signer.
    pub issuer: Option<String>,
    /// The allowlist's `key_id` of a keyless signer. The statement that writes the result checks it again.
    pub key_id: Option<String>,
    /// Signing times that a transparency log or a timestamp authority signed.
    pub verified_times: Vec<OffsetDateTime>,
    /// SHA-256 of the trusted root used.
    pub trust_root_sha256: Option<[u8; 32]>,
}

/// The kinds of signature, as in `submissions.signer_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerKind {
    /// The harness's envelope, signed by the runner's key.
    Envelope,
    /// A Sigstore bundle signed by the runner's key.
    KeyBundle,
    /// A Sigstore bundle signed under a Fulcio certificate.
    KeylessBundle,
}

impl SignerKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::KeyBundle => "key-bundle",
            Self::KeylessBundle => "keyless-bundle",
        }
    }
}

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

impl<'a> SubmitRequest<'a> {
    /// Parses the request's body.
    ///
    /// # Errors
    /// Every field error.
    pub fn parse(body: &'a str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let request = Object::parse(body, "", &mut errors).and_then(|mut object| {
            let claim_id = object.required_uuid("claim_id", &mut errors);
            let envelope = object.raw("envelope");
            let files = object.texts("files", &mut errors);
            let form = match (envelope, files) {
                (Some(envelope), None) => Some(Form::Envelope(envelope)),
                (None, Some(files)) => Some(Form::Files(files)),
                _ => {
                    errors.push("", "needs either envelope or files");
                    None
                }
            };
            object.finish(&mut errors);
            Some(Self { claim_id: claim_id?, form: form? })
        });
        errors.finish(request)
    }
}

/// Verifies the harness's envelope under the key that the runner's token is bound to, so that a runner cannot
/// submit another runner's result.
///
/// # Errors
/// [`Error::Invalid`], [`Error::SignatureInvalid`].
pub fn verify_envelope<'a>(
    runner: &AuthenticatedRunner,
    envelope: &'a RawValue,
) -> Result<VerifiedSubmission<'a>, Error> {
    let verified = Envelope::parse(envelope.get())
        .map_err(|errors| with_pointer_prefix("/envelope", errors))?
        .verify(runner.key().verifying_key())
        .map_err(|invalid| Error::SignatureInvalid(invalid.to_string()))?;
    Ok(VerifiedSubmission {
        signer: Signer {
            kind: SignerKind::Envelope,
            name: runner.key().key_id().to_string(),
            issuer: None,
            key_id: None,
            verified_times: Vec::new(),
            trust_root_sha256: None,
        },
        sha256: verified.sha256(),
        result: verified.result(),
        files: vec![("envelope.json", envelope.get().as_bytes())],
    })
}

/// Maximum length, in characters, of a signed `run_id` that a refusal repeats. A UUID has 36.
const SIGNED_RUN_ID_MAX: usize = 100;

impl<'a> VerifiedSubmission<'a> {
    /// Wraps a publication bundle that the caller verified with the attestation crate.
    pub fn attested(
        signer: Signer,
        sha256: [u8; 32],
        result: CanonicalJson<'a>,
        files: Vec<(&'a str, &'a [u8])>,
    ) -> Self {
        Self { signer, sha256, result, files }
    }

    /// Parses the result and checks that it was signed for this run. A result of another run is refused as that,
    /// whatever else is wrong with it.
    fn result_of(&self, run_id: Uuid) -> Result<RunResult, Error> {
        #[derive(Deserialize)]
        struct Named {
            run_id: String,
        }
        let read = RunResult::from_canonical(self.result);
        let signed = match &read {
            Ok(result) => Some(result.run_id().to_owned()),
            Err(_) => serde_json::from_str(self.result.as_str()).ok().map(|Named { run_id }| run_id),
        };
        match signed {
            Some(signed) if signed != run_id.to_string() => {
                // A signer may have written any text there; the response and the audit entry repeat it.
                let signed = signed.chars().take(SIGNED_RUN_ID_MAX).collect();
                Err(Error::RunMismatch { signed })
            }
            _ => read.map_err(|errors| with_pointer_prefix("/result", errors)),
        }
    }
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
    // The first lookup is on its way while the result is parsed; parsing takes about as long.
    let lookup = || ClaimState::lookup(client, runner, run_id, claim_id, &verified.sha256);
    let mut first_lookup = Box::pin(lookup());
    let first_poll = start(first_lookup.as_mut()).await;
    let result = verified.result_of(run_id)?;
    let mut state = match first_poll {
        Some(state) => state,
        None => first_lookup.await,
    };
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

/// Polls a future once, and gives the other tasks a turn: what it sends is then sent. Returns its output if it
/// has one already.
async fn start<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let mut polled = false;
    poll_fn(move |context| {
        if polled {
            return Poll::Ready(None);
        }
        polled = true;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await
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

/// Converts the field errors of a part into those of the request.
fn with_pointer_prefix(at: &str, found: Vec<FieldError>) -> Error {
    let mut errors = FieldErrors::default();
    errors.extend_with_prefix(at, found);
    Error::Invalid(errors.into_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

//! Accepted submissions verified again, from the bytes that were stored: signature, digest, receipt and metrics.
//!
//! The signature of a publication bundle is verified by the caller, because only `submit` links Sigstore. All the
//! rest is here ([`StoredSubmission::check`]).

use crate::error::Error;
use crate::results::canonical_json::CanonicalJson;
use crate::results::envelope::Envelope;
use crate::results::metrics::{ModelMetrics, model_metrics};
use crate::results::run_result::RunResult;
use crate::runners::key::PublicKey;
use crate::runners::token::VerifyingKeys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

const PAGE: &str = "SELECT submission_id FROM submissions WHERE $1::uuid IS NULL OR submission_id > $1 \
                    ORDER BY submission_id LIMIT $2";
const READ: &str = include_str!("evidence.sql");
/// The file that holds a submitted envelope.
const ENVELOPE: &str = "envelope.json";

/// A submission as it is stored.
#[derive(Debug)]
pub struct StoredSubmission {
    submission_id: Uuid,
    queue_id: Uuid,
    run_id: Uuid,
    claim_id: Uuid,
    runner_id: String,
    sha256: Vec<u8>,
    signer_kind: String,
    signer: String,
    signer_issuer: Option<String>,
    run_status: String,
    late: bool,
    bound: bool,
    nonce: Option<Uuid>,
    metrics: Vec<ModelMetrics>,
    receipt: String,
    submitted_at: OffsetDateTime,
    /// `None` for a row that a foreign tool inserted: it has no job, and its result no metrics.
    job: Option<(Vec<JobModel>, Vec<JobPrompt>)>,
    public_key: Option<Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
    written: Vec<ModelMetrics>,
}

#[derive(Debug, Deserialize)]
struct JobModel {
    id: String,
    model_id: Uuid,
}

#[derive(Debug, Deserialize)]
struct JobPrompt {
    id: String,
    prompt_id: i32,
}

/// What a valid signature covers.
#[derive(Debug)]
pub struct SignedResult<'a> {
    /// The digest that was signed.
    pub sha256: [u8; 32],
    /// The result.
    pub result: CanonicalJson<'a>,
}

/// Something in which the parts of a stored submission do not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvidenceDiscrepancy {
    /// The submission.
    pub submission_id: Uuid,
    /// `files`, `signature`, `digest`, `run`, `binding`, `metrics` or `receipt`.
    pub check: &'static str,
    /// What does not agree.
    pub detail: String,
}

/// Returns the ids of at most `limit` submissions, in their order, from the one after `after`.
///
/// # Errors
/// [`Error::Database`].
pub async fn page(client: &Client, after: Option<Uuid>, limit: i64) -> Result<Vec<Uuid>, Error> {
    let rows = client.query_typed(PAGE, &[(&after, Type::UUID), (&limit, Type::INT8)]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

impl StoredSubmission {
    /// Reads one submission, files included.
    ///
    /// # Errors
    /// [`Error::Database`]; [`Error::Internal`] if there is no such submission.
    pub async fn read(client: &Client, submission_id: Uuid) -> Result<Self, Error> {
        let rows = client.query_typed(READ, &[(&submission_id, Type::UUID)]).await?;
        let row = rows.first();
        Self::from_row(row.ok_or_else(|| Error::Internal(format!("no submission {submission_id}")))?)
    }

    fn from_row(row: &Row) -> Result<Self, Error> {
        let (names, contents): (Vec<String>, Vec<Vec<u8>>) =
            (row.try_get("names")?, row.try_get("contents")?);
        let models: Option<Json<Vec<JobModel>>> = row.try_get("models")?;
        let prompts: Option<Json<Vec<JobPrompt>>> = row.try_get("prompts")?;
        let Json(metrics) = row.try_get("metrics")?;
        let Json(written) = row.try_get("written")?;
        Ok(Self {
            submission_id: row.try_get("submission_id")?,
            queue_id: row.try_get("queue_id")?,
            run_id: row.try_get("run_id")?,
            claim_id: row.try_get("claim_id")?,
            runner_id: row.try_get("runner_id")?,
            sha256: row.try_get("sha256")?,
            signer_kind: row.try_get("signer_kind")?,
            signer: row.try_get("signer")?,
            signer_issuer: row.try_get("signer_issuer")?,
            run_status: row.try_get("run_status")?,
            late: row.try_get("late")?,
            bound: row.try_get("bound")?,
            nonce: row.try_get("claim_nonce")?,
            metrics,
            receipt: row.try_get("receipt")?,
            submitted_at: row.try_get("submitted_at")?,
            job: models.zip(prompts).map(|(Json(models), Json(prompts))| (models, prompts)),
            public_key: row.try_get("public_key")?,
            files: names.into_iter().zip(contents).collect(),
            written,
        })
    }

    /// `envelope`, `key-bundle` or `keyless-bundle`.
    pub fn signer_kind(&self) -> &str {
        &self.signer_kind
    }

    /// The key's thumbprint, or the certificate's identity.
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// The OIDC issuer of a keyless signer.
    pub fn signer_issuer(&self) -> Option<&str> {
        self.signer_issuer.as_deref()
    }

    /// The stored files by name.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// The public key whose thumbprint is the signer.
    ///
    /// # Errors
    /// In words, if the allowlist has no such key or another one under that thumbprint.
    pub fn public_key(&self) -> Result<PublicKey, String> {
        let bytes = self.public_key.as_ref().ok_or("the allowlist has no key of this thumbprint")?;
        let key = PublicKey::from_bytes(bytes).map_err(|error| error.to_string())?;
        match key.key_id().as_str() == self.signer {
            true => Ok(key),
            false => Err("the allowlist has another key under this thumbprint".to_owned()),
        }
    }

    /// Verifies a stored envelope under the signer's key.
    ///
    /// # Errors
    /// The check that failed, in words.
    pub fn verify_envelope(&self) -> Result<SignedResult<'_>, String> {
        let bytes = self.files.get(ENVELOPE).ok_or_else(|| format!("{ENVELOPE} is missing"))?;
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let envelope = Envelope::parse(text).map_err(|errors| format!("{ENVELOPE}: {errors:?}"))?;
        let verified =
            envelope.verify(self.public_key()?.verifying_key()).map_err(|error| error.to_string())?;
        Ok(SignedResult { sha256: verified.sha256(), result: verified.result() })
    }

    /// Returns a discrepancy of this submission.
    pub fn discrepancy(&self, check: &'static str, detail: impl Into<String>) -> EvidenceDiscrepancy {
        EvidenceDiscrepancy { submission_id: self.submission_id, check, detail: detail.into() }
    }

    /// Checks digest, run, metrics and receipt against what the signature covers. Empty: all agree.
    pub fn check(&self, signed: &SignedResult<'_>, keys: &VerifyingKeys) -> Vec<EvidenceDiscrepancy> {
        let mut discrepancies = Vec::new();
        if signed.sha256.as_slice() != self.sha256 {
            discrepancies.push(self.discrepancy("digest", "the stored digest is not the signed one"));
        }
        match RunResult::from_canonical(signed.result) {
            Ok(result) => {
                discrepancies.extend(self.check_run(&result));
                discrepancies.extend(self.check_binding(&result));
                discrepancies.extend(self.check_metrics(&result));
            }
            Err(errors) => discrepancies
                .push(self.discrepancy("run", format!("the signed result is invalid: {errors:?}"))),
        }
        discrepancies.extend(self.check_receipt(keys));
        discrepancies
    }

    fn check_run(&self, result: &RunResult) -> Option<EvidenceDiscrepancy> {
        if result.run_id() != self.run_id.to_string() {
            return Some(self.discrepancy("run", format!("the signed result is of run {}", result.run_id())));
        }
        let status = result.status().as_str();
        (status != self.run_status).then(|| {
            self.discrepancy("run", format!("it is stored as {}, and signed as {status}", self.run_status))
        })
    }

    /// The result names its claim and nonce if, and only if, it is stored as bound to the claim.
    fn check_binding(&self, result: &RunResult) -> Option<EvidenceDiscrepancy> {
        match result.binding().check(self.claim_id, self.nonce, false) {
            Ok(bound) if bound == self.bound => None,
            Ok(bound) => Some(self.discrepancy("binding", format!("the signed result is bound: {bound}"))),
            Err(error) => Some(self.discrepancy("binding", error.to_string())),
        }
    }

    /// The metrics of the submission are those of the signed result, and those in `run_model_metrics`.
    fn check_metrics(&self, result: &RunResult) -> Option<EvidenceDiscrepancy> {
        let (models, prompts) = match &self.job {
            Some((models, prompts)) => (
                models.iter().map(|model| (model.id.clone(), model.model_id)).collect(),
                prompts.iter().map(|prompt| (prompt.id.clone(), prompt.prompt_id)).collect(),
            ),
            None => (Vec::new(), Vec::new()),
        };
        let computed = match model_metrics(result, &models, &prompts) {
            Ok(computed) => computed,
            Err(errors) => {
                return Some(self.discrepancy("metrics", format!("none can be computed: {errors:?}")));
            }
        };
        if computed != self.metrics {
            return Some(
                self.discrepancy("metrics", "those of the submission are not those of the signed result"),
            );
        }
        let missing = computed.iter().find(|metrics| !self.written.contains(metrics))?;
        let (prompt, model) = (missing.prompt_id, missing.model_id);
        Some(
            self.discrepancy(
                "metrics",
                format!("run_model_metrics differs for prompt {prompt}, model {model}"),
            ),
        )
    }

    fn check_receipt(&self, keys: &VerifyingKeys) -> Option<EvidenceDiscrepancy> {
        let stated = match keys.verify_receipt(&self.receipt) {
            Ok(stated) => stated,
            Err(error) => return Some(self.discrepancy("receipt", error.to_string())),
        };
        let agrees = stated.submission_id == self.submission_id
            && stated.run_id == self.run_id
            && stated.queue_id == self.queue_id
            && stated.claim_id == self.claim_id
            && stated.runner_id == self.runner_id
            && stated.sha256 == hex(&self.sha256)
            && stated.signer_kind == self.signer_kind
            && stated.signer == self.signer
            && stated.late == self.late
            && stated.bound == self.bound
            && stated.iat == self.submitted_at.unix_timestamp();
        (!agrees).then(|| self.discrepancy("receipt", "it states something else than the submission"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

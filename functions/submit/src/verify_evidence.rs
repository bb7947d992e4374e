//! Verifies accepted submissions again, from the bytes that were stored: for an admin, by direct invocation.
//!
//! It lives in this function because only `submit` links Sigstore, and because the code that accepted a result is the
//! code that must accept it again. `cargo local verify-evidence` starts this same binary.

use crate::publication::{self, signed_result};
use crate::trusted_root::{Root, trusted_root};
use bakeoff_attestation::publication::PublicationBundle;
use bakeoff_core::document::Object;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::results::evidence::{EvidenceDiscrepancy, SignedResult, StoredSubmission, page};
use bakeoff_core::runners::token::VerifyingKeys;
use bakeoff_lambda::{App, Reply, Result};
use serde_json::json;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Submissions verified per invocation, unless the payload names another number.
const LIMIT: i32 = 500;
/// Left of the invocation's time for the answer and for the largest submission.
const RESERVE: Duration = Duration::from_secs(5);

/// The payload `{"verify_evidence": {"cursor"?, "limit"?}}`.
#[derive(Debug)]
pub(crate) struct VerifyEvidence {
    cursor: Option<Uuid>,
    limit: i32,
}

impl VerifyEvidence {
    pub(crate) fn parse(payload: &str) -> std::result::Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let command = Object::parse(payload, "", &mut errors).and_then(|mut object| {
            let command = object.object("verify_evidence", &mut errors).map(|mut inner| {
                let cursor = inner.uuid("cursor", &mut errors);
                let limit = inner.integer("limit", 1..=10_000, &mut errors);
                inner.finish(&mut errors);
                Self { cursor, limit: limit.unwrap_or(LIMIT) }
            });
            if command.is_none() && errors.is_empty() {
                errors.push("", "must have `verify_evidence`");
            }
            object.finish(&mut errors);
            command
        });
        errors.finish(command)
    }

    /// Returns `{"verified", "discrepancies", "next_cursor"}`; `next_cursor` is null once all submissions were verified.
    pub(crate) async fn execute(&self, app: &App, time: Duration) -> Result {
        let started = Instant::now();
        let client = app.database().await?;
        let keys = app.verifying_keys().await?;
        let root = trusted_root(app).await?;
        let ids = page(&client, self.cursor, self.limit.into()).await?;
        let (mut verified, mut discrepancies) = (0, Vec::new());
        let mut next_cursor = None;
        for id in &ids {
            if started.elapsed() + RESERVE > time && verified > 0 {
                break;
            }
            discrepancies.extend(verify(&StoredSubmission::read(&client, *id).await?, &keys, &root));
            verified += 1;
            next_cursor = Some(*id);
        }
        let all = verified == ids.len() && (ids.len() as i64) < i64::from(self.limit);
        let next_cursor = next_cursor.filter(|_| !all);
        Reply::json(
            200,
            &json!({ "verified": verified, "discrepancies": discrepancies, "next_cursor": next_cursor }),
        )
    }
}

fn verify(stored: &StoredSubmission, keys: &VerifyingKeys, root: &Root) -> Vec<EvidenceDiscrepancy> {
    if stored.signer_kind() == "envelope" {
        return match stored.verify_envelope() {
            Ok(signed) => stored.check(&signed, keys),
            Err(detail) => vec![stored.discrepancy("signature", detail)],
        };
    }
    let files = match PublicationBundle::parse(stored.files().clone()) {
        Ok(files) => files,
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return vec![stored.discrepancy("files", errors.join("; "))];
        }
    };
    let sha256 = match verify_bundle(stored, &files, root) {
        Ok(sha256) => sha256,
        Err(detail) => return vec![stored.discrepancy("signature", detail)],
    };
    match signed_result(&files) {
        Ok(result) => stored.check(&SignedResult { sha256, result }, keys),
        Err(error) => vec![stored.discrepancy("files", error.to_string())],
    }
}

/// The digest that the stored signer signed.
fn verify_bundle(
    stored: &StoredSubmission,
    files: &PublicationBundle,
    root: &Root,
) -> std::result::Result<[u8; 32], String> {
    let key = match stored.signer_kind() {
        "key-bundle" => Some(stored.public_key()?),
        _ => None,
    };
    let verified =
        publication::verify_signature(files, key.as_ref(), root).map_err(|error| error.to_string())?;
    let identity = verified.identity();
    if key.is_none() != identity.is_some() {
        return Err(format!("the bundle is not the {} it is stored as", stored.signer_kind()));
    }
    if let Some(identity) = identity
        && (identity.subject(), Some(identity.issuer())) != (stored.signer(), stored.signer_issuer())
    {
        return Err(format!("it is by {} of {}", identity.subject(), identity.issuer()));
    }
    Ok(verified.digest())
}

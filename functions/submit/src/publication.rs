//! The `files` form: a publication bundle, exactly as manual submissions are.

use crate::trusted_root::trusted_root;
use bakeoff_attestation::publication::{FieldError as BundleFault, PublicationBundle};
use bakeoff_attestation::{
    Bundle, Identity, Material, PublicKey, VerifiedSignature, verify_keyed, verify_keyless,
};
use bakeoff_core::Error;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::results::canonical_json::CanonicalJson;
use bakeoff_core::results::submit::{Signer, SignerKind, VerifiedSubmission};
use bakeoff_core::runners::allowlist::signers;
use bakeoff_core::runners::runner::AuthenticatedRunner;
use bakeoff_lambda::{App, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deadpool_postgres::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a manifest repeats of the result. The rest of it, the records above all, is not read here.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Repeated {
    run_id: Value,
    timestamp: Value,
    run_status: Value,
    provenance: Value,
    config: Value,
    model_scores: Value,
}

/// The files, in base64, as the bundle that their manifest says they are.
pub(crate) fn parse(files: &BTreeMap<String, String>) -> Result<PublicationBundle> {
    Ok(PublicationBundle::parse(decoded(files)?).map_err(refused)?)
}

/// Verifies a publication bundle: its files, its signature, its signer, and that its manifest, which
/// nobody signed, says nothing else than the signed result.
///
/// A key bundle must be by the runner's own key; a keyless one by an allow-listed identity.
pub(crate) async fn verify<'a>(
    app: &App,
    client: &Object,
    runner: &AuthenticatedRunner,
    files: &'a PublicationBundle,
) -> Result<VerifiedSubmission<'a>> {
    let bundle = Bundle::parse(files.signature()).map_err(|why| invalid(&why))?;
    let root = trusted_root(app).await?;
    let (verified, signer) = match bundle.material() {
        Material::PublicKey => {
            let key = PublicKey::ed25519(runner.key().as_bytes()).map_err(|why| invalid(&why))?;
            let verified = verify_keyed(&bundle, files.result(), &key, &root).map_err(|why| invalid(&why))?;
            let signer = Signer {
                kind: SignerKind::KeyBundle,
                name: runner.key().key_id().to_string(),
                issuer: None,
                key_id: None,
                ..evidence(&verified)
            };
            (verified, signer)
        }
        Material::Certificate => {
            let verified = verify_keyless(&bundle, files.result(), &root).map_err(|why| invalid(&why))?;
            let signer = allowed_signer(client, &verified).await?;
            (verified, signer)
        }
    };
    // The signature covers the bytes and not the canonical form: here is where a result that two parsers
    // read differently is stopped.
    let field_error = |detail: String| Error::Invalid(vec![FieldError::new("/files/result.json", detail)]);
    let text = std::str::from_utf8(files.result()).map_err(|_| field_error("is not UTF-8".into()))?;
    let result = CanonicalJson::of(text).map_err(|why| field_error(why.to_string()))?;
    let repeated: Repeated =
        serde_json::from_str(text).map_err(|_| field_error("is not an object".into()))?;
    let disagreements = files.differences(&json!(repeated));
    if !disagreements.is_empty() {
        return Err(refused(disagreements).into());
    }
    Ok(VerifiedSubmission::attested(signer, verified.digest(), result, files.files().collect()))
}

fn decoded(files: &BTreeMap<String, String>) -> std::result::Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut errors = FieldErrors::default();
    let mut decoded = BTreeMap::new();
    for (name, content) in files {
        match STANDARD.decode(content) {
            Ok(content) => {
                decoded.insert(name.clone(), content);
            }
            Err(_) => {
                let pointer = format!("/files/{}", name.replace('~', "~0").replace('/', "~1"));
                errors.push(pointer, "is not base64");
            }
        }
    }
    errors.finish(Some(decoded)).map_err(Error::Invalid)
}

/// The allowlist's word on a certificate's identity.
async fn allowed_signer(client: &Object, verified: &VerifiedSignature) -> Result<Signer> {
    let identity = verified
        .identity()
        .ok_or_else(|| Error::Internal("a keyless bundle was verified without an identity".into()))?;
    let entries = signers(client, identity.issuer(), identity.subject()).await?;
    let entry = entries
        .into_iter()
        .find(|entry| {
            entry.repository.as_deref().is_none_or(|repository| identity.has_repository(repository))
                && entry.workflow.as_deref().is_none_or(|workflow| identity.has_workflow(workflow))
        })
        .ok_or_else(|| Error::SignerNotAllowed(described(identity)))?;
    Ok(Signer {
        kind: SignerKind::KeylessBundle,
        name: identity.subject().to_owned(),
        issuer: Some(identity.issuer().to_owned()),
        key_id: Some(entry.key_id),
        ..evidence(verified)
    })
}

fn described(identity: &Identity) -> String {
    format!("{} by {}", identity.subject(), identity.issuer())
}

/// What verification found, for the submission's row; the signer is filled in by the caller.
fn evidence(verified: &VerifiedSignature) -> Signer {
    Signer {
        kind: SignerKind::KeyBundle,
        name: String::new(),
        issuer: None,
        key_id: None,
        verified_times: verified.verified_times().to_vec(),
        trust_root_sha256: Some(verified.trusted_root()),
    }
}

fn invalid(why: &bakeoff_attestation::VerificationError) -> Error {
    Error::SignatureInvalid(why.to_string())
}

fn refused(errors: Vec<BundleFault>) -> Error {
    Error::Invalid(
        errors
            .into_iter()
            .map(|field_error| FieldError::new(field_error.pointer, field_error.detail))
            .collect(),
    )
}

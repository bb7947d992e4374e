//! Verification of the `files` form: a publication bundle, the format of manual submissions.

use crate::trusted_root::trusted_root;
use bakeoff_attestation::publication::{FieldError as BundleFieldError, PublicationBundle};
use bakeoff_attestation::{
    Bundle, Identity, Material, PublicKey, TrustedRoot, VerifiedSignature, verify_keyed, verify_keyless,
};
use bakeoff_core::Error;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::results::canonical_json::CanonicalJson;
use bakeoff_core::results::submission::{Signer, SignerKind, VerifiedSubmission};
use bakeoff_core::runners::allowlist::signers;
use bakeoff_core::runners::key::PublicKey as RunnerKey;
use bakeoff_core::runners::runner::AuthenticatedRunner;
use bakeoff_lambda::database::Session;
use bakeoff_lambda::{App, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The members of a result that a manifest repeats. The others, above all the records, are not read here.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct ResultFields {
    run_id: Value,
    timestamp: Value,
    run_status: Value,
    provenance: Value,
    config: Value,
    model_scores: Value,
}

/// Decodes the base64 files and checks them against their manifest.
pub(crate) fn parse(files: &BTreeMap<String, Cow<'_, str>>) -> Result<PublicationBundle> {
    Ok(PublicationBundle::parse(decode_files(files)?).map_err(invalid_fields)?)
}

/// Verifies a publication bundle: its signature, its signer, and that its unsigned manifest agrees with the
/// signed result.
///
/// A key bundle must be signed by the runner's own key, a keyless bundle by an identity on the allowlist.
pub(crate) async fn verify<'a>(
    app: &App,
    client: &Session,
    runner: &AuthenticatedRunner,
    files: &'a PublicationBundle,
) -> Result<VerifiedSubmission<'a>> {
    let root = trusted_root(app).await?;
    let verified = verify_signature(files, Some(runner.key()), &root)?;
    let signer = match verified.identity() {
        None => Signer {
            kind: SignerKind::KeyBundle,
            name: runner.key().key_id().to_string(),
            issuer: None,
            key_id: None,
            ..evidence_only(&verified)
        },
        Some(_) => allowed_signer(client, &verified).await?,
    };
    let result = signed_result(files)?;
    Ok(VerifiedSubmission::attested(signer, verified.digest(), result, files.files().collect()))
}

/// Verifies the signature of a bundle: a key bundle's with `key`, a keyless one's with its certificate.
pub(crate) fn verify_signature(
    files: &PublicationBundle,
    key: Option<&RunnerKey>,
    root: &TrustedRoot,
) -> std::result::Result<VerifiedSignature, Error> {
    let bundle = Bundle::parse(files.signature()).map_err(|error| signature_invalid(&error))?;
    let verified = match (bundle.material(), key) {
        (Material::PublicKey, Some(key)) => {
            let key = PublicKey::ed25519(key.as_bytes()).map_err(|error| signature_invalid(&error))?;
            verify_keyed(&bundle, files.result(), &key, root)
        }
        (Material::PublicKey, None) => return Err(Error::SignatureInvalid("it is by a key".to_owned())),
        (Material::Certificate, _) => verify_keyless(&bundle, files.result(), root),
    };
    verified.map_err(|error| signature_invalid(&error))
}

/// Returns the signed result, if it has a canonical form and the unsigned manifest agrees with it.
pub(crate) fn signed_result(files: &PublicationBundle) -> std::result::Result<CanonicalJson<'_>, Error> {
    // The signature covers the bytes, not the canonical form. This rejects a result that two parsers could
    // read differently.
    let field_error = |detail: String| Error::Invalid(vec![FieldError::new("/files/result.json", detail)]);
    let text = std::str::from_utf8(files.result()).map_err(|_| field_error("must be UTF-8".into()))?;
    let result = CanonicalJson::parse(text).map_err(|error| field_error(error.to_string()))?;
    let fields: ResultFields =
        serde_json::from_str(text).map_err(|_| field_error("must be a JSON object".into()))?;
    let differences = files.differences(&json!(fields));
    if differences.is_empty() { Ok(result) } else { Err(invalid_fields(differences)) }
}

fn decode_files(
    files: &BTreeMap<String, Cow<'_, str>>,
) -> std::result::Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut errors = FieldErrors::default();
    let mut decoded = BTreeMap::new();
    for (name, content) in files {
        match STANDARD.decode(content.as_bytes()) {
            Ok(content) => {
                decoded.insert(name.clone(), content);
            }
            Err(_) => {
                let pointer = format!("/files/{}", name.replace('~', "~0").replace('/', "~1"));
                errors.push(pointer, "must be base64 (RFC 4648, section 4)");
            }
        }
    }
    errors.finish(Some(decoded)).map_err(Error::Invalid)
}

/// Looks up the certificate's identity on the allowlist.
async fn allowed_signer(client: &Session, verified: &VerifiedSignature) -> Result<Signer> {
    let identity = verified
        .identity()
        .ok_or_else(|| Error::Internal("a verified keyless bundle has no identity".into()))?;
    let entries = signers(client, identity.issuer(), identity.subject()).await?;
    let entry = entries
        .into_iter()
        .find(|entry| {
            entry.repository.as_deref().is_none_or(|repository| identity.has_repository(repository))
                && entry.workflow.as_deref().is_none_or(|workflow| identity.has_workflow(workflow))
        })
        .ok_or_else(|| Error::SignerNotAllowed(describe(identity)))?;
    Ok(Signer {
        kind: SignerKind::KeylessBundle,
        name: identity.subject().to_owned(),
        issuer: Some(identity.issuer().to_owned()),
        key_id: Some(entry.key_id),
        ..evidence_only(verified)
    })
}

fn describe(identity: &Identity) -> String {
    format!("{} by {}", identity.subject(), identity.issuer())
}

/// Returns a [`Signer`] with only the evidence of the verification; the caller sets the signer's name.
fn evidence_only(verified: &VerifiedSignature) -> Signer {
    Signer {
        kind: SignerKind::KeyBundle,
        name: String::new(),
        issuer: None,
        key_id: None,
        verified_times: verified.verified_times().to_vec(),
        trust_root_sha256: Some(verified.trusted_root()),
    }
}

fn signature_invalid(error: &bakeoff_attestation::VerificationError) -> Error {
    Error::SignatureInvalid(error.to_string())
}

fn invalid_fields(errors: Vec<BundleFieldError>) -> Error {
    Error::Invalid(
        errors
            .into_iter()
            .map(|field_error| FieldError::new(field_error.pointer, field_error.detail))
            .collect(),
    )
}

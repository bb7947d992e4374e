//! The `files` form: a publication bundle, exactly as manual submissions are.

use crate::trusted_root::trusted_root;
use bakeoff_attestation::publication::{Fault as BundleFault, PublicationBundle};
use bakeoff_attestation::{Attested, Bundle, Identity, Material, PublicKey, verify_keyed, verify_keyless};
use bakeoff_core::Error;
use bakeoff_core::allowlist::signers;
use bakeoff_core::fault::{Fault, Faults};
use bakeoff_core::runner::AuthenticatedRunner;
use bakeoff_core::submit::{Signer, SignerKind, VerifiedSubmission};
use bakeoff_lambda::{App, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deadpool_postgres::Object;
use std::collections::BTreeMap;

/// Verifies a publication bundle: its files, its signature, its signer, and that its manifest, which
/// nobody signed, says nothing else than the signed result.
///
/// A key bundle must be by the runner's own key; a keyless one by an allow-listed identity.
pub(crate) async fn verify(
    app: &App,
    client: &Object,
    runner: &AuthenticatedRunner,
    files: &BTreeMap<String, String>,
) -> Result<VerifiedSubmission> {
    let files = PublicationBundle::parse(decoded(files)?).map_err(refused)?;
    let bundle = Bundle::parse(files.signature()).map_err(|why| invalid(&why))?;
    let root = trusted_root(app).await?;
    let (attested, signer) = match bundle.material() {
        Material::PublicKey => {
            let key = PublicKey::ed25519(runner.key().as_bytes()).map_err(|why| invalid(&why))?;
            let attested = verify_keyed(&bundle, files.result(), &key, &root).map_err(|why| invalid(&why))?;
            let signer = Signer {
                kind: SignerKind::KeyBundle,
                name: runner.key().key_id().to_string(),
                issuer: None,
                key_id: None,
                ..evidence(&attested)
            };
            (attested, signer)
        }
        Material::Certificate => {
            let attested = verify_keyless(&bundle, files.result(), &root).map_err(|why| invalid(&why))?;
            let signer = allowed_signer(client, &attested).await?;
            (attested, signer)
        }
    };
    let result_text = std::str::from_utf8(files.result())
        .map_err(|_| vec![Fault::new("/files/result.json", "is not UTF-8")])
        .map_err(Error::Invalid)?;
    let result = serde_json::from_str(result_text).map_err(|why| {
        Error::Invalid(vec![Fault::new("/files/result.json", format!("is not JSON: {why}"))])
    })?;
    let disagreements = files.disagreements(&result);
    if !disagreements.is_empty() {
        return Err(refused(disagreements).into());
    }
    let result_text = result_text.to_owned();
    let stored = files.files().map(|(name, content)| (name.to_owned(), content.to_vec())).collect();
    Ok(VerifiedSubmission::attested(signer, attested.digest(), result_text, stored))
}

fn decoded(files: &BTreeMap<String, String>) -> std::result::Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut faults = Faults::default();
    let mut decoded = BTreeMap::new();
    for (name, content) in files {
        match STANDARD.decode(content) {
            Ok(content) => {
                decoded.insert(name.clone(), content);
            }
            Err(_) => {
                let pointer = format!("/files/{}", name.replace('~', "~0").replace('/', "~1"));
                faults.push(pointer, "is not base64");
            }
        }
    }
    faults.finish(Some(decoded)).map_err(Error::Invalid)
}

/// The allowlist's word on a certificate's identity.
async fn allowed_signer(client: &Object, attested: &Attested) -> Result<Signer> {
    let identity = attested
        .identity()
        .ok_or_else(|| Error::Internal("a keyless bundle was verified without an identity".into()))?;
    let entries = signers(client, identity.issuer(), identity.subject()).await?;
    let entry = entries
        .into_iter()
        .find(|entry| {
            entry.repository.as_deref().is_none_or(|repository| identity.is_of_repository(repository))
                && entry.workflow.as_deref().is_none_or(|workflow| identity.is_of_workflow(workflow))
        })
        .ok_or_else(|| Error::SignerNotAllowed(described(identity)))?;
    Ok(Signer {
        kind: SignerKind::KeylessBundle,
        name: identity.subject().to_owned(),
        issuer: Some(identity.issuer().to_owned()),
        key_id: Some(entry.key_id),
        ..evidence(attested)
    })
}

fn described(identity: &Identity) -> String {
    format!("{} by {}", identity.subject(), identity.issuer())
}

/// What verification found, for the submission's row; the signer is filled in by the caller.
fn evidence(attested: &Attested) -> Signer {
    Signer {
        kind: SignerKind::KeyBundle,
        name: String::new(),
        issuer: None,
        key_id: None,
        verified_times: attested.verified_times().to_vec(),
        trust_root_sha256: Some(attested.trusted_root()),
    }
}

fn invalid(why: &bakeoff_attestation::Refused) -> Error {
    Error::SignatureInvalid(why.to_string())
}

fn refused(faults: Vec<BundleFault>) -> Error {
    Error::Invalid(faults.into_iter().map(|fault| Fault::new(fault.pointer, fault.detail)).collect())
}

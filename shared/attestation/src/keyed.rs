use sigstore_verify::types::bundle::{MessageSignature, VerificationMaterialContent};
use sigstore_verify::types::{DsseEnvelope, SignatureBytes, SignatureContent};
use time::OffsetDateTime;

use crate::artifact::{Artifact, HashedArtifact};
use crate::bundle::Bundle;
use crate::error::{Check, OrFail as _, VerificationError};
use crate::key::PublicKey;
use crate::log_entry;
use crate::statement::WRONG_SUBJECT;
use crate::trusted_root::TrustedRoot;
use crate::verified_signature::{Evidence, Signer, VerifiedSignature};

/// Verifies that `key` signed `artifact`.
///
/// Accepts a signature over the artifact or over an in-toto statement about it, by Ed25519, Ed25519ph or
/// ECDSA P-256. Log entries and timestamps are optional; each one present must verify and belong to this
/// signature.
///
/// # Errors
/// The first check that fails; [`Check::Key`] also if the bundle holds a certificate.
pub fn verify_keyed<'a>(
    bundle: &Bundle,
    artifact: impl Into<Artifact<'a>>,
    key: &PublicKey,
    root: &TrustedRoot,
) -> Result<VerifiedSignature, VerificationError> {
    let artifact = HashedArtifact::new(artifact.into());
    let inner = &bundle.inner;
    let VerificationMaterialContent::PublicKey(public_key) = &inner.verification_material.content else {
        return Err(VerificationError::new(
            Check::Key,
            "the bundle holds a certificate; a public key is required",
        ));
    };
    check_hint(&public_key.hint, key)?;
    let signature = match &inner.content {
        SignatureContent::MessageSignature(message) => verify_message(message, &artifact, key)?,
        SignatureContent::DsseEnvelope(envelope) => {
            check_hint(envelope.signature.keyid.as_str(), key)?;
            verify_envelope(bundle, envelope, &artifact, key)?
        }
        _ => {
            return Err(VerificationError::new(
                Check::Format,
                "the bundle's signature is neither a message signature nor a DSSE envelope",
            ));
        }
    };
    let entries = &inner.verification_material.tlog_entries;
    let mut verified_times = verify_timestamps(bundle, signature, root)?;
    for entry in entries {
        verified_times.extend(log_entry::verify_inclusion(entry, inner.media_type, root)?);
        log_entry::verify_body(entry, &inner.content, &artifact, key)?;
    }
    let evidence = Evidence { verified_times, log_entries: entries.len(), trusted_root: root.sha256() };
    Ok(VerifiedSignature::new(bundle.form(), Signer::Key(key.clone()), artifact.sha256(), evidence))
}

/// Accepts a missing hint. A hint for another key is rejected, because the bundle was made for that key.
fn check_hint(hint: &str, key: &PublicKey) -> Result<(), VerificationError> {
    if hint.is_empty() || key.matches_hint(hint) {
        return Ok(());
    }
    Err(VerificationError::new(
        Check::Key,
        "the key hint is for another key; sign with the registered key, or leave out the hint",
    ))
}

fn verify_message<'b>(
    message: &'b MessageSignature,
    artifact: &HashedArtifact<'_>,
    key: &PublicKey,
) -> Result<&'b SignatureBytes, VerificationError> {
    if let Some(declared) = &message.message_digest {
        let computed = artifact.digest(declared.algorithm).ok_or_else(|| {
            VerificationError::new(
                Check::Artifact,
                "the message digest can be checked only with the artifact itself, not its SHA-256",
            )
        })?;
        if computed != declared.digest.as_bytes() {
            return Err(VerificationError::new(
                Check::Artifact,
                "the message digest is not the artifact's; sign the exact bytes that you send",
            ));
        }
    }
    key.verify_message(artifact, &message.signature, message.message_digest.is_some())?;
    Ok(&message.signature)
}

fn verify_envelope<'b>(
    bundle: &Bundle,
    envelope: &'b DsseEnvelope,
    artifact: &HashedArtifact<'_>,
    key: &PublicKey,
) -> Result<&'b SignatureBytes, VerificationError> {
    key.verify_envelope(&envelope.pae(), &envelope.signature.sig)?;
    if bundle.statement.as_ref().is_some_and(|statement| statement.has_subject(artifact)) {
        return Ok(&envelope.signature.sig);
    }
    Err(VerificationError::new(Check::Artifact, WRONG_SUBJECT))
}

/// Verifies that each RFC 3161 timestamp covers this signature and comes from an authority of the root.
fn verify_timestamps(
    bundle: &Bundle,
    signature: &SignatureBytes,
    root: &TrustedRoot,
) -> Result<Vec<OffsetDateTime>, VerificationError> {
    let timestamps = &bundle.inner.verification_material.timestamp_verification_data.rfc3161_timestamps;
    if timestamps.is_empty() {
        return Ok(Vec::new());
    }
    let authorities = root.material.tsa_authorities();
    let verify = |token| {
        let mut failure =
            VerificationError::new(Check::Timestamp, "the trusted root has no timestamp authority");
        for authority in &authorities {
            match sigstore_verify::tsa::verify_timestamp_for_authority(token, signature, authority) {
                Ok(time) => {
                    return OffsetDateTime::from_unix_timestamp_nanos(time.as_nanosecond())
                        .or_fail(Check::Timestamp);
                }
                Err(error) => failure = VerificationError::new(Check::Timestamp, error),
            }
        }
        Err(failure)
    };
    timestamps.iter().map(|timestamp| verify(&timestamp.signed_timestamp)).collect()
}

use sigstore_verify::types::bundle::{MessageSignature, VerificationMaterialContent};
use sigstore_verify::types::{DsseEnvelope, SignatureBytes, SignatureContent};
use time::OffsetDateTime;

use crate::artifact::{Artifact, HashedArtifact};
use crate::attested::{Attested, Evidence, Signer};
use crate::bundle::Bundle;
use crate::key::PublicKey;
use crate::log_entry;
use crate::refused::{Check, OrRefused as _, Refused};
use crate::trusted_root::TrustedRoot;

/// Verifies that `key` signed `artifact`.
///
/// The signature may be over the artifact or over an in-toto statement about it, Ed25519 pure or
/// pre-hashed. Log entries and timestamps need not be there; those that are must verify and must be of
/// this signature.
///
/// # Errors
/// The first check that fails; [`Check::Key`] also for a bundle with a certificate.
pub fn verify_keyed<'a>(
    bundle: &Bundle,
    artifact: impl Into<Artifact<'a>>,
    key: &PublicKey,
    root: &TrustedRoot,
) -> Result<Attested, Refused> {
    let artifact = HashedArtifact::new(artifact.into());
    let parsed = &bundle.parsed;
    let VerificationMaterialContent::PublicKey(named) = &parsed.verification_material.content else {
        return Err(Refused::new(Check::Key, "the bundle holds a certificate, not a key"));
    };
    check_hint(&named.hint, key)?;
    let signature = match &parsed.content {
        SignatureContent::MessageSignature(message) => verify_message(message, &artifact, key)?,
        SignatureContent::DsseEnvelope(envelope) => {
            check_hint(envelope.signature.keyid.as_str(), key)?;
            verify_envelope(bundle, envelope, &artifact, key)?
        }
        _ => {
            return Err(Refused::new(Check::Format, "the bundle holds no signature known here"));
        }
    };
    let entries = &parsed.verification_material.tlog_entries;
    let mut verified_times = verify_timestamps(bundle, signature, root)?;
    for entry in entries {
        verified_times.extend(log_entry::verify_inclusion(entry, parsed.media_type, root)?);
        log_entry::verify_body(entry, &parsed.content, &artifact, key)?;
    }
    let evidence = Evidence { verified_times, log_entries: entries.len(), trusted_root: root.sha256() };
    Ok(Attested::new(bundle.form(), Signer::Key(key.clone()), artifact.sha256(), evidence))
}

/// A hint is only a hint, and may be missing; but one that names another key says that the bundle was
/// meant for another verification.
fn check_hint(hint: &str, key: &PublicKey) -> Result<(), Refused> {
    if hint.is_empty() || key.is_named_by(hint) {
        return Ok(());
    }
    Err(Refused::new(Check::Key, "the bundle names another key"))
}

fn verify_message<'b>(
    message: &'b MessageSignature,
    artifact: &HashedArtifact<'_>,
    key: &PublicKey,
) -> Result<&'b SignatureBytes, Refused> {
    if let Some(named) = &message.message_digest {
        let computed = artifact
            .digest(named.algorithm)
            .ok_or_else(|| Refused::new(Check::Artifact, "the message digest needs the artifact itself"))?;
        if computed != named.digest.as_bytes() {
            return Err(Refused::new(Check::Artifact, "the message digest is of another artifact"));
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
) -> Result<&'b SignatureBytes, Refused> {
    key.verify_envelope(&envelope.pae(), &envelope.signature.sig)?;
    if bundle.statement.as_ref().is_some_and(|statement| statement.is_about(artifact)) {
        return Ok(&envelope.signature.sig);
    }
    Err(Refused::new(Check::Artifact, "the statement is about another artifact"))
}

/// Every RFC 3161 timestamp must be by an authority of the root, over this signature.
fn verify_timestamps(
    bundle: &Bundle,
    signature: &SignatureBytes,
    root: &TrustedRoot,
) -> Result<Vec<OffsetDateTime>, Refused> {
    let timestamps = &bundle.parsed.verification_material.timestamp_verification_data.rfc3161_timestamps;
    if timestamps.is_empty() {
        return Ok(Vec::new());
    }
    let authorities = root.material.tsa_authorities();
    let verify = |token| {
        let mut failure = Refused::new(Check::Timestamp, "the trusted root has no timestamp authority");
        for authority in &authorities {
            match sigstore_verify::tsa::verify_timestamp_for_authority(token, signature, authority) {
                Ok(time) => {
                    return OffsetDateTime::from_unix_timestamp_nanos(time.as_nanosecond())
                        .or_refused(Check::Timestamp);
                }
                Err(error) => failure = Refused::new(Check::Timestamp, error),
            }
        }
        Err(failure)
    };
    timestamps.iter().map(|timestamp| verify(&timestamp.signed_timestamp)).collect()
}

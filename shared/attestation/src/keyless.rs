use sigstore_verify::types::{HashAlgorithm, Sha256Hash, SignatureContent};
use sigstore_verify::{Error, VerificationPolicy, VerificationResult};
use time::OffsetDateTime;

use crate::artifact::{Artifact, HashedArtifact};
use crate::bundle::{Bundle, Material};
use crate::error::{Check, OrFail as _, VerificationError, from_verifier_error};
use crate::key::MISSING_MESSAGE_DIGEST;
use crate::log_entry::UNKNOWN_LOG;
use crate::statement::WRONG_SUBJECT;
use crate::trusted_root::TrustedRoot;
use crate::verified_signature::{Evidence, Identity, Signer, VerifiedSignature};

/// Verifies that the holder of a Fulcio certificate signed `artifact` while the certificate was valid.
///
/// Verifies against `root`, without network access: the certificate's chain and SCT; the signature; each
/// log entry's inclusion proof, checkpoint and promise, as its format requires; that the entry records this
/// signature; and that a time attested by the log's promise or a timestamp authority lies within the
/// certificate's validity. The caller decides whether the identity may sign: see
/// [`VerifiedSignature::identity`].
///
/// # Errors
/// The first check that fails; [`Check::Certificate`] also if the bundle holds a key.
pub fn verify_keyless<'a>(
    bundle: &Bundle,
    artifact: impl Into<Artifact<'a>>,
    root: &TrustedRoot,
) -> Result<VerifiedSignature, VerificationError> {
    let artifact = HashedArtifact::new(artifact.into());
    if bundle.material() != Material::Certificate {
        return Err(VerificationError::new(
            Check::Certificate,
            "the bundle holds a public key; a certificate is required",
        ));
    }
    if let SignatureContent::MessageSignature(message) = &bundle.inner.content
        && message.message_digest.is_none()
    {
        return Err(VerificationError::new(Check::Format, MISSING_MESSAGE_DIGEST));
    }
    if bundle.statement.as_ref().is_some_and(|statement| !statement.has_subject(&artifact)) {
        return Err(VerificationError::new(Check::Artifact, WRONG_SUBJECT));
    }
    let entries = &bundle.inner.verification_material.tlog_entries;
    // `sigstore-verify` checks the proof against every log whose id starts with the checkpoint's 4-byte hint,
    // so an entry that names an unknown log could pass.
    if entries.iter().any(|entry| root.log(entry.log_id.key_id.as_bytes()).is_none()) {
        return Err(VerificationError::new(Check::LogEntry, UNKNOWN_LOG));
    }
    let result = verify(bundle, &artifact, root)?;
    let identity = result.certificate().and_then(Identity::from_certificate);
    let identity = identity.ok_or_else(|| {
        VerificationError::new(Check::Certificate, "the certificate has no OIDC issuer or no subject")
    })?;
    let verified_times = result.verified_timestamps().iter().map(|time| {
        OffsetDateTime::from_unix_timestamp_nanos(time.as_nanosecond()).or_fail(Check::Timestamp)
    });
    let evidence = Evidence {
        verified_times: verified_times.collect::<Result<_, _>>()?,
        log_entries: entries.len(),
        trusted_root: root.sha256(),
    };
    Ok(VerifiedSignature::new(bundle.form(), Signer::Identity(identity), artifact.sha256(), evidence))
}

fn verify(
    bundle: &Bundle,
    artifact: &HashedArtifact<'_>,
    root: &TrustedRoot,
) -> Result<VerificationResult, VerificationError> {
    // The policy accepts any identity: the caller checks the verified identity against the allowlist.
    let policy = VerificationPolicy::any_identity();
    let verifier = &root.verifier;
    let by_digest = || verifier.verify(Sha256Hash::new(artifact.sha256()), &bundle.inner, &policy);
    let by_bytes = |bytes| verifier.verify(bytes, &bundle.inner, &policy);
    let result = match artifact.bytes() {
        // Uses the SHA-256 computed above where it suffices: hashing a large artifact a second time costs as
        // much as the rest of the verification.
        Some(bytes) if !is_sha256(bundle) => by_bytes(bytes),
        Some(bytes) => match by_digest() {
            // The certificate's key signs whole messages, not digests.
            Err(Error::UnsupportedArtifact(_)) => by_bytes(bytes),
            result => result,
        },
        None => by_digest(),
    };
    let result = result.map_err(from_verifier_error)?;
    // The policy requires all three, but the result type can also represent a partial verification.
    if result.certificate_verified() && result.sct_verified() && result.tlog_verified() {
        return Ok(result);
    }
    Err(VerificationError::new(
        Check::Certificate,
        "the certificate, its SCT or its log entry was not verified",
    ))
}

fn is_sha256(bundle: &Bundle) -> bool {
    match &bundle.inner.content {
        SignatureContent::MessageSignature(message) => {
            message.message_digest.as_ref().is_some_and(|digest| digest.algorithm == HashAlgorithm::Sha2256)
        }
        _ => bundle.statement.as_ref().is_some_and(|statement| statement.has_sha256()),
    }
}

use sigstore_verify::types::{HashAlgorithm, Sha256Hash, SignatureContent};
use sigstore_verify::{Error, VerificationPolicy, VerificationResult};
use time::OffsetDateTime;

use crate::artifact::{Artifact, HashedArtifact};
use crate::attested::{Attested, Evidence, Identity, Signer};
use crate::bundle::{Bundle, Material};
use crate::refused::{Check, OrRefused as _, Refused, by_verifier};
use crate::trusted_root::TrustedRoot;

/// Verifies that the holder of a Fulcio certificate signed `artifact` while it was valid.
///
/// Required, all against `root` and without a network: the certificate's chain, its SCT, the signature,
/// and each log entry's inclusion proof, checkpoint and promise as the format has them; a time vouched
/// for by the log's promise or by a timestamp authority, within the certificate's validity; and that the
/// entry records this signature. Whether the identity may sign is the caller's to decide: see
/// [`Attested::identity`].
///
/// # Errors
/// The first check that fails; [`Check::Certificate`] also for a bundle with a key.
pub fn verify_keyless<'a>(
    bundle: &Bundle,
    artifact: impl Into<Artifact<'a>>,
    root: &TrustedRoot,
) -> Result<Attested, Refused> {
    let artifact = HashedArtifact::new(artifact.into());
    if bundle.material() != Material::Certificate {
        return Err(Refused::new(Check::Certificate, "the bundle holds a key, not a certificate"));
    }
    if let SignatureContent::MessageSignature(message) = &bundle.parsed.content
        && message.message_digest.is_none()
    {
        return Err(Refused::new(Check::Format, "the message digest is missing"));
    }
    if bundle.statement.as_ref().is_some_and(|statement| !statement.is_about(&artifact)) {
        return Err(Refused::new(Check::Artifact, "the statement is about another artifact"));
    }
    let entries = &bundle.parsed.verification_material.tlog_entries;
    // The proof is checked against every log whose id begins with the checkpoint's four-byte hint.
    if entries.iter().any(|entry| root.log(entry.log_id.key_id.as_bytes()).is_none()) {
        return Err(Refused::new(Check::LogEntry, "the entry's log is not in the trusted root"));
    }
    let result = verify(bundle, &artifact, root)?;
    let identity = result.certificate().and_then(Identity::from_certificate);
    let identity = identity
        .ok_or_else(|| Refused::new(Check::Certificate, "the certificate has no issuer or no subject"))?;
    let verified_times = result.verified_timestamps().iter().map(|time| {
        OffsetDateTime::from_unix_timestamp_nanos(time.as_nanosecond()).or_refused(Check::Timestamp)
    });
    let evidence = Evidence {
        verified_times: verified_times.collect::<Result<_, _>>()?,
        log_entries: entries.len(),
        trusted_root: root.sha256(),
    };
    Ok(Attested::new(bundle.form(), Signer::Identity(identity), artifact.sha256(), evidence))
}

fn verify(
    bundle: &Bundle,
    artifact: &HashedArtifact<'_>,
    root: &TrustedRoot,
) -> Result<VerificationResult, Refused> {
    // No identity is asked for here: the allowlist is in a database, and decides on the verified one.
    let policy = VerificationPolicy::any_identity();
    let verifier = &root.verifier;
    let by_digest = || verifier.verify(Sha256Hash::new(artifact.sha256()), &bundle.parsed, &policy);
    let by_bytes = |bytes| verifier.verify(bytes, &bundle.parsed, &policy);
    let result = match artifact.bytes() {
        // The digest is known already; hashing a large artifact twice would cost as much as the rest.
        Some(bytes) if !is_sha256(bundle) => by_bytes(bytes),
        Some(bytes) => match by_digest() {
            // A certificate for a key that signs whole messages only.
            Err(Error::UnsupportedArtifact(_)) => by_bytes(bytes),
            result => result,
        },
        None => by_digest(),
    };
    let result = result.map_err(by_verifier)?;
    // The policy above asks for all of this; the result type would also report less.
    if result.certificate_verified() && result.sct_verified() && result.tlog_verified() {
        return Ok(result);
    }
    Err(Refused::new(Check::Certificate, "not everything required was verified"))
}

fn is_sha256(bundle: &Bundle) -> bool {
    match &bundle.parsed.content {
        SignatureContent::MessageSignature(message) => {
            message.message_digest.as_ref().is_some_and(|digest| digest.algorithm == HashAlgorithm::Sha2256)
        }
        _ => bundle.statement.as_ref().is_some_and(|statement| statement.has_sha256()),
    }
}

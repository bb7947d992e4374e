//! Verification of transparency-log entries: Rekor v1 (`*/0.0.1`, `intoto/0.0.2`) and v2
//! (`hashedrekord/0.0.2`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sigstore_verify::types::bundle::InclusionProof;
use sigstore_verify::types::{
    Checkpoint, CheckpointSignature, DerPublicKey, DsseEnvelope, HashAlgorithm, KindVersion, MediaType,
    SignatureBytes, SignatureContent, TransparencyLogEntry,
};
use time::OffsetDateTime;

use crate::artifact::{HashedArtifact, digest};
use crate::error::{Check, OrFail as _, VerificationError};
use crate::key::PublicKey;
use crate::limits::{MAX_CHECKPOINT_SIGNATURES, MAX_DEPTH};
use crate::trusted_root::{Log, TrustedRoot};
use crate::{hex, json};

/// Detail for an entry of a log that the trusted root does not list.
pub(crate) const UNKNOWN_LOG: &str = "the entry's log is not in the trusted root";

fn log_entry_error(detail: impl std::fmt::Display) -> VerificationError {
    VerificationError::new(Check::LogEntry, detail)
}

fn is_rekor_v2(entry: &TransparencyLogEntry) -> bool {
    entry.kind_version == KindVersion::HashedRekordV002
}

/// Checks, before any verification, that values stated twice in an entry agree.
///
/// The signed checkpoint states the tree's size and root; the entry repeats both beside the proof and names
/// the log. Verifiers differ in which copy they read, so all copies must agree. Only the inclusion promise
/// signs the integrated time: without a promise, anyone could have written the time.
pub(crate) fn check_agreement(entry: &TransparencyLogEntry) -> Result<(), VerificationError> {
    match (&entry.inclusion_promise, entry.integrated_time) {
        (Some(_), _) if is_rekor_v2(entry) => {
            return Err(log_entry_error("a Rekor v2 entry must not have an inclusion promise"));
        }
        (Some(_), None) => {
            return Err(log_entry_error("the entry has an inclusion promise but no integrated time"));
        }
        (None, Some(_)) => {
            return Err(log_entry_error("the entry has an integrated time but no inclusion promise"));
        }
        _ => {}
    }
    let Some(proof) = &entry.inclusion_proof else {
        return Ok(());
    };
    let checkpoint = checkpoint(proof)?;
    if !is_canonical(checkpoint, proof.checkpoint.envelope()) {
        return Err(log_entry_error("the checkpoint is not a canonical C2SP signed note"));
    }
    if checkpoint.signatures().len() > MAX_CHECKPOINT_SIGNATURES {
        return Err(VerificationError::new(
            Check::Limit,
            format_args!(
                "the checkpoint has {} signatures; the limit is {MAX_CHECKPOINT_SIGNATURES}",
                checkpoint.signatures().len()
            ),
        ));
    }
    if log_signatures(checkpoint, entry.log_id.key_id.as_bytes()).next().is_none() {
        return Err(log_entry_error("the checkpoint is not signed by the entry's log"));
    }
    if *checkpoint.root_hash() != proof.root_hash || checkpoint.tree_size() != proof.tree_size {
        return Err(log_entry_error(
            "the inclusion proof's tree size or root hash differs from the checkpoint's",
        ));
    }
    if is_rekor_v2(entry) && proof.log_index != entry.log_index {
        return Err(log_entry_error("the inclusion proof's index differs from the entry's"));
    }
    Ok(())
}

fn checkpoint(proof: &InclusionProof) -> Result<&Checkpoint, VerificationError> {
    proof.checkpoint.checkpoint().ok_or_else(|| log_entry_error("the inclusion proof has no checkpoint"))
}

/// Returns whether the text consists of exactly the signed part and the signature lines (C2SP signed-note).
fn is_canonical(checkpoint: &Checkpoint, envelope: &str) -> bool {
    let lines = checkpoint.signatures().iter().map(|line| {
        let bytes = [line.key_id.as_bytes(), line.signature.as_bytes()].concat();
        format!("\u{2014} {} {}\n", line.name, STANDARD.encode(bytes))
    });
    let mut text = String::from_utf8_lossy(checkpoint.signed_data()).into_owned();
    text.push('\n');
    text.extend(lines);
    // Some Rekor v1 clients omit the last newline.
    text == envelope || text.strip_suffix('\n') == Some(envelope)
}

/// Returns the signature lines that claim to be the log's: their name is the note's origin, and their hint is
/// the first 4 bytes of the log's id. The other lines are from witnesses.
fn log_signatures<'a>(
    checkpoint: &'a Checkpoint,
    log_id: &'a [u8],
) -> impl Iterator<Item = &'a CheckpointSignature> {
    checkpoint.signatures().iter().filter(move |line| {
        // Rekor v1 appends the tree's id to the origin: `rekor.sigstore.dev - 2605736670972794746`.
        let is_origin = checkpoint
            .origin()
            .strip_prefix(line.name.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(" - "));
        is_origin && log_id.get(..4) == Some(line.key_id.as_bytes())
    })
}

/// Verifies that the log holds the entry. Returns the integrated time if an inclusion promise signs it.
///
/// A v0.1 bundle must have the promise, a later one the inclusion proof. If both are present, both must
/// verify.
pub(crate) fn verify_inclusion(
    entry: &TransparencyLogEntry,
    format: MediaType,
    root: &TrustedRoot,
) -> Result<Option<OffsetDateTime>, VerificationError> {
    let log = root.log(entry.log_id.key_id.as_bytes()).ok_or_else(|| log_entry_error(UNKNOWN_LOG))?;
    match (format, &entry.inclusion_promise, &entry.inclusion_proof) {
        (MediaType::Bundle0_1, None, _) => {
            return Err(log_entry_error("an entry in a v0.1 bundle must have an inclusion promise"));
        }
        (MediaType::Bundle0_2 | MediaType::Bundle0_3, _, None) => {
            return Err(log_entry_error("an entry in a v0.2 or v0.3 bundle must have an inclusion proof"));
        }
        _ => {}
    }
    if let Some(proof) = &entry.inclusion_proof {
        verify_proof(entry, proof, log)?;
    }
    match &entry.inclusion_promise {
        Some(promise) => {
            let signature = SignatureBytes::from_bytes(promise.signed_entry_timestamp.as_bytes());
            verify_promise(entry, &signature, log).map(Some)
        }
        None => Ok(None),
    }
}

/// Verifies the Merkle inclusion proof (RFC 9162 §2.1.3) against a checkpoint that the log signed.
fn verify_proof(
    entry: &TransparencyLogEntry,
    proof: &InclusionProof,
    log: &Log,
) -> Result<(), VerificationError> {
    let checkpoint = checkpoint(proof)?;
    sigstore_merkle::verify_inclusion_proof(
        &sigstore_merkle::hash_leaf(entry.canonicalized_body.as_bytes()),
        proof.log_index.get(),
        checkpoint.tree_size(),
        &proof.hashes,
        checkpoint.root_hash(),
    )
    .or_fail(Check::LogEntry)?;
    if !log.has_started() {
        return Err(log_entry_error("the log's validity in the trusted root has not started"));
    }
    let is_signed = log_signatures(checkpoint, entry.log_id.key_id.as_bytes())
        .any(|line| log.verify(checkpoint.signed_data(), &line.signature));
    if is_signed { Ok(()) } else { Err(log_entry_error("the checkpoint's signature does not verify")) }
}

/// Verifies the signed entry timestamp: the log's signature over the entry's canonical JSON (RFC 8785).
fn verify_promise(
    entry: &TransparencyLogEntry,
    signature: &SignatureBytes,
    log: &Log,
) -> Result<OffsetDateTime, VerificationError> {
    let time = entry.integrated_time.ok_or_else(|| log_entry_error("the entry has no integrated time"))?;
    if !log.was_valid_at(time.as_nanosecond()) {
        return Err(log_entry_error("the log was not valid at the integrated time"));
    }
    let at = OffsetDateTime::from_unix_timestamp(time.as_second()).or_fail(Check::LogEntry)?;
    if at > OffsetDateTime::now_utc() {
        return Err(log_entry_error("the integrated time is in the future"));
    }
    // The values are base64, digits and hexadecimal, which need no JSON escaping.
    let payload = format!(
        r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
        entry.canonicalized_body.to_base64(),
        time.as_second(),
        hex::encode(entry.log_id.key_id.as_bytes()),
        entry.log_index.as_i64(),
    );
    if !log.verify(payload.as_bytes(), signature) {
        return Err(log_entry_error("the inclusion promise does not verify"));
    }
    Ok(at)
}

/// Verifies that the entry records this signature, by this key, over this artifact. Without this check an
/// attacker could attach another signature's entry, with its proof and time (CVE-2022-36056).
pub(crate) fn verify_body(
    entry: &TransparencyLogEntry,
    content: &SignatureContent,
    artifact: &HashedArtifact<'_>,
    key: &PublicKey,
) -> Result<(), VerificationError> {
    let body = json::parse(entry.canonicalized_body.as_bytes(), MAX_DEPTH).or_fail(Check::LogEntry)?;
    let kind = entry.kind_version;
    if body["apiVersion"] != kind.version() || body["kind"] != kind.kind() {
        return Err(log_entry_error("the entry's body has another kind or version than the entry"));
    }
    let spec = &body["spec"];
    let agreement = match (kind, content) {
        (KindVersion::HashedRekordV001, SignatureContent::MessageSignature(message)) => {
            hashedrekord_v1(spec, &message.signature, |algorithm| artifact.digest(algorithm), key)
        }
        (KindVersion::HashedRekordV001, SignatureContent::DsseEnvelope(envelope)) => {
            let encoded = envelope.pae();
            hashedrekord_v1(spec, &envelope.signature.sig, |algorithm| digest(algorithm, &encoded), key)
        }
        (KindVersion::HashedRekordV002, SignatureContent::MessageSignature(message)) => {
            hashedrekord_v2(spec, &message.signature, |algorithm| artifact.digest(algorithm), key)
        }
        (KindVersion::HashedRekordV002, SignatureContent::DsseEnvelope(envelope)) => {
            let encoded = envelope.pae();
            hashedrekord_v2(spec, &envelope.signature.sig, |algorithm| digest(algorithm, &encoded), key)
        }
        (KindVersion::DsseV001, SignatureContent::DsseEnvelope(envelope)) => dsse(spec, envelope, key),
        (KindVersion::IntotoV002, SignatureContent::DsseEnvelope(envelope)) => intoto(spec, envelope, key),
        _ => {
            return Err(log_entry_error("an entry of this kind does not record this form of signature"));
        }
    };
    match agreement {
        Some(true) => Ok(()),
        Some(false) => Err(log_entry_error("the entry records another signature, key or digest")),
        None => Err(log_entry_error("the entry's body is malformed")),
    }
}

// Each function returns `None` if the body lacks a member or the member is malformed.

fn hashedrekord_v1(
    spec: &Value,
    signature: &SignatureBytes,
    digest: impl Fn(HashAlgorithm) -> Option<Vec<u8>>,
    key: &PublicKey,
) -> Option<bool> {
    let hash = &spec["data"]["hash"];
    let algorithm: HashAlgorithm = hash["algorithm"].as_str()?.parse().ok()?;
    Some(
        digest(algorithm)? == hex::decode(hash["value"].as_str()?)?
            && signature.as_bytes() == decode(&spec["signature"]["content"])?
            && key.is_spki(&decode_pem(&spec["signature"]["publicKey"]["content"])?),
    )
}

fn hashedrekord_v2(
    spec: &Value,
    signature: &SignatureBytes,
    digest: impl Fn(HashAlgorithm) -> Option<Vec<u8>>,
    key: &PublicKey,
) -> Option<bool> {
    let record = &spec["hashedRekordV002"];
    let algorithm: HashAlgorithm = record["data"]["algorithm"].as_str()?.parse().ok()?;
    let verifier = &record["signature"]["verifier"];
    Some(
        digest(algorithm)? == decode(&record["data"]["digest"])?
            && signature.as_bytes() == decode(&record["signature"]["content"])?
            && key.is_spki(&decode(&verifier["publicKey"]["rawBytes"])?)
            && key.matches_details(verifier["keyDetails"].as_str()?),
    )
}

fn dsse(spec: &Value, envelope: &DsseEnvelope, key: &PublicKey) -> Option<bool> {
    let [signature] = spec["signatures"].as_array()?.as_slice() else {
        return Some(false);
    };
    Some(
        is_payload_hash(&spec["payloadHash"], envelope)?
            && envelope.signature.sig.as_bytes() == decode(&signature["signature"])?
            && key.is_spki(&decode_pem(&signature["verifier"])?),
    )
}

fn intoto(spec: &Value, envelope: &DsseEnvelope, key: &PublicKey) -> Option<bool> {
    let content = &spec["content"];
    let [signature] = content["envelope"]["signatures"].as_array()?.as_slice() else {
        return Some(false);
    };
    Some(
        is_payload_hash(&content["payloadHash"], envelope)?
            && content["envelope"]["payloadType"] == *envelope.payload_type
            // Rekor encodes the text of the signature, which is base64 already, once more.
            && envelope.signature.sig.as_bytes() == STANDARD.decode(decode(&signature["sig"])?).ok()?
            && key.is_spki(&decode_pem(&signature["publicKey"])?),
    )
}

fn is_payload_hash(hash: &Value, envelope: &DsseEnvelope) -> Option<bool> {
    let algorithm: HashAlgorithm = hash["algorithm"].as_str()?.parse().ok()?;
    Some(digest(algorithm, envelope.payload.as_bytes())? == hex::decode(hash["value"].as_str()?)?)
}

fn decode(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(value.as_str()?).ok()
}

/// Decodes base64 of a PEM public key to DER.
fn decode_pem(value: &Value) -> Option<Vec<u8>> {
    let pem = String::from_utf8(decode(value)?).ok()?;
    Some(DerPublicKey::from_pem(&pem).ok()?.into_bytes())
}

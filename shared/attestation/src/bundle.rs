use serde_json::Value;
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{self, SignatureContent};

use crate::error::{Check, OrFail as _, VerificationError};
use crate::json;
use crate::limits::{
    MAX_BUNDLE_BYTES, MAX_CERTIFICATES, MAX_DEPTH, MAX_LOG_ENTRIES, MAX_PROOF_HASHES, MAX_SIGNATURES,
    MAX_TIMESTAMPS,
};
use crate::log_entry;
use crate::statement::Statement;

/// The kind of verification material in a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Material {
    /// A public key, which the verifier must already know.
    PublicKey,
    /// A Fulcio certificate for an identity (keyless signing).
    Certificate,
}

impl Material {
    /// Returns `public_key` or `certificate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PublicKey => "public_key",
            Self::Certificate => "certificate",
        }
    }
}

/// The content that a bundle's signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The artifact (or its digest).
    Message,
    /// An in-toto statement about the artifact, in a DSSE envelope.
    Dsse,
}

impl Form {
    /// Returns `message` or `dsse`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Dsse => "dsse",
        }
    }
}

/// A well-formed Sigstore bundle, v0.1 to v0.3, within the bounds of [`crate::limits`].
///
/// Nothing is verified yet. Values that a bundle states twice agree, so an unsigned field never
/// contradicts a signed one.
#[derive(Debug)]
pub struct Bundle {
    pub(crate) inner: types::Bundle,
    pub(crate) statement: Option<Statement>,
}

impl Bundle {
    /// Parses the JSON form of a bundle.
    ///
    /// # Errors
    /// [`Check::Limit`] if a bound is exceeded; [`Check::Format`] if the text is not such a bundle or has
    /// duplicate or unknown members; [`Check::LogEntry`] if a log entry contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerificationError> {
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err(VerificationError::new(
                Check::Limit,
                format_args!("the bundle has {} bytes; the limit is {MAX_BUNDLE_BYTES}", bytes.len()),
            ));
        }
        let mut json = json::parse(bytes, MAX_DEPTH).or_fail(Check::Format)?;
        drop_nulls(&mut json);
        drop_empty_digest(&mut json);
        check_members(&json, &BUNDLE, "bundle")?;
        check_counts(&json)?;
        check_repetitions(&json)?;
        check_alternatives(&json)?;
        let inner: types::Bundle = serde_json::from_value(json).or_fail(Check::Format)?;
        let statement = match &inner.content {
            SignatureContent::DsseEnvelope(envelope) => Some(Statement::parse(envelope)?),
            _ => None,
        };
        for entry in &inner.verification_material.tlog_entries {
            log_entry::check_agreement(entry)?;
        }
        Ok(Self { inner, statement })
    }

    /// Returns whether the bundle holds a key or a certificate.
    pub fn material(&self) -> Material {
        match self.inner.verification_material.content {
            VerificationMaterialContent::PublicKey(_) => Material::PublicKey,
            _ => Material::Certificate,
        }
    }

    /// Returns whether the bundle signs a message or a DSSE envelope.
    pub fn form(&self) -> Form {
        match self.inner.content {
            SignatureContent::DsseEnvelope(_) => Form::Dsse,
            _ => Form::Message,
        }
    }
}

/// Removes null members: protobuf JSON treats null as absent.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Removes an empty message digest. cosign writes one for pure Ed25519, which does not pre-hash.
fn drop_empty_digest(bundle: &mut Value) {
    let Some(signature) = bundle.pointer_mut("/messageSignature").and_then(Value::as_object_mut) else {
        return;
    };
    let is_unset = |member: &Value| member == "" || member == "HASH_ALGORITHM_UNSPECIFIED";
    let digest = signature.get("messageDigest").and_then(Value::as_object);
    if digest.is_some_and(|digest| digest.values().all(is_unset)) {
        signature.remove("messageDigest");
    }
}

/// The members that a JSON value may have.
enum Shape {
    Leaf,
    List(&'static Shape),
    Object(&'static [(&'static str, Shape)]),
}

use Shape::{Leaf, List, Object};

const CERTIFICATE: Shape = Object(&[("rawBytes", Leaf)]);

const INCLUSION_PROOF: Shape = Object(&[
    ("logIndex", Leaf),
    ("rootHash", Leaf),
    ("treeSize", Leaf),
    ("hashes", List(&Leaf)),
    ("checkpoint", Object(&[("envelope", Leaf)])),
]);

const LOG_ENTRY: Shape = Object(&[
    ("logIndex", Leaf),
    ("logId", Object(&[("keyId", Leaf)])),
    ("kindVersion", Object(&[("kind", Leaf), ("version", Leaf)])),
    ("integratedTime", Leaf),
    ("inclusionPromise", Object(&[("signedEntryTimestamp", Leaf)])),
    ("inclusionProof", INCLUSION_PROOF),
    ("canonicalizedBody", Leaf),
]);

const MATERIAL: Shape = Object(&[
    ("publicKey", Object(&[("hint", Leaf)])),
    ("x509CertificateChain", Object(&[("certificates", List(&CERTIFICATE))])),
    ("certificate", CERTIFICATE),
    ("tlogEntries", List(&LOG_ENTRY)),
    (
        "timestampVerificationData",
        Object(&[("rfc3161Timestamps", List(&Object(&[("signedTimestamp", Leaf)])))]),
    ),
]);

/// The JSON form of `dev.sigstore.bundle.v1.Bundle` (Sigstore protobuf specifications).
const BUNDLE: Shape = Object(&[
    ("mediaType", Leaf),
    ("verificationMaterial", MATERIAL),
    (
        "messageSignature",
        Object(&[("messageDigest", Object(&[("algorithm", Leaf), ("digest", Leaf)])), ("signature", Leaf)]),
    ),
    (
        "dsseEnvelope",
        Object(&[
            ("payload", Leaf),
            ("payloadType", Leaf),
            ("signatures", List(&Object(&[("sig", Leaf), ("keyid", Leaf)]))),
        ]),
    ),
]);

/// Rejects unknown members, because no check would cover them. The Sigstore reference clients reject them
/// too.
fn check_members(value: &Value, shape: &Shape, name: &str) -> Result<(), VerificationError> {
    match (shape, value) {
        (Object(known), Value::Object(members)) => {
            members.iter().try_for_each(|(key, member)| match known.iter().find(|(known, _)| known == key) {
                Some((_, shape)) => check_members(member, shape, key),
                None => {
                    let detail = format_args!("unknown member {key:?} in {name}; remove it");
                    Err(VerificationError::new(Check::Format, detail))
                }
            })
        }
        (List(shape), Value::Array(items)) => {
            items.iter().try_for_each(|item| check_members(item, shape, name))
        }
        (Leaf, Value::String(_) | Value::Number(_)) => Ok(()),
        _ => Err(VerificationError::new(Check::Format, format_args!("{name} has the wrong type"))),
    }
}

fn check_counts(bundle: &Value) -> Result<(), VerificationError> {
    let at_most = |pointer: &str, bound: usize| -> Result<(), VerificationError> {
        let count = bundle.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len);
        if count <= bound {
            return Ok(());
        }
        let detail = format_args!("{pointer} has {count} items; the limit is {bound}");
        Err(VerificationError::new(Check::Limit, detail))
    };
    at_most("/verificationMaterial/x509CertificateChain/certificates", MAX_CERTIFICATES)?;
    at_most("/verificationMaterial/tlogEntries", MAX_LOG_ENTRIES)?;
    at_most("/verificationMaterial/timestampVerificationData/rfc3161Timestamps", MAX_TIMESTAMPS)?;
    at_most("/dsseEnvelope/signatures", MAX_SIGNATURES)?;
    (0..MAX_LOG_ENTRIES).try_for_each(|index| {
        at_most(&format!("/verificationMaterial/tlogEntries/{index}/inclusionProof/hashes"), MAX_PROOF_HASHES)
    })
}

/// Rejects repeated evidence: a repetition proves nothing more, but could be counted as more.
fn check_repetitions(bundle: &Value) -> Result<(), VerificationError> {
    let distinct = |pointer: &str, same: fn(&Value, &Value) -> bool| -> Result<(), VerificationError> {
        let items = bundle.pointer(pointer).and_then(Value::as_array);
        let items = items.map_or(&[][..], Vec::as_slice);
        let is_repeated =
            |(index, item): (usize, &Value)| items[..index].iter().any(|earlier| same(earlier, item));
        if items.iter().enumerate().any(is_repeated) {
            return Err(VerificationError::new(
                Check::Format,
                format_args!("{pointer} repeats an item; send each item once"),
            ));
        }
        Ok(())
    };
    distinct("/verificationMaterial/x509CertificateChain/certificates", PartialEq::eq)?;
    distinct("/verificationMaterial/timestampVerificationData/rfc3161Timestamps", PartialEq::eq)?;
    distinct("/verificationMaterial/tlogEntries", |one, other| {
        let member = "canonicalizedBody";
        one["logId"] == other["logId"] && one[member] == other[member]
    })
}

/// Requires exactly one of each set of alternatives. With two, a parser that reads the first would leave
/// the other unchecked.
fn check_alternatives(bundle: &Value) -> Result<(), VerificationError> {
    let exactly_one = |parent: &str, names: &[&str]| -> Result<(), VerificationError> {
        let present =
            names.iter().filter(|name| bundle.pointer(&format!("{parent}/{name}")).is_some()).count();
        if present == 1 {
            return Ok(());
        }
        let names = names.join(", ");
        let detail = format_args!("the bundle has {present} of {names}; exactly one is required");
        Err(VerificationError::new(Check::Format, detail))
    };
    // The Sigstore parser reads a bundle without a media type as v0.1, the format with the fewest
    // requirements.
    exactly_one("", &["mediaType"])?;
    exactly_one("", &["messageSignature", "dsseEnvelope"])?;
    exactly_one("/verificationMaterial", &["publicKey", "x509CertificateChain", "certificate"])
}

use serde_json::Value;
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{self, SignatureContent};

use crate::json;
use crate::limits::{
    MAX_BUNDLE_BYTES, MAX_CERTIFICATES, MAX_DEPTH, MAX_LOG_ENTRIES, MAX_PROOF_HASHES, MAX_SIGNATURES,
    MAX_TIMESTAMPS,
};
use crate::log_entry;
use crate::refused::{Check, OrRefused as _, Refused};
use crate::statement::Statement;

/// What a bundle says it was signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Material {
    /// A key the verifier must already know.
    PublicKey,
    /// A certificate by Fulcio for an identity (keyless).
    Certificate,
}

impl Material {
    /// `public_key` or `certificate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PublicKey => "public_key",
            Self::Certificate => "certificate",
        }
    }
}

/// What the signature in a bundle is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The artifact (or its digest).
    Message,
    /// An in-toto statement about the artifact, in a DSSE envelope.
    Dsse,
}

impl Form {
    /// `message` or `dsse`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Dsse => "dsse",
        }
    }
}

/// A well-formed Sigstore bundle, v0.1 to v0.3, within the bounds of [`crate::limits`].
///
/// Nothing is verified yet. Of what a bundle says twice, both sayings agree: a field that a signature
/// does not cover never contradicts one that it does.
#[derive(Debug)]
pub struct Bundle {
    pub(crate) parsed: types::Bundle,
    pub(crate) statement: Option<Statement>,
}

impl Bundle {
    /// Parses the JSON form of a bundle.
    ///
    /// # Errors
    /// [`Check::Limit`] past a bound; [`Check::Format`] for anything that is no such bundle, duplicate and
    /// unknown members included; [`Check::LogEntry`] where a log entry contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err(Refused::new(
                Check::Limit,
                format_args!("a bundle has at most {MAX_BUNDLE_BYTES} bytes"),
            ));
        }
        let mut json = json::parse(bytes, MAX_DEPTH).or_refused(Check::Format)?;
        drop_nulls(&mut json);
        drop_empty_digest(&mut json);
        check_members(&json, &BUNDLE, "bundle")?;
        check_counts(&json)?;
        check_repetitions(&json)?;
        check_alternatives(&json)?;
        let parsed: types::Bundle = serde_json::from_value(json).or_refused(Check::Format)?;
        let statement = match &parsed.content {
            SignatureContent::DsseEnvelope(envelope) => Some(Statement::parse(envelope)?),
            _ => None,
        };
        for entry in &parsed.verification_material.tlog_entries {
            log_entry::check_agreement(entry)?;
        }
        Ok(Self { parsed, statement })
    }

    /// Whether a key or a certificate signed.
    pub fn material(&self) -> Material {
        match self.parsed.verification_material.content {
            VerificationMaterialContent::PublicKey(_) => Material::PublicKey,
            _ => Material::Certificate,
        }
    }

    /// Whether a message or an envelope is signed.
    pub fn form(&self) -> Form {
        match self.parsed.content {
            SignatureContent::DsseEnvelope(_) => Form::Dsse,
            _ => Form::Message,
        }
    }
}

/// In the JSON form of protocol buffers a null member is an absent one.
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

/// cosign writes an empty digest for pure Ed25519, which hashes nothing beforehand: no digest at all.
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

/// `dev.sigstore.bundle.v1.Bundle` of the Sigstore protobuf specifications, as JSON.
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

/// A member nobody knows is one nobody checks: it is refused, as the reference clients do.
fn check_members(value: &Value, shape: &Shape, name: &str) -> Result<(), Refused> {
    match (shape, value) {
        (Object(known), Value::Object(members)) => {
            members.iter().try_for_each(|(key, member)| match known.iter().find(|(known, _)| known == key) {
                Some((_, shape)) => check_members(member, shape, key),
                None => Err(Refused::new(Check::Format, format_args!("unknown member {key:?} in {name}"))),
            })
        }
        (List(shape), Value::Array(items)) => {
            items.iter().try_for_each(|item| check_members(item, shape, name))
        }
        (Leaf, Value::String(_) | Value::Number(_)) => Ok(()),
        _ => Err(Refused::new(Check::Format, format_args!("{name} has the wrong type"))),
    }
}

fn check_counts(bundle: &Value) -> Result<(), Refused> {
    let at_most = |pointer: &str, bound: usize| -> Result<(), Refused> {
        let count = bundle.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len);
        if count <= bound {
            return Ok(());
        }
        Err(Refused::new(Check::Limit, format_args!("{pointer} has at most {bound} items, not {count}")))
    };
    at_most("/verificationMaterial/x509CertificateChain/certificates", MAX_CERTIFICATES)?;
    at_most("/verificationMaterial/tlogEntries", MAX_LOG_ENTRIES)?;
    at_most("/verificationMaterial/timestampVerificationData/rfc3161Timestamps", MAX_TIMESTAMPS)?;
    at_most("/dsseEnvelope/signatures", MAX_SIGNATURES)?;
    (0..MAX_LOG_ENTRIES).try_for_each(|index| {
        at_most(&format!("/verificationMaterial/tlogEntries/{index}/inclusionProof/hashes"), MAX_PROOF_HASHES)
    })
}

/// The same evidence twice proves no more than once, but could be counted as more.
fn check_repetitions(bundle: &Value) -> Result<(), Refused> {
    let distinct = |pointer: &str, same: fn(&Value, &Value) -> bool| -> Result<(), Refused> {
        let items = bundle.pointer(pointer).and_then(Value::as_array);
        let items = items.map_or(&[][..], Vec::as_slice);
        let is_repeated =
            |(index, item): (usize, &Value)| items[..index].iter().any(|earlier| same(earlier, item));
        if items.iter().enumerate().any(is_repeated) {
            return Err(Refused::new(Check::Format, format_args!("{pointer} repeats an item")));
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

/// Of alternatives exactly one: a parser that takes the first would let the other pass unread.
fn check_alternatives(bundle: &Value) -> Result<(), Refused> {
    let exactly_one = |parent: &str, names: &[&str]| -> Result<(), Refused> {
        let present =
            names.iter().filter(|name| bundle.pointer(&format!("{parent}/{name}")).is_some()).count();
        if present == 1 {
            return Ok(());
        }
        let names = names.join(", ");
        Err(Refused::new(Check::Format, format_args!("exactly one of {names} is needed, not {present}")))
    };
    // The parser below takes a bundle without a media type for v0.1, which asks for the least.
    exactly_one("", &["mediaType"])?;
    exactly_one("", &["messageSignature", "dsseEnvelope"])?;
    exactly_one("/verificationMaterial", &["publicKey", "x509CertificateChain", "certificate"])
}

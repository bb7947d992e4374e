//! The harness's signed envelope: `{"result": {…}, "sig": {…}}`.
//!
//! The signature is plain Ed25519 (RFC 8032, no pre-hash, no context) over the 32 bytes of the SHA-256 of
//! `result`'s canonical form ([`crate::results::canonical_json`]). `sig.runner_id` and `sig.signed_at` are not
//! signed: they must be strings, and nothing depends on their values.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::field_error::{FieldError, FieldErrors, pointer_token};
use crate::results::canonical_json::{CanonicalJson, NotCanonical};

/// An envelope that matches its schema. Its signature is not verified yet.
#[derive(Debug)]
pub struct Envelope<'a> {
    result: &'a str,
    sha256: [u8; 32],
    signature: Signature,
}

/// A result whose signature verifies under a known key. Only [`Envelope::verify`] creates one.
#[derive(Debug)]
pub struct VerifiedEnvelope<'a> {
    result: CanonicalJson<'a>,
    sha256: [u8; 32],
}

/// The verification step that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureInvalid {
    /// `result` has no canonical form, for example because of a duplicate key.
    #[error("`result` has no canonical form: {0}")]
    CanonicalForm(#[from] NotCanonical),
    /// `sig.sha256` is not the digest of the received `result`.
    #[error("`sig.sha256` is not the SHA-256 of the canonical form of `result`")]
    Sha256,
    /// The signature does not verify under the given key.
    #[error("`sig.signature` is not a signature of `sig.sha256` by the runner's key")]
    Signature,
}

impl<'a> Envelope<'a> {
    /// Parses an envelope. Requires both of its members and all four of `sig`, and allows no others. Does not
    /// parse `result`.
    ///
    /// # Errors
    ///
    /// Every field error, with pointers into the envelope. A duplicate member is an error, because parsers
    /// differ in which of the two they keep.
    pub fn parse(text: &'a str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let envelope = Self::read(text, &mut errors);
        match envelope {
            Some(envelope) if errors.is_empty() => Ok(envelope),
            _ => Err(errors.into_vec()),
        }
    }

    fn read(text: &'a str, errors: &mut FieldErrors) -> Option<Self> {
        let [result, sig] = members(text, "", ["result", "sig"], errors)?;
        let result = result.map(RawValue::get);
        if result.is_some_and(|result| !result.starts_with('{')) {
            errors.push("/result", "must be an object");
        }
        let names = ["sha256", "signature", "runner_id", "signed_at"];
        let [sha256, signature, runner_id, signed_at] = members(sig?.get(), "/sig", names, errors)?;
        let sha256 = string_at(sha256, "/sig/sha256", errors);
        let signature = string_at(signature, "/sig/signature", errors);
        string_at(runner_id, "/sig/runner_id", errors);
        string_at(signed_at, "/sig/signed_at", errors);
        let sha256 = sha256.and_then(|text| {
            let digest = digest_from_hex(&text);
            if digest.is_none() {
                errors.push("/sig/sha256", "must be a SHA-256 as 64 lower-case hexadecimal digits");
            }
            digest
        });
        let signature = signature.and_then(|text| {
            let signature = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            if signature.is_none() {
                errors.push(
                    "/sig/signature",
                    "must be base64 (RFC 4648, section 4) of the 64 bytes of an Ed25519 signature",
                );
            }
            signature
        });
        Some(Self { result: result?, sha256: sha256?, signature: Signature::from_bytes(&signature?) })
    }

    /// Verifies the signature under `key`.
    ///
    /// Verification is strict: it refuses a key or a signature component of small order. Otherwise an attacker
    /// could create one signature that verifies for several results.
    ///
    /// # Errors
    ///
    /// The first step that failed, of canonical form, digest and signature.
    pub fn verify(self, key: &VerifyingKey) -> Result<VerifiedEnvelope<'a>, SignatureInvalid> {
        let (result, sha256) = CanonicalJson::parse_with_sha256(self.result)?;
        if sha256 != self.sha256 {
            return Err(SignatureInvalid::Sha256);
        }
        key.verify_strict(&sha256, &self.signature).map_err(|_| SignatureInvalid::Signature)?;
        Ok(VerifiedEnvelope { result, sha256 })
    }
}

impl<'a> VerifiedEnvelope<'a> {
    /// Returns the signed result as received.
    pub fn result(&self) -> CanonicalJson<'a> {
        self.result
    }

    /// Returns the SHA-256 of the result's canonical form, which is the signed message.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

/// The members of an object in the order received, with their values as received.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name.0, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A member name, borrowed unless it contains escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Returns the members `names` of the object at `pointer`, and reports missing, unknown and duplicate ones.
fn members<'a, const N: usize>(
    text: &'a str,
    pointer: &str,
    names: [&str; N],
    errors: &mut FieldErrors,
) -> Option<[Option<&'a RawValue>; N]> {
    let Members(members) = match serde_json::from_str(text) {
        Ok(members) => members,
        Err(error) if error.is_data() => {
            errors.push(pointer, "must be an object");
            return None;
        }
        Err(error) => {
            errors.push(pointer, format!("must be a JSON object: {error}"));
            return None;
        }
    };
    let mut found = [None; N];
    for (name, value) in members {
        let pointer = || format!("{pointer}/{}", pointer_token(&name));
        match names.iter().position(|known| *known == name) {
            None => errors.push(pointer(), "unknown field"),
            Some(index) if found[index].is_some() => errors.push(pointer(), "occurs twice; send it once"),
            Some(index) => found[index] = Some(value),
        }
    }
    for (name, _) in names.iter().zip(&found).filter(|(_, value)| value.is_none()) {
        errors.push(format!("{pointer}/{name}"), "is required");
    }
    Some(found)
}

fn string_at(value: Option<&RawValue>, pointer: &str, errors: &mut FieldErrors) -> Option<String> {
    let text = serde_json::from_str(value?.get()).ok();
    if text.is_none() {
        errors.push(pointer, "must be a string");
    }
    text
}

/// Parses a digest in lower-case hex, the format of Python's `hashlib`. Upper case is refused, so that a digest
/// has one spelling only.
fn digest_from_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

//! The harness's signed envelope: `{"result": {…}, "sig": {…}}`.
//!
//! Signed is the SHA-256 of the canonical form ([`crate::results::canonical_json`]) of `result`, with plain Ed25519
//! (RFC 8032, no pre-hash, no context) over the 32 digest bytes. `sig.runner_id` and `sig.signed_at`
//! stand outside the signature: their shape is checked and nothing is decided by them.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::field_error::{FieldError, FieldErrors, pointer_token};
use crate::results::canonical_json::{CanonicalJson, NotCanonical};

/// An envelope of the right shape; whether its signature holds is not known yet.
#[derive(Debug)]
pub struct Envelope<'a> {
    result: &'a str,
    sha256: [u8; 32],
    signature: Signature,
}

/// A result that the holder of a known key signed. Only [`Envelope::verify`] makes one.
#[derive(Debug)]
pub struct VerifiedEnvelope<'a> {
    result: CanonicalJson<'a>,
    sha256: [u8; 32],
}

/// Why a signature does not hold: the check that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureInvalid {
    /// `result` has no canonical form: a duplicate key, for one.
    #[error("canonical form: {0}")]
    CanonicalForm(#[from] NotCanonical),
    /// `sig.sha256` is not the digest of the received `result`.
    #[error("sha256: sig.sha256 is not the SHA-256 of the canonical form of result")]
    Sha256,
    /// The signature over the digest is not by the given key.
    #[error("signature: sig.signature is not the key's signature over the SHA-256")]
    Signature,
}

impl<'a> Envelope<'a> {
    /// Reads an envelope. Both members of it and all four of `sig` are required, and no others are
    /// known. What stands inside `result` is not looked at here.
    ///
    /// # Errors
    ///
    /// Everything that does not fit, with RFC 6901 pointers into the envelope. A member that appears
    /// twice is a fault: which of the two another parser would take, nobody knows.
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
        let sha256 = text_at(sha256, "/sig/sha256", errors);
        let signature = text_at(signature, "/sig/signature", errors);
        text_at(runner_id, "/sig/runner_id", errors);
        text_at(signed_at, "/sig/signed_at", errors);
        let sha256 = sha256.and_then(|text| {
            let digest = digest_from_hex(&text);
            if digest.is_none() {
                errors.push("/sig/sha256", "must be 64 lower-case hexadecimal digits");
            }
            digest
        });
        let signature = signature.and_then(|text| {
            let signature = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            if signature.is_none() {
                errors.push("/sig/signature", "must be the base64 of 64 bytes (RFC 4648 section 4)");
            }
            signature
        });
        Some(Self { result: result?, sha256: sha256?, signature: Signature::from_bytes(&signature?) })
    }

    /// Checks the signature with the one key that may have made it.
    ///
    /// # Errors
    ///
    /// The first check that failed: canonical form, digest, signature. The signature is checked
    /// strictly: a key or a signature component of small order is refused, so that nobody can make a
    /// signature that holds for several results.
    pub fn verify(self, key: &VerifyingKey) -> Result<VerifiedEnvelope<'a>, SignatureInvalid> {
        let (result, sha256) = CanonicalJson::with_sha256(self.result)?;
        if sha256 != self.sha256 {
            return Err(SignatureInvalid::Sha256);
        }
        key.verify_strict(&sha256, &self.signature).map_err(|_| SignatureInvalid::Signature)?;
        Ok(VerifiedEnvelope { result, sha256 })
    }
}

impl<'a> VerifiedEnvelope<'a> {
    /// The signed result, exactly as received.
    pub fn result(&self) -> CanonicalJson<'a> {
        self.result
    }

    /// The SHA-256 of the result's canonical form, which is what was signed.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

/// The members of an object in the order received, their values as received.
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

/// A name borrowed where it has no escapes: an envelope's have none.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Exactly the named members of the object at `pointer`; what is missing, unknown or there twice
/// is a fault.
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
            errors.push(pointer, format!("must be JSON: {error}"));
            return None;
        }
    };
    let mut found = [None; N];
    for (name, value) in members {
        let at = || format!("{pointer}/{}", pointer_token(&name));
        match names.iter().position(|known| *known == name) {
            None => errors.push(at(), "is not known here"),
            Some(index) if found[index].is_some() => errors.push(at(), "stands here twice"),
            Some(index) => found[index] = Some(value),
        }
    }
    for (name, _) in names.iter().zip(&found).filter(|(_, value)| value.is_none()) {
        errors.push(format!("{pointer}/{name}"), "is required");
    }
    Some(found)
}

fn text_at(value: Option<&RawValue>, pointer: &str, errors: &mut FieldErrors) -> Option<String> {
    let text = serde_json::from_str(value?.get()).ok();
    if text.is_none() {
        errors.push(pointer, "must be text");
    }
    text
}

/// A digest from lower-case hex, as `hashlib` writes it. One digest has one spelling here.
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

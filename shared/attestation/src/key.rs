use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha512};
use sigstore_verify::crypto::{
    KeyAlgorithm, SigningScheme, VerificationKey, sha256, verify_signature, verify_signature_prehashed,
};
use sigstore_verify::types::{DerPublicKey, SignatureBytes};

use crate::artifact::HashedArtifact;
use crate::error::{Check, OrFail as _, VerificationError};

/// A public key for verification: Ed25519 (RFC 8032), or ECDSA over P-256 with SHA-256.
///
/// An Ed25519 point of small order or in a non-canonical encoding is rejected.
#[derive(Clone)]
pub struct PublicKey {
    spki: DerPublicKey,
    algorithm: Algorithm,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Ed25519(VerifyingKey),
    EcdsaP256,
}

/// Detail for an Ed25519 signature that does not verify.
const WRONG_ED25519_SIGNATURE: &str =
    "the Ed25519 signature does not verify with this key; sign the exact bytes with the registered key";
/// Detail for a message signature without the digest that its algorithm requires.
pub(crate) const MISSING_MESSAGE_DIGEST: &str =
    "`messageSignature.messageDigest` is missing; only pure Ed25519 may omit it";

/// The DER prefix of an Ed25519 SubjectPublicKeyInfo (RFC 8410 §4); the 32 raw bytes follow.
const ED25519_SPKI_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

impl PublicKey {
    /// Creates an Ed25519 key from its 32 raw bytes (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// [`Check::Key`] if the bytes do not encode a curve point, or if the point has small order or a
    /// non-canonical encoding.
    pub fn ed25519(raw: &[u8; 32]) -> Result<Self, VerificationError> {
        let key = VerifyingKey::from_bytes(raw)
            .map_err(|_| VerificationError::new(Check::Key, "the bytes are not an Ed25519 public key"))?;
        if key.is_weak() || !is_canonical(raw) {
            return Err(VerificationError::new(
                Check::Key,
                "the Ed25519 public key has small order or a non-canonical encoding; generate a new key",
            ));
        }
        let spki = DerPublicKey::new([&ED25519_SPKI_PREFIX[..], raw].concat());
        Ok(Self { spki, algorithm: Algorithm::Ed25519(key) })
    }

    /// Parses a PEM SubjectPublicKeyInfo (`-----BEGIN PUBLIC KEY-----`) of an Ed25519 or ECDSA P-256 key.
    ///
    /// # Errors
    /// [`Check::Key`] for any other text or key type.
    pub fn from_pem(pem: &str) -> Result<Self, VerificationError> {
        let spki = DerPublicKey::from_pem(pem).or_fail(Check::Key)?;
        match KeyAlgorithm::from_spki(&spki).or_fail(Check::Key)? {
            KeyAlgorithm::Ed25519 => {
                let key = VerificationKey::from_spki(&spki).or_fail(Check::Key)?;
                let raw = key.as_bytes().try_into().or_fail(Check::Key)?;
                Self::ed25519(raw)
            }
            KeyAlgorithm::EcdsaP256 => Ok(Self { spki, algorithm: Algorithm::EcdsaP256 }),
            _ => Err(VerificationError::new(Check::Key, "the public key must be Ed25519 or ECDSA P-256")),
        }
    }

    /// Returns the DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        self.spki.as_bytes()
    }

    /// Returns the SHA-256 of the DER SubjectPublicKeyInfo. Sigstore signers write it in base64 as the key
    /// hint.
    pub fn fingerprint(&self) -> [u8; 32] {
        *sha256(self.spki()).as_bytes()
    }

    /// Returns whether `hint` identifies this key in one of the forms that signers write.
    ///
    /// cosign, sigstore-go and sigstore-js write base64 of the SHA-256 of the DER; model signers write the
    /// hex SHA-256 of the PEM text; other signers write the raw key. The comparison follows decoding, so
    /// base64 alphabet, padding and case do not matter.
    pub(crate) fn matches_hint(&self, hint: &str) -> bool {
        let Some(hint) = decode_hint(hint) else {
            return false;
        };
        hint == self.fingerprint()
            || hint == *sha256(self.spki.to_pem().replace("\r\n", "\n").as_bytes()).as_bytes()
            || matches!(self.algorithm, Algorithm::Ed25519(key) if hint == *key.as_bytes())
    }

    pub(crate) fn is_spki(&self, spki: &[u8]) -> bool {
        self.spki.as_bytes() == spki
    }

    /// Returns whether `details`, Rekor v2's name for a key algorithm, fits this key.
    pub(crate) fn matches_details(&self, details: &str) -> bool {
        match self.algorithm {
            Algorithm::Ed25519(_) => matches!(details, "PKIX_ED25519" | "PKIX_ED25519_PH"),
            Algorithm::EcdsaP256 => details == "PKIX_ECDSA_P256_SHA_256",
        }
    }

    /// Verifies a signature over the artifact itself.
    ///
    /// Accepts Ed25519 and Ed25519ph (pre-hashed, RFC 8032 §5.1). The two use different domain separation:
    /// a signature of one kind is never valid as the other, and each proves that the key signed this
    /// artifact. A message digest is required except for pure Ed25519, for which cosign writes none.
    pub(crate) fn verify_message(
        &self,
        artifact: &HashedArtifact<'_>,
        signature: &SignatureBytes,
        has_digest: bool,
    ) -> Result<(), VerificationError> {
        match self.algorithm {
            Algorithm::Ed25519(key) => {
                let message = artifact.bytes().ok_or_else(|| {
                    VerificationError::new(
                        Check::Artifact,
                        "an Ed25519 message signature can be verified only with the artifact itself, not its digest",
                    )
                })?;
                let signature = ed25519_signature(signature)?;
                let is_pure = key.verify_strict(message, &signature).is_ok();
                if is_pure || (has_digest && is_prehashed(&key, message, &signature)) {
                    return Ok(());
                }
                Err(VerificationError::new(Check::Signature, WRONG_ED25519_SIGNATURE))
            }
            Algorithm::EcdsaP256 if !has_digest => {
                Err(VerificationError::new(Check::Format, MISSING_MESSAGE_DIGEST))
            }
            Algorithm::EcdsaP256 => {
                let scheme = SigningScheme::EcdsaP256Sha256;
                verify_signature_prehashed(&self.spki, &artifact.sha256(), signature, scheme)
                    .or_fail(Check::Signature)
            }
        }
    }

    /// Verifies a signature over the pre-authentication encoding of a DSSE envelope.
    pub(crate) fn verify_envelope(
        &self,
        encoded: &[u8],
        signature: &SignatureBytes,
    ) -> Result<(), VerificationError> {
        match self.algorithm {
            Algorithm::Ed25519(key) => {
                let signature = ed25519_signature(signature)?;
                if key.verify_strict(encoded, &signature).is_ok() || is_prehashed(&key, encoded, &signature) {
                    return Ok(());
                }
                Err(VerificationError::new(Check::Signature, WRONG_ED25519_SIGNATURE))
            }
            Algorithm::EcdsaP256 => {
                verify_signature(&self.spki, encoded, signature, SigningScheme::EcdsaP256Sha256)
                    .or_fail(Check::Signature)
            }
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", STANDARD.encode(self.fingerprint()))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

fn ed25519_signature(signature: &SignatureBytes) -> Result<Signature, VerificationError> {
    Signature::from_slice(signature.as_bytes())
        .map_err(|_| VerificationError::new(Check::Signature, "an Ed25519 signature must be 64 bytes"))
}

fn is_prehashed(key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
    key.verify_prehashed_strict(Sha512::new_with_prefix(message), None, signature).is_ok()
}

/// Returns whether the y coordinate is less than the field's prime 2^255 − 19 (RFC 8032 §5.1.3). Otherwise
/// one key would have two encodings, and a revoked key could return under the other one.
fn is_canonical(raw: &[u8; 32]) -> bool {
    let [lowest, middle @ .., highest] = raw;
    highest & 0x7f != 0x7f || middle.iter().any(|&byte| byte != 0xff) || *lowest < 0xed
}

/// Decodes a hint of 32 bytes: hexadecimal, or base64 in either alphabet, with or without padding.
fn decode_hint(hint: &str) -> Option<[u8; 32]> {
    let decoded = if hint.len() == 64 && hint.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        crate::hex::decode(hint)?
    } else {
        let url_safe = hint.trim_end_matches('=').replace('+', "-").replace('/', "_");
        URL_SAFE_NO_PAD.decode(url_safe).ok()?
    };
    decoded.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PublicKey {
        let signing = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        PublicKey::ed25519(signing.verifying_key().as_bytes()).unwrap()
    }

    #[test]
    fn a_hint_matches_in_every_form_and_encoding() {
        let key = key();
        let raw = &key.spki()[12..];
        for name in [key.fingerprint(), raw.try_into().unwrap()] {
            assert!(key.matches_hint(&STANDARD.encode(name)));
            assert!(key.matches_hint(&URL_SAFE_NO_PAD.encode(name)));
            assert!(key.matches_hint(&crate::hex::encode(&name)));
            assert!(key.matches_hint(&crate::hex::encode(&name).to_uppercase()));
        }
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(key.spki())
        );
        assert!(key.matches_hint(&crate::hex::encode(sha256(pem.as_bytes()).as_bytes())));
        assert_eq!(PublicKey::from_pem(&pem).unwrap(), key);
        for other in ["", "key-1", &STANDARD.encode([1; 32]), &crate::hex::encode(&[1; 32])] {
            assert!(!key.matches_hint(other), "{other}");
        }
    }

    #[test]
    fn small_order_points_and_non_canonical_encodings_are_rejected() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut non_canonical = [0xff; 32];
        non_canonical[0] = 0xf0;
        non_canonical[31] = 0x7f;
        for raw in [identity, [0; 32], non_canonical] {
            assert_eq!(PublicKey::ed25519(&raw).unwrap_err().check(), Check::Key);
        }
        let mut largest = [0xff; 32];
        largest[0] = 0xec;
        largest[31] = 0x7f;
        assert!(is_canonical(&largest));
        assert!(!is_canonical(&non_canonical));
    }
}

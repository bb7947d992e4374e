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
use crate::refused::{Check, OrRefused as _, Refused};

/// A public key that may sign: Ed25519 (RFC 8032), or ECDSA over P-256 with SHA-256.
///
/// Weak Ed25519 points (small order, non-canonical encodings) do not become a `PublicKey`.
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

/// DER before the 32 raw bytes in the SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

impl PublicKey {
    /// An Ed25519 key from its raw 32 bytes (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// [`Check::Key`] for bytes that are no point, a non-canonical encoding or a point of small order.
    pub fn ed25519(raw: &[u8; 32]) -> Result<Self, Refused> {
        let key = VerifyingKey::from_bytes(raw)
            .map_err(|_| Refused::new(Check::Key, "not an Ed25519 public key"))?;
        if key.is_weak() || !is_canonical(raw) {
            return Err(Refused::new(Check::Key, "weak Ed25519 public key"));
        }
        let spki = DerPublicKey::new([&ED25519_SPKI_PREFIX[..], raw].concat());
        Ok(Self { spki, algorithm: Algorithm::Ed25519(key) })
    }

    /// A key from a PEM SubjectPublicKeyInfo (`-----BEGIN PUBLIC KEY-----`), Ed25519 or ECDSA P-256.
    ///
    /// # Errors
    /// [`Check::Key`] for anything else.
    pub fn from_pem(pem: &str) -> Result<Self, Refused> {
        let spki = DerPublicKey::from_pem(pem).or_refused(Check::Key)?;
        match KeyAlgorithm::from_spki(&spki).or_refused(Check::Key)? {
            KeyAlgorithm::Ed25519 => {
                let key = VerificationKey::from_spki(&spki).or_refused(Check::Key)?;
                let raw = key.as_bytes().try_into().or_refused(Check::Key)?;
                Self::ed25519(raw)
            }
            KeyAlgorithm::EcdsaP256 => Ok(Self { spki, algorithm: Algorithm::EcdsaP256 }),
            _ => Err(Refused::new(Check::Key, "neither an Ed25519 nor a P-256 public key")),
        }
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        self.spki.as_bytes()
    }

    /// SHA-256 of the DER SubjectPublicKeyInfo: what Sigstore signers write, in base64, as the key's hint.
    pub fn fingerprint(&self) -> [u8; 32] {
        *sha256(self.spki()).as_bytes()
    }

    /// Whether `hint` names this key, in a way seen in the field.
    ///
    /// cosign, sigstore-go and sigstore-js write base64 of the SHA-256 of the DER, model signers the hex
    /// SHA-256 of the PEM text, others the raw key itself. A name is compared after decoding, so that
    /// alphabet, padding and case do not matter.
    pub(crate) fn is_named_by(&self, hint: &str) -> bool {
        let Some(named) = decode_hint(hint) else {
            return false;
        };
        named == self.fingerprint()
            || named == *sha256(self.spki.to_pem().replace("\r\n", "\n").as_bytes()).as_bytes()
            || matches!(self.algorithm, Algorithm::Ed25519(key) if named == *key.as_bytes())
    }

    pub(crate) fn is_spki(&self, spki: &[u8]) -> bool {
        self.spki.as_bytes() == spki
    }

    /// Whether Rekor v2's name of a key's algorithm fits this key.
    pub(crate) fn has_details(&self, details: &str) -> bool {
        match self.algorithm {
            Algorithm::Ed25519(_) => matches!(details, "PKIX_ED25519" | "PKIX_ED25519_PH"),
            Algorithm::EcdsaP256 => details == "PKIX_ECDSA_P256_SHA_256",
        }
    }

    /// Verifies a signature over the artifact itself.
    ///
    /// Ed25519 may be pure or pre-hashed (Ed25519ph, RFC 8032 §5.1): the two sign under different
    /// domains, so that neither can be passed off as the other, and each proves that the key signed
    /// this artifact. cosign writes no message digest for the pure form; every other one has it.
    pub(crate) fn verify_message(
        &self,
        artifact: &HashedArtifact<'_>,
        signature: &SignatureBytes,
        has_digest: bool,
    ) -> Result<(), Refused> {
        match self.algorithm {
            Algorithm::Ed25519(key) => {
                let message = artifact.bytes().ok_or_else(|| {
                    Refused::new(Check::Artifact, "an Ed25519 signature needs the artifact, not its digest")
                })?;
                let signature = ed25519_signature(signature)?;
                let is_pure = key.verify_strict(message, &signature).is_ok();
                if is_pure || (has_digest && is_prehashed(&key, message, &signature)) {
                    return Ok(());
                }
                Err(Refused::new(Check::Signature, "the Ed25519 signature is not by this key"))
            }
            Algorithm::EcdsaP256 if !has_digest => {
                Err(Refused::new(Check::Format, "the message digest is missing"))
            }
            Algorithm::EcdsaP256 => {
                let scheme = SigningScheme::EcdsaP256Sha256;
                verify_signature_prehashed(&self.spki, &artifact.sha256(), signature, scheme)
                    .or_refused(Check::Signature)
            }
        }
    }

    /// Verifies a signature over the pre-authentication encoding of a DSSE envelope.
    pub(crate) fn verify_envelope(&self, encoded: &[u8], signature: &SignatureBytes) -> Result<(), Refused> {
        match self.algorithm {
            Algorithm::Ed25519(key) => {
                let signature = ed25519_signature(signature)?;
                if key.verify_strict(encoded, &signature).is_ok() || is_prehashed(&key, encoded, &signature) {
                    return Ok(());
                }
                Err(Refused::new(Check::Signature, "the Ed25519 signature is not by this key"))
            }
            Algorithm::EcdsaP256 => {
                verify_signature(&self.spki, encoded, signature, SigningScheme::EcdsaP256Sha256)
                    .or_refused(Check::Signature)
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

fn ed25519_signature(signature: &SignatureBytes) -> Result<Signature, Refused> {
    Signature::from_slice(signature.as_bytes())
        .map_err(|_| Refused::new(Check::Signature, "an Ed25519 signature is 64 bytes"))
}

fn is_prehashed(key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
    key.verify_prehashed_strict(Sha512::new_with_prefix(message), None, signature).is_ok()
}

/// Whether the y coordinate is below the field's prime 2^255 − 19 (RFC 8032 §5.1.3): without this, one
/// key would have two encodings, and a revoked one could come back under its other name.
fn is_canonical(raw: &[u8; 32]) -> bool {
    let [lowest, middle @ .., highest] = raw;
    highest & 0x7f != 0x7f || middle.iter().any(|&byte| byte != 0xff) || *lowest < 0xed
}

/// The 32 bytes a hint stands for: hex, or base64 in either alphabet, padded or not.
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
    fn hints_name_a_key_in_every_spelling() {
        let key = key();
        let raw = &key.spki()[12..];
        for name in [key.fingerprint(), raw.try_into().unwrap()] {
            assert!(key.is_named_by(&STANDARD.encode(name)));
            assert!(key.is_named_by(&URL_SAFE_NO_PAD.encode(name)));
            assert!(key.is_named_by(&crate::hex::encode(&name)));
            assert!(key.is_named_by(&crate::hex::encode(&name).to_uppercase()));
        }
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(key.spki())
        );
        assert!(key.is_named_by(&crate::hex::encode(sha256(pem.as_bytes()).as_bytes())));
        assert_eq!(PublicKey::from_pem(&pem).unwrap(), key);
        for other in ["", "key-1", &STANDARD.encode([1; 32]), &crate::hex::encode(&[1; 32])] {
            assert!(!key.is_named_by(other), "{other}");
        }
    }

    #[test]
    fn weak_and_doubly_encoded_points_are_refused() {
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

//! Ed25519 public keys: parsing, validation, and the key id.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// DER prefix of the 32 key bytes in an Ed25519 `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 public key (RFC 8032) that is a canonically encoded point and not of small order.
///
/// Both are refused because of an attack: anyone can forge signatures that verify under a small-order key,
/// and a key with two encodings would have two ids, so revoking one would leave the other allowed.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Reasons to refuse a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// Not in any of the three formats.
    #[error("must be an Ed25519 public key: base64 of its 32 bytes, PEM SPKI, or an ssh-ed25519 line")]
    Unreadable,
    /// The bytes are not the canonical encoding of a point on the curve.
    #[error("not the canonical encoding of a point on the Ed25519 curve; generate a new key")]
    NotCanonical,
    /// The point has small order, so anyone can forge signatures for it.
    #[error("a weak key (a point of small order); generate a new key")]
    Weak,
}

impl PublicKey {
    /// Parses the 32 raw bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyRefused> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyRefused::Unreadable)?;
        // ed25519-dalek also accepts y + p. The canonical y is less than p = 2^255 - 19.
        let y_is_reduced =
            bytes[0] < 0xed || bytes[1..31].iter().any(|b| *b != 0xff) || bytes[31] & 0x7f != 0x7f;
        if !y_is_reduced {
            return Err(KeyRefused::NotCanonical);
        }
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyRefused::NotCanonical)?;
        if key.is_weak() {
            return Err(KeyRefused::Weak);
        }
        Ok(Self(key))
    }

    /// Parses base64 of the 32 raw bytes, the harness's format.
    pub fn from_base64(text: &str) -> Result<Self, KeyRefused> {
        Self::from_bytes(&STANDARD.decode(text).map_err(|_| KeyRefused::Unreadable)?)
    }

    /// Parses the `x` of a JWK (RFC 8037, section 2): base64url without padding.
    pub(crate) fn from_jwk_x(text: &str) -> Result<Self, KeyRefused> {
        Self::from_bytes(&URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyRefused::Unreadable)?)
    }

    /// Parses any supported format: base64 of the raw bytes, PEM `SubjectPublicKeyInfo`, or an OpenSSH
    /// `ssh-ed25519` line.
    pub fn parse(text: &str) -> Result<Self, KeyRefused> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("-----BEGIN PUBLIC KEY-----") {
            return Self::from_pem_body(rest);
        }
        if let Some(rest) = text.strip_prefix("ssh-ed25519 ") {
            return Self::from_ssh_blob(rest.split_whitespace().next().unwrap_or_default());
        }
        Self::from_base64(text)
    }

    fn from_pem_body(rest: &str) -> Result<Self, KeyRefused> {
        let (body, after) = rest.split_once("-----END PUBLIC KEY-----").ok_or(KeyRefused::Unreadable)?;
        if !after.trim().is_empty() {
            return Err(KeyRefused::Unreadable);
        }
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| KeyRefused::Unreadable)?;
        Self::from_bytes(der.strip_prefix(&SPKI_PREFIX).ok_or(KeyRefused::Unreadable)?)
    }

    /// Parses the blob of an OpenSSH key line (RFC 8709, section 4): two length-prefixed strings.
    fn from_ssh_blob(blob: &str) -> Result<Self, KeyRefused> {
        let blob = STANDARD.decode(blob).map_err(|_| KeyRefused::Unreadable)?;
        let rest = blob.strip_prefix(b"\0\0\0\x0bssh-ed25519\0\0\0\x20").ok_or(KeyRefused::Unreadable)?;
        Self::from_bytes(rest)
    }

    /// Returns the 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns base64 of the raw bytes, the format of `runners.public_key` and of the harness.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.as_bytes())
    }

    /// Returns the `x` of the key's JWK.
    pub fn jwk_x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.as_bytes())
    }

    /// Returns the RFC 7638 thumbprint with SHA-256, which identifies the key on the allowlist and in tokens.
    pub fn key_id(&self) -> KeyId {
        KeyId::from_jwk_x(&self.jwk_x())
    }

    /// Returns the key for verifying signatures.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "PublicKey({})", self.key_id())
    }
}

/// An Ed25519 key's id on the allowlist: its RFC 7638 thumbprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyId(String);

impl KeyId {
    /// Computes the thumbprint: SHA-256 of the required members, sorted, without white space (RFC 7638,
    /// section 3).
    pub(crate) fn from_jwk_x(x: &str) -> Self {
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Self(URL_SAFE_NO_PAD.encode(Sha256::digest(jwk)))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037, appendix A.2 and A.3.
    #[test]
    fn the_key_id_is_the_rfc_7638_thumbprint() {
        let key = PublicKey::from_jwk_x("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        assert_eq!(key.key_id().as_str(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn base64_pem_and_openssh_parse_to_the_same_key() {
        let raw = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let key = PublicKey::from_base64(raw).unwrap();
        let mut der = SPKI_PREFIX.to_vec();
        der.extend(key.as_bytes());
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend(key.as_bytes());
        let ssh = format!("ssh-ed25519 {} bench@bench-01", STANDARD.encode(&blob));
        for text in [raw, &pem, &ssh] {
            assert_eq!(PublicKey::parse(text), Ok(key.clone()), "{text}");
        }
    }

    #[test]
    fn weak_and_non_canonical_points_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(KeyRefused::Weak));
        let mut unreduced = [0xff; 32];
        unreduced[0] = 0xee;
        unreduced[31] = 0x7f;
        assert_eq!(PublicKey::from_bytes(&unreduced), Err(KeyRefused::NotCanonical));
        assert_eq!(PublicKey::from_bytes(&[1; 31]), Err(KeyRefused::Unreadable));
        assert_eq!(PublicKey::parse("ssh-rsa AAAA"), Err(KeyRefused::Unreadable));
    }
}

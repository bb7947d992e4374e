//! Ed25519 public keys as they come in, and the id each is known by.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The DER that precedes the 32 key bytes in an Ed25519 `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 public key (RFC 8032) that is safe to trust: a canonically encoded point that is not of
/// small order.
///
/// Small-order keys verify signatures that nobody made, and a key with two encodings would have two
/// ids; neither can be a value of this type.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a text is not a usable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// Not base64 of 32 bytes, not PEM SPKI, not an `ssh-ed25519` line.
    #[error("is not an Ed25519 public key (base64 of 32 bytes, PEM SPKI, or an ssh-ed25519 line)")]
    Unreadable,
    /// The bytes are not the canonical encoding of a curve point.
    #[error("is not a canonically encoded point of the curve")]
    NotCanonical,
    /// The point has small order: anyone could sign for it.
    #[error("is a weak key (small order)")]
    Weak,
}

impl PublicKey {
    /// Takes 32 raw bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyRefused> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyRefused::Unreadable)?;
        // y must be below p = 2^255 - 19; the library accepts y + p as well.
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

    /// Takes the base64 of the 32 raw bytes, as the harness writes keys.
    pub fn from_base64(text: &str) -> Result<Self, KeyRefused> {
        Self::from_bytes(&STANDARD.decode(text).map_err(|_| KeyRefused::Unreadable)?)
    }

    /// Takes the `x` of a JWK (RFC 8037, section 2): base64url without padding.
    pub fn from_jwk_x(text: &str) -> Result<Self, KeyRefused> {
        Self::from_bytes(&URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyRefused::Unreadable)?)
    }

    /// Takes any form that an admin may have at hand: base64 of the raw bytes, PEM
    /// `SubjectPublicKeyInfo`, or an OpenSSH `ssh-ed25519` line.
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

    /// The blob of an OpenSSH key line (RFC 8709, section 4): two length-prefixed strings.
    fn from_ssh_blob(blob: &str) -> Result<Self, KeyRefused> {
        let blob = STANDARD.decode(blob).map_err(|_| KeyRefused::Unreadable)?;
        let rest = blob.strip_prefix(b"\0\0\0\x0bssh-ed25519\0\0\0\x20").ok_or(KeyRefused::Unreadable)?;
        Self::from_bytes(rest)
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Base64 of the raw bytes, as `runners.public_key` and the harness have it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.as_bytes())
    }

    /// The `x` of its JWK.
    pub fn jwk_x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.as_bytes())
    }

    /// Its RFC 7638 thumbprint with SHA-256: the id it has on the allowlist and in tokens.
    pub fn key_id(&self) -> KeyId {
        KeyId::of_jwk_x(&self.jwk_x())
    }

    /// The key to verify signatures with.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "PublicKey({})", self.key_id())
    }
}

/// The id of a key on the allowlist: for an Ed25519 key its RFC 7638 thumbprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyId(String);

impl KeyId {
    /// RFC 7638, section 3: the digest of the required members, sorted, without white space.
    pub(crate) fn of_jwk_x(x: &str) -> Self {
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Self(URL_SAFE_NO_PAD.encode(Sha256::digest(jwk)))
    }

    /// The id as text.
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
    fn all_three_written_forms_are_the_same_key() {
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

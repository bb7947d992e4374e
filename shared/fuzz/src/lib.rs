//! What the fuzz targets share: a second implementation of the canonical form, and a key to sign with.

pub mod reference;

use bakeoff_core::field_error::FieldError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};

/// The key of every signature that a target makes.
pub fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

/// A compact JWS over header and claims exactly as given.
pub fn jws(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = signing_key().sign(signed.as_bytes()).to_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A refusal is a response: whatever was sent, it has errors, few of them, and each is short.
pub fn assert_fits_a_response(errors: &[FieldError]) {
    assert!(!errors.is_empty() && errors.len() <= 101, "{} errors", errors.len());
    let bytes: usize = errors.iter().map(|error| error.pointer.len() + error.detail.len()).sum();
    assert!(bytes < 200_000, "{bytes} bytes of errors");
}

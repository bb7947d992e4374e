//! The proof of possession that a registration carries: a DPoP proof JWT (RFC 9449, section 4.2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::key::RunnerKey;

/// Makes a proof that we hold `key`, for one `POST` to `url` at `issued_at` (seconds since the epoch).
pub(super) fn proof(key: &RunnerKey, url: &str, issued_at: i64) -> String {
    let header = json!({
        "typ": "dpop+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": key.jwk_x() },
    });
    let claims = json!({ "htm": "POST", "htu": url, "iat": issued_at, "jti": Uuid::new_v4() });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

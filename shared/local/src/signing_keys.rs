//! The service's signing key for one run of the local stack.

use std::path::Path;

use bakeoff_core::runners::token::rotate_key_set;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use crate::error::{Error, Result};
use crate::postgres::write_private;

/// Writes a JWK set with one new key to a file that only the current user can read.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write_signing_keys(path: &Path) -> Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the operating system provides random bytes");
    let set = rotate_key_set(r#"{"keys":[]}"#, seed, OffsetDateTime::now_utc(), Duration::ZERO)
        .map_err(|error| Error::Failed(error.to_string()))?;
    write_private(path, &set)
}

/// Returns the JWK members that identify the key.
pub(crate) fn public_jwk(key: &SigningKey) -> Value {
    let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
    json!({"crv": "Ed25519", "kty": "OKP", "x": x})
}

/// Returns the key's thumbprint (RFC 7638): the SHA-256 of the required members in lexicographic order,
/// without white space, in base64url.
pub(crate) fn thumbprint(key: &SigningKey) -> String {
    let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
    let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses the key and thumbprint of RFC 8037, appendices A.1 and A.3.
    #[test]
    fn the_thumbprint_matches_the_example_in_rfc_8037() {
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let key = SigningKey::from_bytes(&seed.try_into().unwrap());
        assert_eq!(public_jwk(&key)["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(thumbprint(&key), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}

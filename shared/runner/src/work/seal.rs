//! The signed envelope of a result.

use bakeoff_core::results::canonical_json::CanonicalJson;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::key::RunnerKey;

/// The harness's envelope, as far as it decides something here.
#[derive(Deserialize)]
pub struct Envelope<'a> {
    /// The result.
    #[serde(borrow)]
    pub result: &'a RawValue,
    /// Its signature.
    #[serde(borrow)]
    pub sig: &'a RawValue,
}

/// Returns the signed envelope of what a program wrote: as it is if that is one, else signed here, by the
/// harness's rules. A harness signs by itself; a program of `--exec` need not.
///
/// # Errors
/// When it is no JSON, or has no canonical form.
pub fn envelope(written: &[u8], key: &RunnerKey, runner_id: &str) -> Result<Vec<u8>, String> {
    if serde_json::from_slice::<Envelope>(written).is_ok() {
        return Ok(written.to_vec());
    }
    let result: &RawValue =
        serde_json::from_slice(written).map_err(|error| format!("the result is not JSON: {error}"))?;
    let (_, digest) = CanonicalJson::parse_with_sha256(result.get()).map_err(|error| error.to_string())?;
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let sig = json!({
        "sha256": hex, "signature": STANDARD.encode(key.sign(&digest)), "runner_id": runner_id,
        "signed_at": now.format(&Rfc3339).unwrap_or_default(),
    });
    Ok(format!("{{\"result\": {}, \"sig\": {sig}}}", result.get()).into_bytes())
}

#[cfg(test)]
mod tests {
    use bakeoff_core::results::envelope::Envelope as CoreEnvelope;
    use bakeoff_core::runners::key::PublicKey;

    use super::*;

    fn key() -> RunnerKey {
        let path = std::env::temp_dir().join(format!("bakeoff-seal-{}.pem", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let key = RunnerKey::create(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        key
    }

    #[test]
    fn what_is_signed_here_verifies_as_the_service_does_it() {
        let key = key();
        let sealed = envelope(br#"{"z": 1e16, "a": "caf\u00e9"}"#, &key, "bench-01").unwrap();
        let text = std::str::from_utf8(&sealed).unwrap();
        let public = PublicKey::from_base64(&key.public_base64()).unwrap();
        CoreEnvelope::parse(text).unwrap().verify(public.verifying_key()).unwrap();
        assert_eq!(envelope(&sealed, &key, "bench-01").unwrap(), sealed);
    }

    #[test]
    fn what_two_parsers_read_differently_is_not_signed() {
        assert!(envelope(br#"{"a": 1, "a": 2}"#, &key(), "x").is_err());
        assert!(envelope(b"not JSON", &key(), "x").is_err());
    }
}

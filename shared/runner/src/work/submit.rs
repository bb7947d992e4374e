//! A finished job's result on its way to the service.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use uuid::Uuid;

use crate::api::ApiError;

/// What the service made of a result.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The row has ended without this result: another's completed it, it was cancelled, or the claim is gone.
    NotWanted(String),
    /// The result itself is refused, and would be refused again.
    Refused(String),
    /// The key is not allowed. The result is kept: it may be again.
    KeyNotAllowed,
}

/// Builds the compressed request. The envelope goes in as it is, byte for byte.
///
/// # Errors
/// Never in practice: it is written into memory.
pub fn request(claim_id: Uuid, envelope: &[u8]) -> std::io::Result<Bytes> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(envelope.len() / 4), Compression::default());
    write!(gzip, "{{\"claim_id\": \"{claim_id}\", \"envelope\": ")?;
    gzip.write_all(envelope)?;
    gzip.write_all(b"}")?;
    gzip.finish().map(Bytes::from)
}

/// Sorts a refusal.
pub fn verdict(error: &ApiError) -> Verdict {
    match error.code() {
        Some("run_finished" | "claim_lost" | "run_not_found") => Verdict::NotWanted(error.to_string()),
        Some("key_not_allowed") => Verdict::KeyNotAllowed,
        _ => Verdict::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn the_envelope_is_sent_byte_for_byte() {
        let claim_id = Uuid::nil();
        let request = request(claim_id, br#"{"result": 1.50e+00,  "sig": {}}"#).unwrap();
        let mut text = String::new();
        GzDecoder::new(&*request).read_to_string(&mut text).unwrap();
        let expected = r#"{"claim_id": "00000000-0000-0000-0000-000000000000", "envelope": {"result": 1.50e+00,  "sig": {}}}"#;
        assert_eq!(text, expected);
    }
}

use std::fmt;
use std::sync::OnceLock;

use sigstore_verify::Verifier;
use sigstore_verify::crypto::{VerificationKey, sha256};
use sigstore_verify::trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, TimeRange};
use sigstore_verify::types::SignatureBytes;
use time::OffsetDateTime;

use crate::error::{Check, OrFail as _, VerificationError};
use crate::json;
use crate::limits::{MAX_DEPTH, MAX_TRUSTED_ROOT_BYTES};

/// The keys and authorities of a Sigstore instance (`TrustedRoot` in the Sigstore protobuf specifications),
/// prepared for verification. Parsing prepares every key, so parse once and reuse the value.
pub struct TrustedRoot {
    pub(crate) material: sigstore_verify::trust_root::TrustedRoot,
    pub(crate) verifier: Verifier,
    logs: Vec<Log>,
    sha256: [u8; 32],
}

/// A transparency log with its validity period.
pub(crate) struct Log {
    id: Vec<u8>,
    key: VerificationKey,
    trusted: Option<TimeRange>,
}

impl TrustedRoot {
    /// Returns the root of the public-good instance, which ships with the pinned `sigstore-verify`.
    ///
    /// # Panics
    /// Never: a test parses the root.
    pub fn embedded() -> &'static Self {
        static EMBEDDED: OnceLock<TrustedRoot> = OnceLock::new();
        EMBEDDED.get_or_init(|| {
            Self::parse(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes()).expect("a test parses the embedded root")
        })
    }

    /// Parses the JSON form of a trusted root.
    ///
    /// # Errors
    /// [`Check::Limit`] if a bound is exceeded; [`Check::TrustedRoot`] for malformed, duplicate or
    /// unsupported keys and authorities, because a partly usable root would reject valid bundles.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerificationError> {
        if bytes.len() > MAX_TRUSTED_ROOT_BYTES {
            let detail = format_args!(
                "the trusted root has {} bytes; the limit is {MAX_TRUSTED_ROOT_BYTES}",
                bytes.len()
            );
            return Err(VerificationError::new(Check::Limit, detail));
        }
        let json = json::parse(bytes, MAX_DEPTH).or_fail(Check::TrustedRoot)?;
        let material: sigstore_verify::trust_root::TrustedRoot =
            serde_json::from_value(json).or_fail(Check::TrustedRoot)?;
        let verifier = Verifier::new(&material).or_fail(Check::TrustedRoot)?;
        let logs = material.tlogs.iter().map(|log| {
            let key = VerificationKey::from_spki(&log.public_key.raw_bytes).or_fail(Check::TrustedRoot)?;
            Ok(Log { id: log.log_id.key_id.as_bytes().to_vec(), key, trusted: log.public_key.valid_for })
        });
        let logs = logs.collect::<Result<_, VerificationError>>()?;
        Ok(Self { material, verifier, logs, sha256: *sha256(bytes).as_bytes() })
    }

    /// Returns the SHA-256 of the JSON text that was parsed.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Returns the latest start of validity among the keys and authorities, or `None` if none has a start.
    ///
    /// A trusted root does not state when it was published. It was published at this time or later, possibly
    /// much later, because rotations are years apart. An alarm on this age must therefore allow a year or
    /// more.
    pub fn newest_start(&self) -> Option<OffsetDateTime> {
        let root = &self.material;
        let logs = root.tlogs.iter().map(|log| log.public_key.valid_for);
        let ct_logs = root.ctlogs.iter().map(|log| log.public_key.valid_for);
        let authorities = root.certificate_authorities.iter().map(|authority| authority.valid_for);
        let timestamp_authorities = root.timestamp_authorities.iter().map(|authority| authority.valid_for);
        logs.chain(ct_logs)
            .chain(authorities)
            .chain(timestamp_authorities)
            .flatten()
            .filter_map(|range| OffsetDateTime::from_unix_timestamp(range.start.as_second()).ok())
            .max()
    }

    pub(crate) fn log(&self, id: &[u8]) -> Option<&Log> {
        self.logs.iter().find(|log| log.id == id)
    }
}

impl fmt::Debug for TrustedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustedRoot(sha256:{})", crate::hex::encode(&self.sha256))
    }
}

impl Log {
    pub(crate) fn verify(&self, message: &[u8], signature: &SignatureBytes) -> bool {
        self.key.verify(message, signature).is_ok()
    }

    /// Returns whether the log's validity has started. The end is not checked: an expired log's earlier
    /// signatures remain valid, and a checkpoint does not state its time.
    pub(crate) fn has_started(&self) -> bool {
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos();
        self.trusted.is_none_or(|range| range.start.as_nanosecond() <= now)
    }

    pub(crate) fn was_valid_at(&self, unix_nanos: i128) -> bool {
        self.trusted.is_none_or(|range| {
            range.start.as_nanosecond() <= unix_nanos
                && range.end.is_none_or(|end| unix_nanos <= end.as_nanosecond())
        })
    }
}

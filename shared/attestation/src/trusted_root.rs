use std::fmt;
use std::sync::OnceLock;

use sigstore_verify::Verifier;
use sigstore_verify::crypto::{VerificationKey, sha256};
use sigstore_verify::trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, TimeRange};
use sigstore_verify::types::SignatureBytes;
use time::OffsetDateTime;

use crate::json;
use crate::limits::{MAX_DEPTH, MAX_TRUSTED_ROOT_BYTES};
use crate::refused::{Check, OrRefused as _, Refused};

/// The keys and authorities of a Sigstore instance (`TrustedRoot` of the Sigstore protobuf
/// specifications), ready to verify with. Parsing prepares every key, so parse once and keep it.
pub struct TrustedRoot {
    pub(crate) material: sigstore_verify::trust_root::TrustedRoot,
    pub(crate) verifier: Verifier,
    logs: Vec<Log>,
    sha256: [u8; 32],
}

/// A transparency log and when it is trusted.
pub(crate) struct Log {
    id: Vec<u8>,
    key: VerificationKey,
    trusted: Option<TimeRange>,
}

impl TrustedRoot {
    /// The public-good instance's root, as shipped with the pinned verification crate.
    ///
    /// # Panics
    /// Never: a test parses it.
    pub fn embedded() -> &'static Self {
        static EMBEDDED: OnceLock<TrustedRoot> = OnceLock::new();
        EMBEDDED.get_or_init(|| {
            Self::parse(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes())
                .expect("the embedded root is well-formed")
        })
    }

    /// Parses the JSON form of a trusted root.
    ///
    /// # Errors
    /// [`Check::Limit`] past a bound, [`Check::TrustedRoot`] for malformed, duplicate or unsupported keys and
    /// authorities: a root that is only partly usable would refuse good bundles silently.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > MAX_TRUSTED_ROOT_BYTES {
            let bound = format_args!("a trusted root has at most {MAX_TRUSTED_ROOT_BYTES} bytes");
            return Err(Refused::new(Check::Limit, bound));
        }
        let json = json::parse(bytes, MAX_DEPTH).or_refused(Check::TrustedRoot)?;
        let material: sigstore_verify::trust_root::TrustedRoot =
            serde_json::from_value(json).or_refused(Check::TrustedRoot)?;
        let verifier = Verifier::new(&material).or_refused(Check::TrustedRoot)?;
        let logs = material.tlogs.iter().map(|log| {
            let key = VerificationKey::from_spki(&log.public_key.raw_bytes).or_refused(Check::TrustedRoot)?;
            Ok(Log { id: log.log_id.key_id.as_bytes().to_vec(), key, trusted: log.public_key.valid_for })
        });
        let logs = logs.collect::<Result<_, Refused>>()?;
        Ok(Self { material, verifier, logs, sha256: *sha256(bytes).as_bytes() })
    }

    /// SHA-256 of the JSON text it was parsed from.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// When the most recent of its keys and authorities became valid.
    ///
    /// A trusted root says nowhere when it was published. It is no older than this, but may be much
    /// younger: between two rotations, years apart, nothing new starts. An alarm on this age should
    /// therefore allow for a year or more; none where no member has a start.
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

    /// Whether its validity has begun. A log that is trusted no more stays good for what it signed
    /// earlier, and a checkpoint does not say when that was.
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

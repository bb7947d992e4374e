use std::fmt;

/// The check that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// A size or count exceeds its bound (see [`crate::limits`]).
    Limit,
    /// The input is not a Sigstore bundle in a supported format.
    Format,
    /// The key is unusable, or the bundle is for another key.
    Key,
    /// The bundle is for another artifact.
    Artifact,
    /// The signature does not verify.
    Signature,
    /// The certificate, its chain or its signed certificate timestamp (SCT) does not verify.
    Certificate,
    /// A transparency-log entry does not verify or records another signature.
    LogEntry,
    /// A timestamp does not verify, or a required one is missing.
    Timestamp,
    /// The trusted root is malformed or unsupported.
    TrustedRoot,
}

impl Check {
    /// Returns a stable snake_case name for machine-readable problem documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Format => "format",
            Self::Key => "key",
            Self::Artifact => "artifact",
            Self::Signature => "signature",
            Self::Certificate => "certificate",
            Self::LogEntry => "log_entry",
            Self::Timestamp => "timestamp",
            Self::TrustedRoot => "trusted_root",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed verification: the check and one line of detail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {detail}")]
pub struct VerificationError {
    check: Check,
    detail: String,
}

/// Maximum characters of detail, which may quote the untrusted bundle.
const MAX_DETAIL_CHARS: usize = 300;

impl VerificationError {
    pub(crate) fn new(check: Check, detail: impl fmt::Display) -> Self {
        let detail = detail
            .to_string()
            .chars()
            .take(MAX_DETAIL_CHARS)
            // Replaces control characters from the bundle, because the text goes to logs and terminals.
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Self { check, detail }
    }

    /// Returns the check that failed.
    pub fn check(&self) -> Check {
        self.check
    }

    /// Returns the detail: at most 300 characters, without control characters.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// Converts any error into a [`VerificationError`] of the check that it failed.
pub(crate) trait OrFail<T> {
    fn or_fail(self, check: Check) -> Result<T, VerificationError>;
}

impl<T, E: fmt::Display> OrFail<T> for Result<T, E> {
    fn or_fail(self, check: Check) -> Result<T, VerificationError> {
        self.map_err(|error| VerificationError::new(check, error))
    }
}

/// Converts an error of `sigstore-verify`. Not a `From` implementation, which would make a Sigstore type part
/// of the public API.
pub(crate) fn from_verifier_error(error: sigstore_verify::Error) -> VerificationError {
    use sigstore_verify::Error;
    let check = match &error {
        Error::SignatureInvalid(_) | Error::Crypto(_) => Check::Signature,
        Error::ArtifactMismatch(_) | Error::UnsupportedArtifact(_) | Error::ArtifactRead(_) => {
            Check::Artifact
        }
        Error::Certificate(_) | Error::IdentityMismatch { .. } | Error::IssuerMismatch { .. } => {
            Check::Certificate
        }
        Error::TransparencyLog(_) => Check::LogEntry,
        Error::Timestamp(_) => Check::Timestamp,
        Error::InvalidTrustRoot(_) | Error::TrustRoot(_) | Error::TrustedCertificate(_) => Check::TrustedRoot,
        _ => Check::Format,
    };
    VerificationError::new(check, error)
}

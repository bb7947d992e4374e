use std::fmt;

/// Which check refused the submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// A size or count is past its bound (see [`crate::limits`]).
    Limit,
    /// The bundle is not a Sigstore bundle this crate reads.
    Format,
    /// The key is unusable, or the bundle names another key.
    Key,
    /// The bundle speaks of another artifact.
    Artifact,
    /// The signature does not verify.
    Signature,
    /// The certificate, its chain or its certificate-transparency timestamp does not verify.
    Certificate,
    /// The transparency-log evidence does not verify or speaks of something else.
    LogEntry,
    /// A timestamp does not verify, or none does where one is needed.
    Timestamp,
    /// The trusted root cannot be used.
    TrustedRoot,
}

impl Check {
    /// A stable snake_case name, for machine-readable problem documents.
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

/// Why a bundle was refused: the check that failed and one line of detail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {detail}")]
pub struct Refused {
    check: Check,
    detail: String,
}

/// Detail is cut here: it may quote the bundle, which a stranger wrote.
const MAX_DETAIL_CHARS: usize = 300;

impl Refused {
    pub(crate) fn new(check: Check, detail: impl fmt::Display) -> Self {
        let detail = detail
            .to_string()
            .chars()
            .take(MAX_DETAIL_CHARS)
            // One line, whatever the bundle held: the text goes to logs and terminals.
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Self { check, detail }
    }

    /// Which check failed.
    pub fn check(&self) -> Check {
        self.check
    }

    /// What was wrong, at most 300 characters, without control characters.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// Gives a foreign error the check it failed.
pub(crate) trait OrRefused<T> {
    fn or_refused(self, check: Check) -> Result<T, Refused>;
}

impl<T, E: fmt::Display> OrRefused<T> for Result<T, E> {
    fn or_refused(self, check: Check) -> Result<T, Refused> {
        self.map_err(|error| Refused::new(check, error))
    }
}

/// Gives an error of the verifier the check it failed. No `From`: it would put a Sigstore type into the
/// public interface.
pub(crate) fn by_verifier(error: sigstore_verify::Error) -> Refused {
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
    Refused::new(check, error)
}

//! What can come of a request, sorted by what a runner does about it.

use std::time::Duration;

use serde::Deserialize;

/// A request that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// There was no answer. Whether the request was carried out is not known.
    #[error("the API does not answer: {0}")]
    Unreachable(String),
    /// The service asks to come back later: 429, or a failure of its own.
    #[error("the API is not available (status {status})")]
    Unavailable {
        /// The status.
        status: u16,
        /// `Retry-After`, where it was sent.
        retry_after: Option<Duration>,
    },
    /// The service refused. The same request again gets the same answer.
    #[error("refused: {0}")]
    Refused(Problem),
    /// An answer that does not follow the contract.
    #[error("the API answered what its contract does not know: {0}")]
    Unexpected(String),
}

/// A problem document (RFC 9457), as far as it decides something here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The status.
    pub status: u16,
    /// The stable code.
    pub code: String,
    /// For a person.
    pub detail: String,
    /// Each field that does not fit.
    pub errors: Vec<FieldError>,
    /// With `proof_stale`: the server's time, in RFC 3339.
    pub server_time: Option<String>,
}

/// A field that does not fit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FieldError {
    /// A JSON Pointer.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)?;
        for FieldError { pointer, detail } in self.errors.iter().take(5) {
            write!(f, "; {pointer} {detail}")?;
        }
        Ok(())
    }
}

impl ApiError {
    /// The problem's code, if the service refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unavailable { .. })
    }

    /// How long the service asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

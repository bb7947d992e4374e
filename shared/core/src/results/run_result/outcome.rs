//! The harness's statuses and failure codes.

use serde::{Deserialize, Serialize};

/// Status of a run or of one of its models, ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Every cell was attempted.
    Complete,
    /// Some cells were attempted.
    Incomplete,
    /// No cell was attempted.
    Failed,
}

impl RunStatus {
    /// Returns the harness's name of the status, as stored in `runs.run_status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// Why a cell, or an attempt at a run, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the harness's")]
pub enum FailureCode {
    Timeout,
    Refusal,
    MalformedOutput,
    Oom,
    LoadFailure,
    CapabilityGap,
    InfraError,
    Cancelled,
    Unknown,
}

impl FailureCode {
    /// Every failure code of the harness.
    pub const ALL: [Self; 9] = [
        Self::Timeout,
        Self::Refusal,
        Self::MalformedOutput,
        Self::Oom,
        Self::LoadFailure,
        Self::CapabilityGap,
        Self::InfraError,
        Self::Cancelled,
        Self::Unknown,
    ];

    /// Returns the harness's name of the code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refusal => "refusal",
            Self::MalformedOutput => "malformed_output",
            Self::Oom => "oom",
            Self::LoadFailure => "load_failure",
            Self::CapabilityGap => "capability_gap",
            Self::InfraError => "infra_error",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

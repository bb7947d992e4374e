//! How a run, a model in it or a single cell ended, in the harness's words.

use serde::{Deserialize, Serialize};

/// How far a run, or one model in it, got. In order from best to worst.
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
    /// The harness's word for it, as `runs.run_status` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// Why a cell, or an attempt at a run, came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the harness's own words")]
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
    /// All the codes the harness knows.
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

    /// The harness's word for it.
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

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }
}

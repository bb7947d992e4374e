//! A runner: its name, what it can do, and the proof that a request is its own.

use crate::document::Object;
use crate::field_error::FieldErrors;
use crate::runners::key::PublicKey;

/// A runner that has proved itself by a valid token. Only [`crate::runners::token::ServiceKeys::authenticate`]
/// makes one, and every operation of a runner demands one.
#[derive(Clone, Debug)]
pub struct AuthenticatedRunner {
    runner_id: String,
    key: PublicKey,
}

impl AuthenticatedRunner {
    pub(crate) fn new(runner_id: String, key: PublicKey) -> Self {
        Self { runner_id, key }
    }

    /// The name the runner registered under.
    pub fn runner_id(&self) -> &str {
        &self.runner_id
    }

    /// The key the token is bound to.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// An admin, as API Gateway's IAM authorizer (or IAM itself, on a direct invocation) named them.
#[derive(Clone, Debug)]
pub struct Admin {
    principal: String,
}

impl Admin {
    /// Whoever IAM says it is: an ARN. The caller vouches that IAM was asked.
    pub fn vouched_by_iam(principal: impl Into<String>) -> Self {
        Self { principal: principal.into() }
    }

    /// The IAM principal, for the audit log.
    pub fn principal(&self) -> &str {
        &self.principal
    }
}

/// What a runner can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// GPU memory, in GB; finite and not negative.
    pub vram_gb: f64,
    /// Quantizations it can serve, lower-case; names the database does not know match nothing.
    pub quantizations: Vec<String>,
    /// Whatever the runner says of itself, as JSON.
    pub labels: Option<serde_json::Value>,
}

/// The most quantizations one runner may name.
const QUANTIZATIONS_MAX: usize = 100;
/// The most bytes of `labels`.
const LABELS_MAX: usize = 4096;
/// More GPU memory than any one machine has.
const VRAM_GB_MAX: f64 = 1e6;

impl Capabilities {
    /// Reads capabilities, noting every fault.
    pub(crate) fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let vram_gb = Self::read_vram(&mut object, errors);
        let quantizations = Self::read_quantizations(&mut object, errors);
        let labels = object.free_form("labels", LABELS_MAX, errors);
        object.finish(errors);
        Some(Self { vram_gb: vram_gb?, quantizations: quantizations?, labels })
    }

    fn read_vram(object: &mut Object, errors: &mut FieldErrors) -> Option<f64> {
        let vram_gb: f64 = object.required("vram_gb", errors)?;
        if !(0.0..=VRAM_GB_MAX).contains(&vram_gb) {
            errors.push(object.pointer("vram_gb"), format!("is {vram_gb}; allowed are 0 to {VRAM_GB_MAX}"));
            return None;
        }
        Some(vram_gb)
    }

    fn read_quantizations(object: &mut Object, errors: &mut FieldErrors) -> Option<Vec<String>> {
        let names: Vec<String> = object.required("quantizations", errors)?;
        if names.len() > QUANTIZATIONS_MAX || names.iter().any(|name| name.len() > 64 || name.contains('\0'))
        {
            errors.push(
                object.pointer("quantizations"),
                format!("holds more than {QUANTIZATIONS_MAX} names, or one that is no name"),
            );
            return None;
        }
        Some(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }
}

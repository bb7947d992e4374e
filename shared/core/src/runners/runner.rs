//! Runners and admins as authenticated callers, and a runner's capabilities.

use crate::document::Object;
use crate::field_error::FieldErrors;
use crate::runners::key::PublicKey;

/// A runner authenticated by a valid token. Only [`crate::runners::token::VerifyingKeys::authenticate`]
/// creates one, and every runner operation requires one.
#[derive(Clone, Debug)]
pub struct AuthenticatedRunner {
    runner_id: String,
    key: PublicKey,
}

impl AuthenticatedRunner {
    pub(crate) fn new(runner_id: String, key: PublicKey) -> Self {
        Self { runner_id, key }
    }

    /// Returns the name the runner registered under.
    pub fn runner_id(&self) -> &str {
        &self.runner_id
    }

    /// Returns the key the token is bound to.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// An admin authenticated by IAM: by API Gateway's authorizer, or by Lambda on a direct invocation.
#[derive(Clone, Debug)]
pub struct Admin {
    principal: String,
}

impl Admin {
    /// Creates an admin from the principal's ARN. The caller must have obtained it from IAM.
    pub fn from_iam_principal(principal: impl Into<String>) -> Self {
        Self { principal: principal.into() }
    }

    /// Returns the IAM principal, for the audit log.
    pub fn principal(&self) -> &str {
        &self.principal
    }
}

/// What a runner can serve, as it states.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// GPU memory in GB, 0 to 1,000,000.
    pub vram_gb: f64,
    /// Quantizations the runner can serve, in lower case. A name unknown to the database matches no job.
    pub quantizations: Vec<String>,
    /// Free-form JSON object. A job can ask for a member that is a string; of a claim's capabilities it is ignored.
    pub labels: Option<serde_json::Value>,
}

/// Maximum number of quantizations of one runner.
const QUANTIZATIONS_MAX: usize = 100;
/// Maximum size of `labels`, in bytes.
const LABELS_MAX: usize = 4096;
/// Upper bound of `vram_gb`, above any real machine.
const VRAM_GB_MAX: f64 = 1e6;

impl Capabilities {
    /// Reads the `capabilities` object and reports every invalid field.
    pub(crate) fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let vram_gb = Self::read_vram(&mut object, errors);
        let quantizations = Self::read_quantizations(&mut object, errors);
        let labels = object.free_form("labels", LABELS_MAX, errors);
        object.finish(errors);
        Some(Self { vram_gb: vram_gb?, quantizations: quantizations?, labels })
    }

    fn read_vram(object: &mut Object, errors: &mut FieldErrors) -> Option<f64> {
        const EXPECTED: &str = "a number of GB, such as 24";
        let vram_gb: f64 = object.required_value("vram_gb", EXPECTED, errors)?;
        if !(0.0..=VRAM_GB_MAX).contains(&vram_gb) {
            errors.push(object.pointer("vram_gb"), format!("must be {EXPECTED}, from 0 to {VRAM_GB_MAX}"));
            return None;
        }
        Some(vram_gb)
    }

    fn read_quantizations(object: &mut Object, errors: &mut FieldErrors) -> Option<Vec<String>> {
        const EXPECTED: &str = "a list of quantization names, such as [\"q4_k_m\", \"fp16\"]";
        let names = object.required_strings("quantizations", QUANTIZATIONS_MAX, EXPECTED, errors)?;
        if names.iter().any(|name| name.len() > 64 || name.contains('\0')) {
            errors
                .push(object.pointer("quantizations"), "must have names of at most 64 bytes, without U+0000");
            return None;
        }
        Some(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }
}

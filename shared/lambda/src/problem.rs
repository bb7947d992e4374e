//! Every refusal as `application/problem+json` (RFC 9457). The one table that gives errors their status
//! and code is `Refusal::problem`.

use crate::database::{Unreachable, is_momentary, is_worth_another_try};
use crate::response::Reply;
use crate::telemetry::Metric;
use bakeoff_core::Error;
use bakeoff_core::error::error_chain;
use serde_json::{Map, Value, json};
use std::hash::{BuildHasher, RandomState};
use time::format_description::well_known::Rfc3339;

/// Why a request gets no reply of its own.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// An operation refused or failed.
    #[error(transparent)]
    Refused(#[from] Error),
    /// There is no database to ask.
    #[error("{0}")]
    Unreachable(#[from] Unreachable),
    /// The body is not JSON, or not what its encoding says.
    #[error("{0}")]
    Malformed(String),
    /// The body is larger than the limit, in bytes; its size is unknown where inflation was stopped.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// Its size.
        size: Option<usize>,
        /// The limit.
        limit: usize,
    },
    /// A `Content-Encoding` other than gzip.
    #[error("the Content-Encoding is neither gzip nor identity")]
    EncodingUnsupported,
    /// No bearer token.
    #[error("{0}")]
    NoToken(&'static str),
    /// No proof of possession.
    #[error("there is no DPoP header")]
    NoProof,
    /// No IAM context: the request did not come through the gateway's authorizer.
    #[error("the request carries no IAM identity")]
    NotAnAdmin,
    /// Not a route of this function.
    #[error("there is no such route")]
    NoSuchRoute,
    /// The work took longer than the function may.
    #[error("the work took too long")]
    TimedOut,
}

struct Problem {
    status: u16,
    code: &'static str,
    title: &'static str,
}

impl Refusal {
    /// The table: each kind of refusal, its status and its stable code.
    fn problem(&self) -> Problem {
        let (status, code, title) = match self {
            Self::Refused(error) => match error {
                Error::Invalid(_) => (422, "invalid_request", "The request does not fit its schema"),
                Error::ProofInvalid(_) => (401, "proof_invalid", "The proof of possession is refused"),
                Error::ProofStale { .. } => (401, "proof_stale", "The proof of possession is not fresh"),
                Error::ProofReplayed => (401, "proof_replayed", "The proof of possession was used before"),
                Error::TokenInvalid(_) | Error::TokenKeyUnknown => {
                    (401, "token_invalid", "The token is not valid")
                }
                Error::TokenExpired => (401, "token_expired", "The token has expired"),
                Error::KeyNotAllowed => (403, "key_not_allowed", "The key is not on the allowlist"),
                Error::SignerNotAllowed(_) => {
                    (403, "signer_not_allowed", "The signer is not on the allowlist")
                }
                Error::RunNotFound => (404, "run_not_found", "There is no such run"),
                Error::KeyNotFound => (404, "key_not_found", "There is no such key"),
                Error::RunnerIdTaken => (409, "runner_id_taken", "The runner_id belongs to another key"),
                Error::ClaimLost => (409, "claim_lost", "The claim is not live any more"),
                Error::ClaimIdTaken => (409, "claim_id_taken", "The claim_id was used by another runner"),
                Error::RunFinished(_) => (409, "run_finished", "The run is finished"),
                Error::RunExists => (409, "run_exists", "A run of this id exists"),
                Error::KeyExists => (409, "key_exists", "The key is allowed already, on other terms"),
                Error::SignatureInvalid(_) => (422, "signature_invalid", "The signature is refused"),
                Error::RunMismatch { .. } => (422, "run_mismatch", "The signed result is another run's"),
                Error::Database(error) if is_momentary(error) => UNAVAILABLE,
                Error::Database(_) | Error::Internal(_) => INTERNAL,
            },
            Self::Unreachable(Unreachable::Unconfigured(_)) => INTERNAL,
            Self::Unreachable(Unreachable::Refused(_)) | Self::TimedOut => UNAVAILABLE,
            Self::Malformed(_) => (400, "malformed_request", "The body cannot be read"),
            Self::TooLarge { .. } => (413, "body_too_large", "The body is too large"),
            Self::EncodingUnsupported => {
                (415, "encoding_unsupported", "The Content-Encoding is not supported")
            }
            Self::NoToken(_) | Self::NoProof => (401, "unauthenticated", "The request is not authenticated"),
            Self::NotAnAdmin => (403, "not_an_admin", "The request carries no IAM identity"),
            Self::NoSuchRoute => (404, "no_such_route", "There is no such route"),
        };
        Problem { status, code, title }
    }

    /// Whether the same request may well be served on a new connection.
    pub fn is_worth_another_try(&self) -> bool {
        match self {
            Self::Refused(Error::Database(error)) => is_worth_another_try(error),
            Self::Unreachable(Unreachable::Refused(_)) => true,
            _ => false,
        }
    }

    /// Whether this is what a request meets that was carried out a moment ago: its proof is spent, its run
    /// is there. Every other operation answers the same when it is repeated.
    pub(crate) fn may_be_own_doing(&self) -> bool {
        matches!(self, Self::Refused(Error::ProofReplayed | Error::RunExists))
    }

    /// As a reply. The cause of a failure of ours is logged here, once, and not sent.
    pub fn into_reply(self) -> Reply {
        let Problem { status, code, title } = self.problem();
        if status >= 500 {
            tracing::error!(code, cause = %error_chain(&self), "failed");
        }
        let mut problem = Map::new();
        problem.insert("type".into(), json!(format!("urn:bakeoff:problem:{code}")));
        problem.insert("title".into(), json!(title));
        problem.insert("status".into(), json!(status));
        problem.insert("code".into(), json!(code));
        let detail = if status >= 500 {
            "The failure is ours and has been logged; the request may be sent again.".to_owned()
        } else {
            self.to_string()
        };
        problem.insert("detail".into(), json!(detail));
        self.add_members(&mut problem);

        let challenge = self.challenge(code);
        let mut reply = Reply {
            content_type: "application/problem+json",
            body: Some(Value::Object(problem).to_string()),
            code: Some(code),
            ..Reply::empty(status)
        }
        .metric(Metric::count("Refusals").by("Code", code));
        match status {
            401 => reply = reply.header("www-authenticate", challenge),
            429 | 503 => reply = reply.header("retry-after", jittered_retry_after(2, 6)),
            _ => {}
        }
        reply
    }

    /// The challenge of a 401 (RFC 6750 section 3, RFC 9449 section 7.1): without an error where nothing
    /// was presented.
    fn challenge(&self, code: &str) -> String {
        match self {
            Self::NoProof => "DPoP algs=\"EdDSA\"".to_owned(),
            Self::NoToken(_) => "Bearer".to_owned(),
            Self::Refused(Error::TokenExpired | Error::TokenInvalid(_) | Error::TokenKeyUnknown) => {
                format!("Bearer error=\"invalid_token\", error_description=\"{code}\"")
            }
            _ => "DPoP error=\"invalid_dpop_proof\", algs=\"EdDSA\"".to_owned(),
        }
    }

    /// What a particular problem says besides.
    fn add_members(&self, problem: &mut Map<String, Value>) {
        match self {
            Self::Refused(Error::Invalid(errors)) => {
                problem.insert("errors".into(), json!(errors));
            }
            Self::Refused(Error::ProofStale { server_time }) => {
                problem.insert("server_time".into(), json!(server_time.format(&Rfc3339).unwrap_or_default()));
            }
            Self::Refused(Error::RunMismatch { signed }) => {
                problem.insert("signed_run_id".into(), json!(signed));
            }
            Self::TooLarge { size, limit } => {
                problem.insert("size".into(), json!(size));
                problem.insert("limit".into(), json!(limit));
            }
            _ => {}
        }
    }
}

const UNAVAILABLE: (u16, &str, &str) = (503, "unavailable", "The service is unavailable for a moment");
const INTERNAL: (u16, &str, &str) = (500, "internal", "The service failed");

/// A delay in seconds between `from` and `to`, inclusive, so that callers do not come back all at once.
/// Jittered last: a cap after the jitter would take it away again.
pub fn jittered_retry_after(from: u64, to: u64) -> u64 {
    from + RandomState::new().hash_one(()) % (to - from + 1)
}

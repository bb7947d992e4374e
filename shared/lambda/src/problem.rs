//! Problem documents (`application/problem+json`, RFC 9457) for all refusals. `Refusal::problem` is the one
//! table that maps errors to status and code.

use crate::database::{ConnectionError, is_retryable, is_transient};
use crate::response::Reply;
use crate::telemetry::Metric;
use bakeoff_core::Error;
use bakeoff_core::error::error_chain;
use lambda_http::Body;
use serde_json::{Map, Value, json};
use std::hash::{BuildHasher, RandomState};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The reason for a problem document instead of a handler's reply.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// An operation refused or failed.
    #[error(transparent)]
    Operation(#[from] Error),
    /// The database is not configured or cannot be reached.
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    /// The body is not JSON, or does not match its `Content-Encoding`.
    #[error("{0}")]
    Malformed(String),
    /// The body is larger than the limit.
    #[error("{}", too_large(*size, *limit))]
    TooLarge {
        /// Size in bytes; `None` if inflation stopped at the limit.
        size: Option<usize>,
        /// Limit in bytes.
        limit: usize,
    },
    /// A `Content-Encoding` other than gzip.
    #[error("this Content-Encoding is not supported; use gzip, or send the body unencoded")]
    EncodingUnsupported,
    /// No bearer token.
    #[error("{0}; register, and send `Authorization: Bearer <token>` with the token from the response")]
    NoToken(&'static str),
    /// No proof of possession.
    #[error("the DPoP header is missing; send a DPoP proof (RFC 9449) signed with the runner's key")]
    NoProof,
    /// No IAM context: the request did not pass API Gateway's IAM authorizer.
    #[error("the request has no IAM identity; sign it with AWS Signature Version 4")]
    NotAnAdmin,
    /// A file that is larger than a response can be, requested without a `Range`.
    #[error("the file has {size} bytes; request parts of at most {limit} with `Range: bytes=FIRST-LAST`")]
    RangeRequired {
        /// Size of the file in bytes.
        size: i32,
        /// Maximum size of a part in bytes.
        limit: i32,
    },
    /// A `Range` that begins behind the file's end, or is none (RFC 9110 section 14.2).
    #[error("the file has {size} bytes; the `Range` must be `bytes=FIRST-LAST` within it")]
    RangeNotSatisfiable {
        /// Size of the file in bytes.
        size: i32,
    },
    /// Not a route of this function.
    #[error("no route with this method and path")]
    NoSuchRoute,
    /// The handler exceeded the function's time limit.
    #[error("the handler exceeded its time limit")]
    TimedOut,
}

struct Problem {
    status: u16,
    code: &'static str,
    title: &'static str,
}

impl Refusal {
    /// Maps each kind of refusal to its status, stable code and title.
    fn problem(&self) -> Problem {
        let (status, code, title) = match self {
            Self::Operation(error) => match error {
                Error::Invalid(_) => (422, "invalid_request", "Some fields of the request are invalid"),
                Error::ProofInvalid(_) => (401, "proof_invalid", "The DPoP proof is invalid"),
                Error::ProofStale { .. } => (401, "proof_stale", "The DPoP proof is too old or too new"),
                Error::ProofReplayed => (401, "proof_replayed", "The DPoP proof was used before"),
                Error::TokenInvalid(_) | Error::TokenKeyUnknown => {
                    (401, "token_invalid", "The token is invalid")
                }
                Error::TokenExpired => (401, "token_expired", "The token has expired"),
                Error::KeyNotAllowed => (403, "key_not_allowed", "The key is not on the allowlist"),
                Error::SignerNotAllowed(_) => {
                    (403, "signer_not_allowed", "The signer is not on the allowlist")
                }
                Error::RunNotFound => (404, "run_not_found", "The run does not exist"),
                Error::FileNotFound => (404, "file_not_found", "The file does not exist"),
                Error::KeyNotFound => (404, "key_not_found", "The key does not exist"),
                Error::RunnerIdTaken => (409, "runner_id_taken", "The runner_id belongs to another key"),
                Error::ClaimLost => (409, "claim_lost", "The claim has ended"),
                Error::ClaimIdTaken => (409, "claim_id_taken", "The claim_id was used by another runner"),
                Error::RunFinished(_) => (409, "run_finished", "The run has finished"),
                Error::RunExists | Error::AnotherRunExists(_) => {
                    (409, "run_exists", "A run with this run_id exists")
                }
                Error::KeyExists => {
                    (409, "key_exists", "The key is already on the allowlist, with other attributes")
                }
                Error::SignatureInvalid(_) => (422, "signature_invalid", "The signature is invalid"),
                Error::RunMismatch { .. } => {
                    (422, "run_mismatch", "The signed result belongs to another run")
                }
                Error::Database(error) if is_transient(error) => UNAVAILABLE,
                Error::Database(_) | Error::Internal(_) => INTERNAL,
            },
            Self::Connection(ConnectionError::NotConfigured(_)) => INTERNAL,
            Self::Connection(ConnectionError::Failed(_)) | Self::TimedOut => UNAVAILABLE,
            Self::Malformed(_) => (400, "malformed_request", "The body cannot be read"),
            Self::TooLarge { .. } => (413, "body_too_large", "The body is too large"),
            Self::EncodingUnsupported => {
                (415, "encoding_unsupported", "The Content-Encoding is not supported")
            }
            Self::NoToken(_) | Self::NoProof => (401, "unauthenticated", "The request is not authenticated"),
            Self::NotAnAdmin => (403, "not_an_admin", "The request has no IAM identity"),
            Self::RangeRequired { .. } => (422, "range_required", "The file is too large for one response"),
            Self::RangeNotSatisfiable { .. } => {
                (416, "range_not_satisfiable", "The range is not satisfiable")
            }
            Self::NoSuchRoute => (404, "no_such_route", "The route does not exist"),
        };
        Problem { status, code, title }
    }

    /// Returns whether the same request can succeed on a new connection.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Operation(Error::Database(error)) => is_retryable(error),
            Self::Connection(ConnectionError::Failed(_)) => true,
            _ => false,
        }
    }

    /// Returns whether the request's own first attempt can have caused the refusal: it used the proof or
    /// created the run, and only its reply was lost. All other operations return the same reply when
    /// repeated.
    pub(crate) fn may_result_from_first_attempt(&self) -> bool {
        matches!(self, Self::Operation(Error::ProofReplayed | Error::RunExists))
    }

    /// Converts the refusal to a reply. Logs the cause of a server error once; the reply does not contain it.
    pub fn into_reply(self) -> Reply {
        let Problem { status, code, title } = self.problem();
        if status >= 500 {
            tracing::error!(code, cause = %error_chain(&self), "request failed");
        }
        let mut problem = Map::new();
        problem.insert("type".into(), json!(format!("urn:bakeoff:problem:{code}")));
        problem.insert("title".into(), json!(title));
        problem.insert("status".into(), json!(status));
        problem.insert("code".into(), json!(code));
        let detail = match status {
            503 => {
                "the service is temporarily unavailable; retry after the seconds in `Retry-After`".to_owned()
            }
            500.. => {
                "the service failed and has logged the cause. Send the request again; if it still fails, \
                      report the `x-request-id` of the response"
                    .to_owned()
            }
            _ => self.to_string(),
        };
        problem.insert("detail".into(), json!(detail));
        if status == 401 {
            // A runner with a wrong clock signs proofs that are stale, and trusts tokens that have expired. The
            // database's clock, if the refusal has it, replaces this one below.
            problem.insert(
                "server_time".into(),
                json!(OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()),
            );
        }
        self.add_members(&mut problem);

        let challenge = self.challenge(code);
        let file_size = match self {
            Self::RangeNotSatisfiable { size } => Some(size),
            _ => None,
        };
        let mut reply = Reply {
            content_type: "application/problem+json",
            body: Body::Text(Value::Object(problem).to_string()),
            code: Some(code),
            ..Reply::empty(status)
        }
        .metric(Metric::count("Refusals").by("Code", code));
        match status {
            401 => reply = reply.header("www-authenticate", challenge),
            416 => {
                reply = reply.header("content-range", format!("bytes */{}", file_size.unwrap_or_default()))
            }
            429 | 503 => reply = reply.header("retry-after", jittered_retry_after(2, 6)),
            _ => {}
        }
        reply
    }

    /// Returns the challenge of a 401 (RFC 6750 section 3, RFC 9449 section 7.1), without an error code if
    /// the request had no credentials.
    fn challenge(&self, code: &str) -> String {
        match self {
            Self::NoProof => "DPoP algs=\"EdDSA\"".to_owned(),
            Self::NoToken(_) => "Bearer".to_owned(),
            Self::Operation(Error::TokenExpired | Error::TokenInvalid(_) | Error::TokenKeyUnknown) => {
                format!("Bearer error=\"invalid_token\", error_description=\"{code}\"")
            }
            _ => "DPoP error=\"invalid_dpop_proof\", algs=\"EdDSA\"".to_owned(),
        }
    }

    /// Adds the members that only some problems have.
    fn add_members(&self, problem: &mut Map<String, Value>) {
        match self {
            Self::Operation(Error::Invalid(errors)) => {
                problem.insert("errors".into(), json!(errors));
            }
            Self::Operation(Error::ProofStale { server_time, clock_offset_s }) => {
                problem.insert("clock_offset_s".into(), json!(clock_offset_s));
                problem.insert("server_time".into(), json!(server_time.format(&Rfc3339).unwrap_or_default()));
            }
            Self::Operation(Error::RunMismatch { signed }) => {
                problem.insert("signed_run_id".into(), json!(signed));
            }
            Self::RangeRequired { size, limit } => {
                problem.insert("size".into(), json!(size));
                problem.insert("limit".into(), json!(limit));
            }
            Self::TooLarge { size, limit } => {
                problem.insert("size".into(), json!(size));
                problem.insert("limit".into(), json!(limit));
            }
            _ => {}
        }
    }
}

const UNAVAILABLE: (u16, &str, &str) = (503, "unavailable", "The service is temporarily unavailable");
const INTERNAL: (u16, &str, &str) = (500, "internal", "The service failed");

/// Describes a body that is too large, and how to send it.
fn too_large(size: Option<usize>, limit: usize) -> String {
    match size {
        Some(size) => {
            format!("the body has {size} bytes; the limit is {limit}. Send it gzip-encoded, or send less")
        }
        None => format!("the inflated body has more than {limit} bytes, which is the limit; send less"),
    }
}

/// Returns a random delay in seconds from `from` to `to`, inclusive, so that callers do not all retry at
/// once. The jitter comes after any cap, because a cap would remove it.
pub fn jittered_retry_after(from: u64, to: u64) -> u64 {
    from + RandomState::new().hash_one(()) % (to - from + 1)
}

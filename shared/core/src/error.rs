//! Errors of operations, independent of HTTP: one table in `bakeoff-lambda` maps each variant to a status and
//! a code.
//!
//! Each refusal has its own variant, whose text is sent to the caller. A failure that the caller did not
//! cause is [`Error::Database`] or [`Error::Internal`], whose text is logged and never sent.

use crate::field_error::FieldError;
use time::OffsetDateTime;
use uuid::Uuid;

/// Refusal or failure of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request does not match its schema; every invalid field is listed.
    #[error("{}", count_invalid_fields(.0.len()))]
    Invalid(Vec<FieldError>),
    /// The proof of possession is malformed, or was made for another key or request.
    #[error("the DPoP proof is invalid: {0}")]
    ProofInvalid(&'static str),
    /// The proof's `iat` is too far from the database's clock, in the past or in the future.
    #[error("the `iat` of the proof is too far from `server_time`; correct the clock and sign a new proof")]
    ProofStale {
        /// The database's clock, with which the runner can correct its own.
        server_time: OffsetDateTime,
        /// How far the proof's `iat` is ahead of it, in seconds.
        clock_offset_s: i64,
    },
    /// The proof was used before.
    #[error("the proof was used before; sign a new one with a new `jti`")]
    ProofReplayed,
    /// The token or receipt is malformed, was not issued by this service, or is of another kind.
    #[error("the token is invalid: {0}. Register again for a new token")]
    TokenInvalid(&'static str),
    /// The token's `kid` is not in the key set used; a newer version of the set may contain it.
    #[error("the token's key is not one of this service's; register again for a new token")]
    TokenKeyUnknown,
    /// The token has expired.
    #[error("the token has expired; register again for a new token")]
    TokenExpired,
    /// The key is not on the allowlist, revoked, expired, or allowed under another name only. These have
    /// deliberately one error, so that it reveals nothing about the allowlist.
    #[error("this key is not on the allowlist, or not any more, or not for this `runner_id`; ask an admin")]
    KeyNotAllowed,
    /// The `runner_id` belongs to another key.
    #[error("this `runner_id` belongs to another key; register under another one")]
    RunnerIdTaken,
    /// The claim has ended.
    #[error(
        "this claim has ended; claim again. If its lease expired, a finished result is still accepted under this \
         `claim_id` until the job is completed or cancelled"
    )]
    ClaimLost,
    /// The claim id was used by another runner.
    #[error("this `claim_id` was used by another runner; claim with a new UUID")]
    ClaimIdTaken,
    /// The run, or the claim's row, has ended.
    #[error("the run is finished: {0}")]
    RunFinished(&'static str),
    /// The queue holds no run with this id.
    #[error("no run with this id in the queue")]
    RunNotFound,
    /// A run with this id exists already.
    #[error("a run with this id exists already; choose another `run_id`, or leave it out")]
    RunExists,
    /// A run of a batch exists already, from another request or with other content.
    #[error("run {0} exists already, from another request or with other content; nothing was enqueued")]
    AnotherRunExists(Uuid),
    /// The run's evidence holds no file with this name.
    #[error("no file with this name in the run's evidence; `GET /api/admin/runs/{{run_id}}` lists the files")]
    FileNotFound,
    /// The allowlist holds no key with this id.
    #[error("no key with this id on the allowlist")]
    KeyNotFound,
    /// The key is active on the allowlist, with another `runner_id` or expiry.
    #[error("the key is allowed already, with another `runner_id` or `expires_at`; revoke it first")]
    KeyExists,
    /// The signature does not verify, or does not cover the result.
    #[error("the signature is invalid: {0}")]
    SignatureInvalid(String),
    /// The signature verifies, but its signer is not on the allowlist.
    #[error("the signer is not on the allowlist: {0}")]
    SignerNotAllowed(String),
    /// The signed result belongs to another run.
    #[error("the signed result belongs to run {signed}; submit it to that run")]
    RunMismatch {
        /// The run id in the signed result.
        signed: String,
    },
    /// A statement failed, or the connection did.
    #[error("database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// A state that the code rules out: a bug, or a database changed by hand.
    #[error("internal: {0}")]
    Internal(String),
}

/// Returns the text of [`Error::Invalid`]; the fields themselves are sent as `errors`.
fn count_invalid_fields(fields: usize) -> String {
    match fields {
        1 => "1 field is invalid; see `errors`".to_owned(),
        _ => format!("{fields} fields are invalid; see `errors`"),
    }
}

impl From<Vec<FieldError>> for Error {
    fn from(errors: Vec<FieldError>) -> Self {
        Self::Invalid(errors)
    }
}

/// Returns an error's text followed by the text of each of its sources, separated by `: `.
///
/// `tokio_postgres::Error` alone prints only "db error"; the server's message is in its source.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

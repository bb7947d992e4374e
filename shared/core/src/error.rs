//! Why an operation was refused or failed. Nothing here knows HTTP: one table in `bakeoff-lambda`
//! gives each kind its status and code.
//!
//! A refusal is a variant of its own. Whatever is not the caller's doing (the database, a row that
//! cannot be) is [`Error::Database`] or [`Error::Internal`], whose text is logged and never sent.

use crate::field_error::FieldError;
use time::OffsetDateTime;

/// A refusal or a failure of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document does not fit its schema; every fault is listed.
    #[error("{}", invalid(.0.len()))]
    Invalid(Vec<FieldError>),
    /// The proof of possession is malformed, or proves something else.
    #[error("the proof is refused: {0}")]
    ProofInvalid(&'static str),
    /// The proof was made too long ago or too far ahead, by the database's clock.
    #[error("the proof is not fresh")]
    ProofStale {
        /// The server's time, so that a runner with a wrong clock can correct itself.
        server_time: OffsetDateTime,
    },
    /// The proof was used before.
    #[error("the proof was used before")]
    ProofReplayed,
    /// The token is malformed, not ours, or for somebody else.
    #[error("the token is not valid: {0}")]
    TokenInvalid(&'static str),
    /// The token names a key that the key set at hand does not have; a newer set may.
    #[error("the token names an unknown key")]
    TokenKeyUnknown,
    /// The token has expired.
    #[error("the token has expired")]
    TokenExpired,
    /// The key is not on the allowlist, revoked, or expired: deliberately one answer.
    #[error("the key is not allowed")]
    KeyNotAllowed,
    /// The `runner_id` belongs to another key.
    #[error("the runner_id belongs to another key")]
    RunnerIdTaken,
    /// The claim is not live any more.
    #[error("the claim is lost")]
    ClaimLost,
    /// The claim id was used by another runner.
    #[error("the claim id was used by another runner")]
    ClaimIdTaken,
    /// The run, or the row of the claim, has ended.
    #[error("the run is finished: {0}")]
    RunFinished(&'static str),
    /// No such run, or none that the caller may see.
    #[error("no such run")]
    RunNotFound,
    /// A run of this id exists already.
    #[error("a run of this id exists")]
    RunExists,
    /// No such key on the allowlist.
    #[error("no such key")]
    KeyNotFound,
    /// The key is allowed already, on other terms.
    #[error("the key is allowed already, on other terms")]
    KeyExists,
    /// The signature does not prove what it must.
    #[error("the signature is refused: {0}")]
    SignatureInvalid(String),
    /// The signature is good, but its signer is not on the allowlist.
    #[error("the signer is not allowed: {0}")]
    SignerNotAllowed(String),
    /// The signed result is another run's.
    #[error("the signed result is of run {signed}")]
    RunMismatch {
        /// The run that the signed result names.
        signed: String,
    },
    /// The database refused or could not be reached.
    #[error("database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// Something that cannot be, was.
    #[error("internal: {0}")]
    Internal(String),
}

/// Says how many fields are invalid; the fields themselves are listed beside this text.
fn invalid(fields: usize) -> String {
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

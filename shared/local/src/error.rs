//! Errors of the local stack, worded for the developer who started it.

/// A failure of the local stack. The text is printed as is: it names the failed step or the missing program,
/// and the command that fixes it, if there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A requirement that this program cannot install.
    #[error("{what} is missing.\n  To install it: {remedy}")]
    Missing {
        /// The missing requirement.
        what: String,
        /// The command that installs it.
        remedy: String,
    },
    /// An I/O error.
    #[error("could not {doing}: {source}")]
    Io {
        /// The failed step, as a verb phrase.
        doing: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A database error.
    #[error("could not {doing}: {}", server_message(.source))]
    Database {
        /// The failed step, as a verb phrase.
        doing: String,
        /// The database's error.
        source: tokio_postgres::Error,
    },
    /// Any other error, described completely by its text.
    #[error("{0}")]
    Failed(String),
}

/// The result of a step of the local stack.
pub type Result<T> = std::result::Result<T, Error>;

/// Returns the server's message, because `tokio_postgres::Error` prints only “db error”.
fn server_message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Adds the failed step to an error.
pub(crate) trait ErrorContext<T> {
    /// Adds the step `doing`, a verb phrase that completes “could not {doing}: …”.
    fn context(self, doing: impl Into<String>) -> Result<T>;
}

impl<T> ErrorContext<T> for std::io::Result<T> {
    fn context(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io { doing: doing.into(), source })
    }
}

impl<T> ErrorContext<T> for std::result::Result<T, tokio_postgres::Error> {
    fn context(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Database { doing: doing.into(), source })
    }
}

//! What can go wrong while bringing the product up, told to the person at the keyboard.

/// A failure of the local stack. Its text is printed as it is: it names what is missing or what was
/// being done, and where there is one, the line to type.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the machine lacks and this program cannot install by itself.
    #[error("{what} is missing.\n  To install it: {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// The one line to type.
        remedy: String,
    },
    /// The operating system refused.
    #[error("could not {doing}: {source}")]
    Io {
        /// The step, as a verb phrase.
        doing: String,
        /// Its refusal.
        source: std::io::Error,
    },
    /// Postgres refused.
    #[error("could not {doing}: {}", explain(.source))]
    Database {
        /// The step, as a verb phrase.
        doing: String,
        /// Its refusal.
        source: tokio_postgres::Error,
    },
    /// Anything else; the text says it all.
    #[error("{0}")]
    Failed(String),
}

/// The result of a step of the local stack.
pub type Result<T> = std::result::Result<T, Error>;

/// `tokio_postgres::Error` prints only “db error”; the server's own words are in its source.
fn explain(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Names the step that failed.
pub(crate) trait While<T> {
    /// `doing` is a verb phrase: “could not {doing}: …”.
    fn while_(self, doing: impl Into<String>) -> Result<T>;
}

impl<T> While<T> for std::io::Result<T> {
    fn while_(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io { doing: doing.into(), source })
    }
}

impl<T> While<T> for std::result::Result<T, tokio_postgres::Error> {
    fn while_(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Database { doing: doing.into(), source })
    }
}

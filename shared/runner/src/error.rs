//! What ends the program, told to the person at the keyboard.

use crate::api::ApiError;

/// A failure that the runner cannot work around. Its text is printed as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a program failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done, as in "read key.pem".
        doing: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The API refused, and the same request again would be refused again.
    #[error("{0}")]
    Api(#[from] ApiError),
    /// The key is unknown, revoked or expired.
    #[error(
        "the key is not allowed. Ask an admin to allow this public key, then start again:\n  {public_key}"
    )]
    KeyNotAllowed {
        /// As an admin enters it.
        public_key: String,
    },
    /// Anything else; the text says what to do.
    #[error("{0}")]
    Failed(String),
}

/// The result of what may fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was being done when an operation of the system failed.
pub trait While<T> {
    /// `doing` completes the sentence "cannot …".
    ///
    /// # Errors
    /// The same failure, with that text.
    fn while_(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> While<T> for std::io::Result<T> {
    fn while_(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { doing: doing(), source })
    }
}

impl Error {
    /// The program's exit status: 3 for a key that is not allowed, so that a service manager can tell it
    /// from a failure that passes; 1 for the rest.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::KeyNotAllowed { .. } => 3,
            _ => 1,
        }
    }
}

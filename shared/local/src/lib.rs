//! One command to run it all.

pub mod error;
pub mod event;
pub mod front;
pub mod postgres;
pub mod route;
pub mod runtime;
pub mod sigv4;
pub mod template;
pub mod workspace;

pub use error::Error;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

//! One command to run it all: Postgres, the real function binaries, and API Gateway on loopback.
//!
//! ```text
//!   HTTP ──▶ front ──▶ event ──▶ runtime ──▶ function processes ──▶ Postgres
//!            routes from template.yaml      Lambda Runtime API      private cluster, or DATABASE_URL
//!            IAM as SigV4
//! ```
//!
//! [`stack`] puts it together, [`demo`] plays a runner's day on it, [`measure`] times it, [`command_line`] is what can be typed. The tests of other crates use [`postgres`] alone.

pub mod api_gateway;
pub mod client;
pub mod command_line;
pub mod demo;
pub mod error;
pub mod lambda;
pub mod measure;
pub mod postgres;
pub mod sandbox;
pub mod signing_keys;
pub mod stack;
pub mod workspace;

pub use error::Error;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

//! The local stack: runs Postgres, the function binaries and a local API Gateway with one command.
//!
//! ```text
//!   HTTP ──▶ API Gateway ──▶ event ──▶ Lambda ──▶ function processes ──▶ Postgres
//!            routes from template.yaml            Lambda Runtime API     private cluster, or DATABASE_URL
//!            IAM as SigV4
//! ```
//!
//! [`stack`] starts the parts, [`demo`] runs a runner's whole cycle on them, [`measure`] measures them, and
//! [`command_line`] parses the arguments. The tests of other crates use only [`postgres`].

pub mod api_gateway;
pub mod client;
pub mod command_line;
pub mod demo;
pub mod error;
pub mod lambda;
pub mod measure;
pub mod postgres;
pub mod sandbox;
mod signing_keys;
pub mod stack;
pub mod storm;
pub mod verify;
pub mod workspace;

pub use error::Error;

/// Encodes bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

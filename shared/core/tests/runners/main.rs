//! Tests of runner identity and authorization against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod allowlist;
mod register;
mod revoke;
mod token;

//! Attacks on the running service: the real function binaries behind the local API Gateway, on a real
//! PostgreSQL. Each test is named for what it tries; none may succeed, and none may make the service fail.
//!
//! What each of them defends is listed in `SECURITY.md`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin_routes;
mod allowlist;
mod bodies;
mod injection;
mod keys;
mod measurements;
mod other_runners;
mod proofs;
mod request;
mod target;
mod timing;
mod tokens;

//! From submitted bytes to stored rows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod canonical_json;
mod envelope;
mod metrics;
mod run_result;
mod submit;

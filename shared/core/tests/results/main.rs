//! Tests of results, from the submitted bytes to the stored rows, against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binding;
mod canonical_json;
mod envelope;
mod late_submit;
mod metrics;
mod run_result;
mod submit;

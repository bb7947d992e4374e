//! Results, from the submitted bytes to database rows: canonical JSON, the signed envelope, validation, metrics,
//! and the submit operation.

pub mod canonical_json;
pub mod envelope;
pub mod metrics;
pub mod run_result;
pub mod submit;

//! Results, from the submitted bytes to database rows: canonical JSON, the signed envelope, validation, the
//! binding to a claim, metrics, and the submit operation.

pub mod binding;
pub mod canonical_json;
pub mod envelope;
pub mod evidence;
pub mod metrics;
pub mod run_result;
pub mod submission;
pub mod submit;

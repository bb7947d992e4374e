//! From the bytes a runner submits to rows in the database: the harness's canonical JSON, its signed envelope,
//! the validated result, the metrics computed from it, and the submit that stores them.

pub mod canonical_json;
pub mod envelope;
pub mod metrics;
pub mod run_result;
pub mod submit;

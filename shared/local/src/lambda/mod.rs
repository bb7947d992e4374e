//! Plays AWS Lambda: builds the function binaries and serves them the Runtime API.

pub mod build;
pub mod runtime_api;

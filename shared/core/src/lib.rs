//! Placeholder.

pub mod canonical;
pub mod envelope;
pub mod fault;
pub mod metrics;
pub mod result;

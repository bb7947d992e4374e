//! Placeholder.

pub mod canonical;
pub mod envelope;
pub mod fault;

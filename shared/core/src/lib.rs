//! Placeholder.

pub mod canonical;
pub mod fault;

//! Measurements of the whole stack, each with a baseline from the same run.

pub mod claim_depth;
pub mod cold_start;

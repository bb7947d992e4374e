//! Measurements of the whole stack, each beside a floor of the same run.

pub mod claim_depth;
pub mod cold_start;

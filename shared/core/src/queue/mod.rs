//! Operations on a queue row between enqueue and result: one file per operation, with its SQL beside it.
//!
//! `claim.md` in this folder explains the claim's concurrency protocol.

pub mod claim;
pub mod explain;
pub mod heartbeat;
pub mod lease;
pub mod next_chance;
pub mod overview;
pub mod public_overview;
pub mod reap;
pub mod release;
pub mod requirement;
pub mod waiting;

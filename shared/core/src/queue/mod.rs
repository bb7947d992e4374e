//! Operations on a queue row between enqueue and result: one file per operation, with its SQL beside it.
//!
//! `claim.md` in this folder explains the claim's concurrency protocol.

pub mod claim;
pub mod explain;
pub mod heartbeat;
pub mod lease;
pub mod reap;
pub mod release;

//! What happens to a row of the queue between enqueue and result: one file per operation, its SQL beside it.
//!
//! How a claim stays exact and fast is explained in `claim.md`, in this folder.

pub mod claim;
pub mod explain;
pub mod heartbeat;
pub mod lease;
pub mod reap;
pub mod release;

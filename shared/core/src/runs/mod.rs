//! Operations on runs: enqueue, list, status, cancel, requeue.

pub mod cancel;
pub mod enqueue;
pub mod listing;
mod model;
pub mod requeue;
pub mod status;

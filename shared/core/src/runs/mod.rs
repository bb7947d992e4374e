//! What an admin does with a run: enqueue it, list and inspect runs, cancel one, put it back in the queue.

pub mod cancel;
pub mod enqueue;
pub mod listing;
pub mod requeue;
pub mod status;

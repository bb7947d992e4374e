//! What the queue does.
pub mod migrate;

//! Tests of the operations on runs against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cancel;
mod enqueue;
mod enqueue_many;
mod listing;
mod priority;
mod requeue;
mod show;
mod status;

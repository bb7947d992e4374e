//! Tests of the operations on runs against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cancel;
mod enqueue;
mod listing;
mod requeue;
mod status;

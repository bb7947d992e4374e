//! Tests of the operations on queue rows against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod claim;
mod claim_order;
mod contention;
mod explain;
mod failing_runners;
mod heartbeat;
mod interleavings;
mod labels;
mod lifecycle;
mod next_chance;
mod overview;
mod reap;
mod release;

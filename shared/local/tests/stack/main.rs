//! The local API Gateway with function processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod outage;
mod requests;

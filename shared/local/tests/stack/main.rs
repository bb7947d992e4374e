//! Real processes behind the local API Gateway.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod outage;
mod requests;

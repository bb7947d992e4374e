//! The local API Gateway, compared with AWS's documentation.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod event;
mod template;

//! What the local API Gateway plays, against what AWS documents.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod event;
mod template;

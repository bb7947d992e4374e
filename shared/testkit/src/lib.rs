//! What tests need: a database each, and sample events served by an app on it.

mod database;
pub mod event;

pub use database::Database;

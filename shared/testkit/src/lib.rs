//! What tests need: a database each, what stands in it before the story begins, and sample events served
//! by an app on it.

mod database;
pub mod event;
pub mod given;

pub use database::Database;

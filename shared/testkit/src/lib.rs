//! What tests need: a database each, what stands in it before the story begins, sample events served by
//! an app on it, and a Secrets Manager that says what it is told to.

mod database;
pub mod event;
pub mod fixture;
pub mod secrets;

pub use database::Database;

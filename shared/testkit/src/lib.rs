//! What tests need: a database each, and what stands in it before the story begins.

mod database;
pub mod given;

pub use database::Database;

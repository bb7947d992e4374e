//! What tests need: so far, a database each.

mod database;

pub use database::Database;

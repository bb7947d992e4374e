//! Test support: a database per test, fixtures in it, an app that serves sample events on it, and a scripted
//! Secrets Manager.

mod database;
pub mod event;
pub mod fixture;
pub mod openapi;
pub mod secrets;

pub use database::Database;

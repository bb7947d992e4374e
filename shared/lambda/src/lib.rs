#![doc = include_str!("../README.md")]

pub mod admin;
pub mod app;
pub mod auth;
pub mod config;
pub mod database;
pub mod direct;
pub mod https;
pub mod problem;
pub mod request;
pub mod response;
pub mod rotation;
pub mod secrets;
pub mod serve;
pub mod telemetry;
pub mod tls;

pub use app::App;
pub use problem::Refusal;
pub use request::Request;
pub use response::Reply;
pub use serve::serve;

/// A handler's outcome: a reply or a refusal.
pub type Result<T = Reply> = std::result::Result<T, Refusal>;

#![doc = include_str!("../README.md")]

pub mod audit;
pub mod audit_chain;
pub mod audit_trail;
pub mod document;
pub mod error;
pub mod field_error;
pub mod functions_role;
pub mod json;
pub mod migrate;
pub mod name;
pub mod queue;
pub mod results;
pub mod runners;
pub mod runs;
pub mod session;
mod utc;

pub use error::Error;

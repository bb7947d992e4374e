#![doc = include_str!("../README.md")]

pub mod audit;
pub mod document;
pub mod error;
pub mod field_error;
pub mod functions_role;
pub mod migrate;
pub mod queue;
pub mod results;
pub mod runners;
pub mod runs;

pub use error::Error;

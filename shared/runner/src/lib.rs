#![doc = include_str!("../README.md")]

pub mod api;
pub mod back_off;
pub mod command_line;
pub mod enqueue;
pub mod error;
pub mod key;
pub mod machine;
pub mod report;
pub mod stop;
pub mod work;

pub use error::Error;

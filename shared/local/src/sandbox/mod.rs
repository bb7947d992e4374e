//! A place to try runners in.

pub mod proxy;

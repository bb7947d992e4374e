//! The crate against bundles of every form: accepted as they are, refused once anything is changed.

// A test fails by panicking; the setting for tests does not reach the functions they share.
#![allow(clippy::unwrap_used)]

mod case;
mod command_line;
mod fixtures;
mod forms;
mod hostile;
mod mutations;
mod publication;

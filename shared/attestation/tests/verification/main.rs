//! Verification of bundles in every form: accepted unchanged, refused after any change.

// `allow-unwrap-in-tests` does not cover functions that tests share.
#![allow(clippy::unwrap_used)]

mod case;
mod command_line;
mod fixtures;
mod forms;
mod hostile;
mod mutations;
mod publication;

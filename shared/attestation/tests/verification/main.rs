//! The crate against bundles of every form: accepted as they are, refused once anything is changed.

mod case;
mod command_line;
mod fixtures;
mod forms;
mod hostile;
mod mutations;
mod publication;

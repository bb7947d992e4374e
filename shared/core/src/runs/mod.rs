//! Operations on runs: enqueue, list, show, status, priority, cancel, requeue.

pub mod cancel;
pub mod enqueue;
pub mod enqueue_many;
pub mod evidence;
mod known_names;
pub mod listing;
mod model;
pub mod priority;
pub mod requeue;
pub mod show;
pub mod status;

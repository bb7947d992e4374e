//! PostgreSQL for the local stack and for the tests.
//!
//! `DATABASE_URL` wins where it is set. Otherwise the server's binaries are found or installed
//! ([`Binaries`]) and a private [`Cluster`] is started under `target/`, as an unprivileged user (initdb
//! refuses root) on a free loopback port with a password of its own.
//!
//! Two kinds of cluster, one keeper. The local stack owns its cluster: it ends, and its data goes, when
//! the stack does, even by SIGKILL. The tests of a workspace share one ([`shared_test_cluster`]): the
//! first test process starts it, and it ends by itself ten minutes after the last one has gone.

mod account;
mod binaries;
mod cluster;
mod shared;

pub use account::Account;
pub use binaries::Binaries;
pub use cluster::Cluster;
pub use shared::{shared_test_cluster, stop_shared_test_cluster};

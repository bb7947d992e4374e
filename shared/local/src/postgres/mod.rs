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
pub(crate) use cluster::write_private;
pub use shared::{shared_test_cluster, stop_shared_test_cluster};

/// The same server's URL for another of its databases, query parameters kept.
pub fn with_database(url: &str, name: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, None), |(address, query)| (address, Some(query)));
    let host_start = address.find("://").map_or(0, |at| at + 3);
    let host_end = address[host_start..].find('/').map_or(address.len(), |at| host_start + at);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{name}{query}", &address[..host_end])
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn keeps_user_host_and_parameters() {
        let here = "postgres://me:secret@127.0.0.1:5432/postgres?connect_timeout=5";
        assert_eq!(with_database(here, "x"), "postgres://me:secret@127.0.0.1:5432/x?connect_timeout=5");
        assert_eq!(with_database("postgres://h", "x"), "postgres://h/x");
    }
}

//! PostgreSQL for the local stack and for the tests.
//!
//! `DATABASE_URL` takes precedence. Without it, this module finds or installs the server's binaries
//! ([`Binaries`]) and starts a private [`Cluster`] under `target/`, on a free loopback port, with a random
//! password, and as an unprivileged user, because initdb refuses to run as root.
//!
//! There are two kinds of cluster. The local stack owns its cluster, which is stopped and removed when the
//! stack ends, even by SIGKILL. The tests of a workspace share a cluster ([`shared_test_cluster`]), which the
//! first test process starts; it stops ten minutes after the last test process has ended. `supervise.sh`
//! implements both.

mod account;
mod binaries;
mod cluster;
mod functions_role;
mod shared;
mod temporary;

use account::Account;
pub use binaries::Binaries;
pub use cluster::Cluster;
pub(crate) use cluster::write_private;
pub use functions_role::functions_url;
pub use shared::{shared_test_cluster, stop_shared_test_cluster};
pub(crate) use temporary::{TemporaryDatabase, connect};

/// Returns the URL with another database name. Query parameters stay.
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
    fn user_host_and_parameters_stay() {
        let url = "postgres://me:secret@127.0.0.1:5432/postgres?connect_timeout=5";
        assert_eq!(with_database(url, "x"), "postgres://me:secret@127.0.0.1:5432/x?connect_timeout=5");
        assert_eq!(with_database("postgres://h", "x"), "postgres://h/x");
    }
}

//! A PostgreSQL of its own that accepts TLS only, and a TCP relay that plays a failover.

use bakeoff_local::postgres::Cluster;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};

/// The path of a file beside this one.
pub(crate) fn fixture(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A server with the fixture's certificate, whose role `function` is only admitted over TLS.
pub(crate) struct TlsServer {
    _cluster: Cluster,
    pub(crate) url: String,
    pub(crate) port: u16,
}

impl TlsServer {
    /// Starts a server whose role `function` has this password.
    pub(crate) async fn start(name: &'static str, password: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("bakeoff-tls-{name}-{}", std::process::id()));
        let cluster = tokio::task::spawn_blocking(move || Cluster::start(&dir)).await.unwrap().unwrap();
        let url = cluster.url();
        let port = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
        let server = Self { _cluster: cluster, url, port };
        let admin = server.admin().await;
        // Written by the server itself, which must own its key.
        for (file, fixture_name) in [("server.crt", "server.pem"), ("server.key", "server.key")] {
            let text = std::fs::read_to_string(fixture(fixture_name)).unwrap();
            let write = format!("umask 077; cat > {file}");
            let lines: Vec<String> = text.lines().map(|line| format!("('{line}')")).collect();
            let copy = format!("COPY (VALUES {}) TO PROGRAM '{write}'", lines.join(","));
            admin.batch_execute(&copy).await.unwrap();
        }
        // rds.force_ssl does the same.
        let rules = "hostnossl all function all reject\nhost all all all scram-sha-256";
        let rules: Vec<String> = rules.lines().map(|line| format!("('{line}')")).collect();
        let rules = format!("COPY (VALUES {}) TO PROGRAM 'cat > pg_hba.conf'", rules.join(","));
        admin.batch_execute(&rules).await.unwrap();
        admin.batch_execute("CREATE ROLE function LOGIN").await.unwrap();
        server.set_password(password).await;
        admin.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
        server.reload(&admin, "on").await;
        server
    }

    /// Connects as superuser, without TLS.
    pub(crate) async fn admin(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Reloads the configuration and waits until a new connection sees it.
    async fn reload(&self, admin: &Client, ssl: &str) {
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        loop {
            let row = self.admin().await.query_one("SELECT current_setting('ssl')", &[]).await.unwrap();
            if row.get::<_, String>(0) == ssl {
                return;
            }
        }
    }

    /// Replaces the password of `function`.
    pub(crate) async fn set_password(&self, password: &str) {
        self.admin()
            .await
            .batch_execute(&format!("ALTER ROLE function PASSWORD '{password}'"))
            .await
            .unwrap();
    }

    /// Ends every connection of `function`.
    pub(crate) async fn terminate_backends(&self) {
        let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'function'";
        self.admin().await.batch_execute(end).await.unwrap();
    }

    /// Connects as `function` without TLS and returns the server's error.
    pub(crate) async fn plain_text_error(&self) -> String {
        let plain = format!("host=127.0.0.1 port={} user=function password=x dbname=postgres", self.port);
        let error = tokio_postgres::connect(&plain, NoTls).await.err().unwrap();
        error.as_db_error().map(ToString::to_string).unwrap()
    }

    /// Makes the server speak plain text only.
    pub(crate) async fn turn_tls_off(&self) {
        let admin = self.admin().await;
        admin.batch_execute("ALTER SYSTEM SET ssl = off").await.unwrap();
        self.reload(&admin, "off").await;
    }
}

/// A port that leads to one server, and later to another.
pub(crate) struct Relay {
    pub(crate) port: u16,
    target: Arc<watch::Sender<u16>>,
}

impl Relay {
    /// Leads to the server on this port of loopback.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let relay =
            Self { port: listener.local_addr().unwrap().port(), target: Arc::new(watch::Sender::new(port)) };
        let target = Arc::clone(&relay.target);
        tokio::spawn(async move {
            loop {
                let (mut inbound, _) = listener.accept().await.unwrap();
                let mut changes = target.subscribe();
                tokio::spawn(async move {
                    let port = *changes.borrow_and_update();
                    let mut outbound = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => {}
                        _ = changes.changed() => {}
                    }
                });
            }
        });
        relay
    }

    /// Leads new connections to another server and ends the others.
    pub(crate) fn fail_over_to(&self, port: u16) {
        self.target.send_replace(port);
    }
}

//! A database per test, cloned from a migrated template.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bakeoff_local::postgres::{shared_test_cluster, with_database};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, Config, NoTls};

/// Holds, across processes, the making of templates: its value is arbitrary, but must stay the same.
const TEMPLATE_LOCK: i64 = 0x6261_6b65_6f66_6601;
/// A test database older than this, with nobody connected, belongs to a test that was killed.
const LEFT_OVER_AFTER_S: u64 = 3600;

/// An empty, migrated database of a test's own, on a real server: `DATABASE_URL` where it is set (its
/// user must be allowed to create databases; the database it names is not touched), else the cluster
/// that the workspace's tests share. It is gone when the value is dropped.
///
/// ```no_run
/// # async fn example() {
/// let database = bakeoff_testkit::Database::create().await;
/// let client = database.client().await;
/// client.execute("INSERT INTO run_queue …", &[]).await.unwrap();
/// # }
/// ```
#[derive(Debug)]
pub struct Database {
    name: String,
    server: String,
    url: String,
}

impl Database {
    /// Makes one: about 30 ms, once the template for the current migrations is there.
    ///
    /// # Panics
    /// With the reason, when there is no PostgreSQL or it refuses: a test cannot go on.
    pub async fn create() -> Self {
        let server = server().await;
        let template = template(&server).await;
        Self::from_template(server, &template).await
    }

    /// Makes one without any table of ours: for tests of the migration.
    ///
    /// # Panics
    /// As [`Database::create`].
    pub async fn create_unmigrated() -> Self {
        Self::from_template(server().await, "template0").await
    }

    async fn from_template(server: String, template: &str) -> Self {
        let name = fresh_name();
        let admin = connect(&server).await;
        run(&admin, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        let url = with_database(&server, &name);
        Self { name, server, url }
    }

    /// `postgres://user:password@host:port/database`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A new connection, driven by the current tokio runtime.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // The test's own runtime is busy dropping us, so another does the work; its thread is joined
        // because the process may end right after.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let admin = connect(&server).await;
                // FORCE: a pool the test has leaked may still hold connections.
                run(&admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
            });
            std::io::Result::Ok(())
        });
        // A failure here would hide the test's own; the leftover is dropped by a later process.
        let _ = dropping.join();
    }
}

/// Where test databases are made: the server's URL, the same for the whole process.
async fn server() -> String {
    static SERVER: OnceCell<String> = OnceCell::const_new();
    SERVER.get_or_init(find_server).await.clone()
}

async fn find_server() -> String {
    let server = match std::env::var("DATABASE_URL") {
        Ok(url) => url,
        Err(_) => tokio::task::spawn_blocking(shared_test_cluster)
            .await
            .expect("starting PostgreSQL does not panic")
            .unwrap_or_else(|error| panic!("no PostgreSQL for the tests: {error}")),
    };
    drop_leftovers(&connect(&server).await).await;
    server
}

/// The template's name, made and migrated by the first process that wants it.
async fn template(server: &str) -> String {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE.get_or_init(|| find_or_make_template(server)).await.clone()
}

async fn find_or_make_template(server: &str) -> String {
    let fingerprint: String = bakeoff_core::migrate::fingerprint().chars().take(24).collect();
    let template = format!("bakeoff_template_{fingerprint}");
    let admin = connect(server).await;
    // Released with the connection, also when this process dies half-way.
    admin.query("SELECT pg_advisory_lock($1)", &[&TEMPLATE_LOCK]).await.expect("lock templates");
    let found = admin
        .query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&template])
        .await
        .expect("look for the template");
    if found.is_none() {
        make_template(server, &admin, &template).await;
    }
    template
}

/// Under another name until it is complete, so that one a process died over is never cloned.
async fn make_template(server: &str, admin: &Client, template: &str) {
    let building = format!("{template}_building");
    run(admin, &format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)")).await;
    run(admin, &format!("CREATE DATABASE {building}")).await;
    let mut client = connect(&with_database(server, &building)).await;
    bakeoff_core::migrate::apply(&mut client).await.expect("the migrations apply to an empty database");
    drop(client);
    run(admin, &format!("ALTER DATABASE {building} RENAME TO {template}")).await;
}

/// Tests that were killed could not drop their databases.
async fn drop_leftovers(admin: &Client) {
    let old = "SELECT datname FROM pg_database d \
               WHERE datname ~ '^bakeoff_test_[0-9]+_[0-9]+_[0-9]+$' \
                 AND split_part(datname, '_', 3)::bigint < $1 \
                 AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)";
    let before = i64::try_from(now_s().saturating_sub(LEFT_OVER_AFTER_S)).expect("a time of this age");
    for row in admin.query(old, &[&before]).await.expect("look for leftovers") {
        let name: String = row.get(0);
        // Another process may be dropping the same one.
        let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await;
    }
}

/// Unique on this server, and telling its age.
fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("bakeoff_test_{}_{}_{count}", now_s(), std::process::id())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

async fn connect(url: &str) -> Client {
    let config: Config = url.parse().expect("a PostgreSQL URL");
    let (client, connection) = config
        .connect(NoTls)
        .await
        .unwrap_or_else(|error| panic!("no connection to the tests' PostgreSQL: {error:?}"));
    // Its end shows in the client's next query.
    tokio::spawn(connection);
    client
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

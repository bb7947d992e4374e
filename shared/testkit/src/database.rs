//! A database per test, cloned from a migrated template.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bakeoff_local::postgres::{functions_url, shared_test_cluster, with_database};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, Config, NoTls};

/// Key of the advisory lock that serializes the creation of templates across processes. The value is
/// arbitrary but must stay the same.
const TEMPLATE_LOCK: i64 = 0x6261_6b65_6f66_6601;
/// Age in seconds after which an unconnected test database counts as left over from a killed test.
const LEFT_OVER_AFTER_S: u64 = 3600;

/// An empty, migrated database for one test, dropped with the value.
///
/// The server is `DATABASE_URL`, if set (its user must be allowed to create databases; the database in the
/// URL is not used), else the cluster that the workspace's tests share.
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
    owner_url: String,
}

impl Database {
    /// Creates a database, in about 30 ms if the template for the current migrations exists.
    ///
    /// # Panics
    /// If PostgreSQL is missing or returns an error.
    pub async fn create() -> Self {
        let server = server().await;
        let template = template(&server).await;
        let functions = functions_server(&server).await;
        Self::from_template(server, &functions, &template).await
    }

    /// Creates a database without tables, for tests of the migrations.
    ///
    /// # Panics
    /// As [`Database::create`].
    pub async fn create_unmigrated() -> Self {
        let server = server().await;
        let owner = server.clone();
        Self::from_template(server, &owner, "template0").await
    }

    async fn from_template(server: String, user: &str, template: &str) -> Self {
        let name = fresh_name();
        let admin = connect(&server).await;
        run(&admin, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        let (url, owner_url) = (with_database(user, &name), with_database(&server, &name));
        Self { name, server, url, owner_url }
    }

    /// Returns the URL that functions are given: of the role that the migration made for them. Of a database
    /// that is not migrated, the owner's.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of the schema's owner.
    pub fn owner_url(&self) -> &str {
        &self.owner_url
    }

    /// Opens a connection as functions have it, driven by the current tokio runtime. Every operation is tested
    /// on one, so the tests show that the role's privileges suffice.
    ///
    /// # Panics
    /// If the server rejects it.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// Opens a connection as the schema's owner: for what no function may do, such as an entry of the allowlist
    /// that expired, or a change of a table.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn owner(&self) -> Client {
        connect(&self.owner_url).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A second runtime drops the database, because the test's runtime is blocked in this `drop`. Its
        // thread is joined, because the process may end immediately afterwards.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let admin = connect(&server).await;
                // FORCE, because a leaked pool may still have connections.
                run(&admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
            });
            std::io::Result::Ok(())
        });
        // Ignores errors, which would hide the test's own failure. A later process drops the left-over
        // database.
        let _ = dropping.join();
    }
}

/// Returns the URL of the server for test databases, which is the same for the whole process.
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
            .unwrap_or_else(|error| panic!("could not start PostgreSQL for the tests: {error}")),
    };
    drop_leftovers(&connect(&server).await).await;
    server
}

/// Returns the server's URL for the functions' role, which exists once a template is migrated.
async fn functions_server(server: &str) -> String {
    static FUNCTIONS: OnceCell<String> = OnceCell::const_new();
    let find = async || {
        // Two processes that set the same password at once would disturb each other.
        let admin = connect(server).await;
        admin.query("SELECT pg_advisory_lock($1)", &[&TEMPLATE_LOCK]).await.expect("lock templates");
        functions_url(server).await.unwrap_or_else(|error| panic!("the functions' role: {error}"))
    };
    FUNCTIONS.get_or_init(find).await.clone()
}

/// Returns the name of the migrated template, which the first process creates.
async fn template(server: &str) -> String {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE.get_or_init(|| find_or_create_template(server)).await.clone()
}

async fn find_or_create_template(server: &str) -> String {
    let fingerprint: String = bakeoff_core::migrate::fingerprint().chars().take(24).collect();
    let template = format!("bakeoff_template_{fingerprint}");
    let admin = connect(server).await;
    // The lock is released with the connection, even if this process is killed.
    admin.query("SELECT pg_advisory_lock($1)", &[&TEMPLATE_LOCK]).await.expect("lock templates");
    let found = admin
        .query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&template])
        .await
        .expect("query for the template");
    if found.is_none() {
        create_template(server, &admin, &template).await;
    }
    template
}

/// Creates the template under another name and renames it when it is complete, so that no test clones a
/// template whose creation was interrupted.
async fn create_template(server: &str, admin: &Client, template: &str) {
    let building = format!("{template}_building");
    run(admin, &format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)")).await;
    run(admin, &format!("CREATE DATABASE {building}")).await;
    let mut client = connect(&with_database(server, &building)).await;
    bakeoff_core::migrate::apply(&mut client).await.expect("the migrations apply to an empty database");
    drop(client);
    run(admin, &format!("ALTER DATABASE {building} RENAME TO {template}")).await;
}

/// Drops the databases of killed tests.
async fn drop_leftovers(admin: &Client) {
    let old = "SELECT datname FROM pg_database d \
               WHERE datname ~ '^bakeoff_test_[0-9]+_[0-9]+_[0-9]+$' \
                 AND split_part(datname, '_', 3)::bigint < $1 \
                 AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)";
    let before =
        i64::try_from(now_s().saturating_sub(LEFT_OVER_AFTER_S)).expect("Unix time fits into 64 bits");
    for row in admin.query(old, &[&before]).await.expect("query for left-over databases") {
        let name: String = row.get(0);
        // Another process may be dropping the same one.
        let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await;
    }
}

/// Returns a name that is unique on the server and contains the time of creation.
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
        .unwrap_or_else(|error| panic!("could not connect to the tests' PostgreSQL: {error:?}"));
    // A connection error surfaces in the client's next query.
    tokio::spawn(connection);
    client
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

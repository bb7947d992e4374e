//! The whole product on this machine: Postgres, migrations, keys, the function processes, the front.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bakeoff_core::error::error_chain;
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_postgres::NoTls;

use crate::api_gateway::ApiGateway;
use crate::api_gateway::event::scheduled_event;
use crate::api_gateway::route::Route;
use crate::api_gateway::sigv4::Credentials;
use crate::api_gateway::template::{self, Template};
use crate::error::{Error, Result, While};
use crate::lambda::build;
use crate::lambda::runtime_api::{Function, Settings};
use crate::postgres::Cluster;
use crate::{signing_keys, workspace};

/// The function that the template's schedule invokes.
const REAPER: &str = "reaper";

/// What the command line decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The loopback port of the API; 0 for a free one.
    pub port: u16,
    /// A server to use instead of a private cluster.
    pub database_url: Option<String>,
    /// At most this many processes of each function.
    pub instances: usize,
    /// How long a claim lives without a heartbeat, in seconds.
    pub lease_ttl_s: u32,
    /// How often the reaper runs.
    pub reap_every: Duration,
    /// The Sigstore trusted root for keyless bundles, instead of the embedded one.
    pub trusted_root: Option<PathBuf>,
    /// Build the functions with the release profile.
    pub release: bool,
    /// Where runners reach the API, if not at its own port: proofs are made for it.
    pub public_url: Option<String>,
    /// How long a runner's token lasts, in seconds.
    pub token_ttl_s: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 9000,
            database_url: None,
            instances: 1,
            lease_ttl_s: 300,
            reap_every: Duration::from_secs(60),
            trusted_root: None,
            release: false,
            public_url: None,
            token_ttl_s: 3600,
        }
    }
}

/// The running product. Its processes end when it is dropped or stopped.
#[derive(Debug)]
pub struct Stack {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// `postgres://…`.
    pub database_url: String,
    /// Logs and keys of this run.
    pub folder: PathBuf,
    /// What the front matches requests against.
    pub routes: Vec<Route>,
    /// Those behind the routes, and the reaper, by name.
    pub functions: HashMap<String, Arc<Function>>,
    tasks: JoinSet<()>,
}

impl Stack {
    /// Builds the functions and brings everything up.
    ///
    /// # Errors
    /// When something is missing, taken or broken; the text says what, and what to type.
    pub async fn start(options: &Options) -> Result<Self> {
        let root = workspace::root()?;
        // Bound first: while nobody else can have the port, its folder under target/ is ours too.
        let (listener, address) = bind(options.port).await?;
        let url = format!("http://{address}");
        let template = Template::read(&root.join("template.yaml"))?;
        let wanted = wanted_functions(&template)?;
        let binaries = build_functions(root, &wanted, options.release).await?;

        let folder = fresh_folder(address.port())?;
        let mut tasks = JoinSet::new();
        let database_url = database(options, &folder, &mut tasks).await?;
        migrate(&database_url).await?;
        let keys_file = folder.join("signing-keys.json");
        signing_keys::write_signing_keys(&keys_file)?;
        let environment = environment(options, &url, &database_url, &keys_file)?;

        let functions: HashMap<String, Arc<Function>> = wanted
            .into_iter()
            .map(|function| {
                let name = function.name.clone();
                let settings = Settings {
                    binary: binaries[&name].clone(),
                    environment: environment.clone(),
                    log: folder.join(format!("{name}.log")),
                    instances: options.instances,
                    function,
                };
                (name, Arc::new(Function::new(settings)))
            })
            .collect();
        tasks.spawn(reap(Arc::clone(&functions[REAPER]), options.reap_every));
        let front = ApiGateway::new(template.routes.clone(), functions.clone(), Credentials::local());
        tasks.spawn(Arc::new(front).serve(listener));
        Ok(Self { url, database_url, folder, routes: template.routes, functions, tasks })
    }

    /// Stops after some work on it. What failed wants the logs: only with success they go too.
    ///
    /// # Errors
    /// That of the work, or when the logs cannot be removed.
    pub async fn stop_after<T>(self, worked: Result<T>) -> Result<T> {
        let folder = self.folder.clone();
        self.stop().await;
        match &worked {
            Ok(_) => std::fs::remove_dir_all(&folder).while_(format!("remove {}", folder.display()))?,
            Err(_) => eprintln!("The functions' logs are in {}.", folder.display()),
        }
        worked
    }

    /// Ends the function processes and the private cluster, and waits for that. The logs stay.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn bind(port: u16) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::Failed(format!(
            "port {port} is taken. Choose another: cargo local --port {} (0 finds a free one)",
            port.saturating_add(1)
        )),
        _ => Error::Io { doing: format!("listen on port {port}"), source },
    })?;
    let address = listener.local_addr().while_("ask for the port")?;
    Ok((listener, address))
}

/// `target/local/PORT/`, empty.
fn fresh_folder(port: u16) -> Result<PathBuf> {
    let folder = workspace::target()?.join("local").join(port.to_string());
    let doing = || format!("empty {}", folder.display());
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).while_(doing()),
        _ => std::fs::create_dir_all(&folder).while_(doing())?,
    }
    Ok(folder)
}

/// Those that a route or the schedule leads to; the others belong to deployments.
fn wanted_functions(template: &Template) -> Result<Vec<template::Function>> {
    let is_wanted = |function: &&template::Function| {
        function.name == REAPER || template.routes.iter().any(|route| route.function == function.name)
    };
    let wanted: Vec<_> = template.functions.iter().filter(is_wanted).cloned().collect();
    match wanted.iter().any(|function| function.name == REAPER) {
        true => Ok(wanted),
        false => Err(Error::Failed(format!("template.yaml has no function {REAPER}"))),
    }
}

async fn build_functions(
    root: PathBuf,
    wanted: &[template::Function],
    release: bool,
) -> Result<BTreeMap<String, PathBuf>> {
    let names: Vec<String> = wanted.iter().map(|function| function.name.clone()).collect();
    blocking(move || {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        build::functions(&root, &names, release)
    })
    .await
}

/// The given server, or a private cluster and a task that keeps it running.
async fn database(options: &Options, folder: &Path, tasks: &mut JoinSet<()>) -> Result<String> {
    if let Some(url) = &options.database_url {
        return Ok(url.clone());
    }
    let dir = folder.join("postgres");
    let cluster = blocking(move || Cluster::start(&dir)).await?;
    let url = cluster.url();
    tasks.spawn(keep_running(cluster));
    Ok(url)
}

/// A managed database comes back after a crash; so does this one.
async fn keep_running(mut cluster: Cluster) {
    loop {
        sleep(Duration::from_millis(100)).await;
        if !cluster.has_ended() {
            continue;
        }
        eprintln!("PostgreSQL has ended; starting it again");
        let restarted = spawn_blocking(move || {
            let result = cluster.start_again();
            (cluster, result)
        });
        let Ok((same, result)) = restarted.await else { return };
        cluster = same;
        if let Err(error) = result {
            eprintln!("{error}");
        }
    }
}

async fn migrate(database_url: &str) -> Result<()> {
    let connected = tokio_postgres::connect(database_url, NoTls).await;
    let (mut client, connection) = connected.while_("connect to the database")?;
    let connection = tokio::spawn(connection);
    let applied = bakeoff_core::migrate::apply(&mut client).await;
    drop(client);
    let _ = connection.await;
    applied
        .map(drop)
        .map_err(|error| Error::Failed(format!("the migrations do not apply: {}", error_chain(&error))))
}

fn environment(
    options: &Options,
    url: &str,
    database_url: &str,
    keys_file: &Path,
) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::from([
        ("DATABASE_URL".to_owned(), database_url.to_owned()),
        ("SIGNING_KEYS_FILE".to_owned(), keys_file.display().to_string()),
        ("PUBLIC_URL".to_owned(), options.public_url.clone().unwrap_or_else(|| url.to_owned())),
        ("TOKEN_TTL_S".to_owned(), options.token_ttl_s.to_string()),
        ("LEASE_TTL_S".to_owned(), options.lease_ttl_s.to_string()),
        ("HEARTBEAT_INTERVAL_S".to_owned(), heartbeat_interval_s(options.lease_ttl_s).to_string()),
    ]);
    if let Some(root) = &options.trusted_root {
        let path = root.canonicalize().while_(format!("read {}", root.display()))?;
        variables.insert("TRUSTED_ROOT_FILE".to_owned(), path.display().to_string());
    }
    Ok(variables)
}

/// Three heartbeats fit a lease, so that two may be lost; a minute apart at most.
fn heartbeat_interval_s(lease_ttl_s: u32) -> u32 {
    (lease_ttl_s / 3).clamp(1, 60)
}

/// Plays EventBridge: one invocation after another, never two at once.
async fn reap(reaper: Arc<Function>, every: Duration) {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let event = scheduled_event(REAPER, OffsetDateTime::now_utc()).to_string();
        if let Err(error) = reaper.invoke(Bytes::from(event)).await {
            eprintln!("{REAPER}: {error}");
        }
    }
}

/// Runs what waits for other programs on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|error| Error::Failed(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::heartbeat_interval_s;

    #[test]
    fn three_heartbeats_fit_a_lease() {
        assert_eq!([1, 2, 30, 300, 9000].map(heartbeat_interval_s), [1, 1, 10, 60, 60]);
    }
}

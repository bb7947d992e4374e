//! The local stack: Postgres, migrations, signing keys, function processes and the local API Gateway.

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
use crate::error::{Error, ErrorContext, Result};
use crate::lambda::build;
use crate::lambda::runtime_api::{Function, Settings};
use crate::postgres::{Cluster, functions_url};
use crate::{signing_keys, workspace};

/// Name of the function that the template's schedule invokes.
const REAPER: &str = "reaper";

/// Options parsed from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Loopback port of the API; 0 chooses a free one.
    pub port: u16,
    /// Server to use instead of a private cluster.
    pub database_url: Option<String>,
    /// Maximum number of processes of each function.
    pub instances: usize,
    /// Lease duration of a claim, in seconds.
    pub lease_ttl_s: u32,
    /// Interval between runs of the reaper.
    pub reap_every: Duration,
    /// Sigstore trusted root for keyless bundles, instead of the embedded one.
    pub trusted_root: Option<PathBuf>,
    /// Whether to build the functions with the release profile.
    pub release: bool,
    /// Where runners reach the API, if not at its own port: proofs are made for it.
    pub public_url: Option<String>,
    /// How long a runner's token lasts, in seconds.
    pub token_ttl_s: u32,
    /// Whether failures of functions are not printed.
    pub quiet: bool,
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
            quiet: false,
        }
    }
}

/// A running stack. Its processes end when it is dropped or stopped.
#[derive(Debug)]
pub struct Stack {
    /// Base URL of the API, `http://127.0.0.1:PORT`.
    pub url: String,
    /// `postgres://…` of the schema's owner. The functions connect as a role of their own.
    pub database_url: String,
    /// Folder with the logs and keys of this stack.
    pub folder: PathBuf,
    /// Routes of the gateway.
    pub routes: Vec<Route>,
    /// Functions of the routes, and the reaper, by name.
    pub functions: HashMap<String, Arc<Function>>,
    tasks: JoinSet<()>,
}

impl Stack {
    /// Builds the functions and starts all parts.
    ///
    /// # Errors
    /// If a part does not start; the text names the reason and, if there is one, the command that fixes it.
    pub async fn start(options: &Options) -> Result<Self> {
        let root = workspace::root()?;
        // Binds first: owning the port also gives exclusive use of the folder that is named after it.
        let (listener, address) = bind(options.port).await?;
        let url = format!("http://{address}");
        let template = Template::read(&root.join("template.yaml"))?;
        let required = required_functions(&template)?;
        let binaries = build_functions(root, &required, options.release).await?;

        let folder = create_empty_folder(address.port())?;
        let mut tasks = JoinSet::new();
        let database_url = start_database(options, &folder, &mut tasks).await?;
        migrate(&database_url).await?;
        let functions_url = functions_url(&database_url).await?;
        let keys_file = folder.join("signing-keys.json");
        signing_keys::write_signing_keys(&keys_file)?;
        let environment = environment(options, &url, &functions_url, &keys_file)?;

        let functions: HashMap<String, Arc<Function>> = required
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
        tasks.spawn(schedule_reaper(Arc::clone(&functions[REAPER]), options.reap_every));
        let gateway = ApiGateway::new(template.routes.clone(), functions.clone(), Credentials::local());
        let gateway = if options.quiet { gateway.quiet() } else { gateway };
        tasks.spawn(Arc::new(gateway).serve(listener));
        Ok(Self { url, database_url, folder, routes: template.routes, functions, tasks })
    }

    /// Stops the stack and returns the result of the work on it. Removes the logs only if the work succeeded.
    ///
    /// # Errors
    /// The error of the work, or if the logs cannot be removed.
    pub async fn stop_after<T>(self, result: Result<T>) -> Result<T> {
        let folder = self.folder.clone();
        self.stop().await;
        match &result {
            Ok(_) => std::fs::remove_dir_all(&folder).context(format!("remove {}", folder.display()))?,
            Err(_) => eprintln!("See the functions' logs in {}.", folder.display()),
        }
        result
    }

    /// Stops the function processes and the private cluster, and waits until they have ended. The logs stay.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn bind(port: u16) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::Failed(format!(
            "port {port} is in use. Choose another: cargo local --port {} (0 chooses a free one)",
            port.saturating_add(1)
        )),
        _ => Error::Io { doing: format!("listen on port {port}"), source },
    })?;
    let address = listener.local_addr().context("get the port's number")?;
    Ok((listener, address))
}

/// Creates the empty folder `target/local/PORT/`.
fn create_empty_folder(port: u16) -> Result<PathBuf> {
    let folder = workspace::target()?.join("local").join(port.to_string());
    let doing = || format!("empty {}", folder.display());
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context(doing()),
        _ => std::fs::create_dir_all(&folder).context(doing())?,
    }
    Ok(folder)
}

/// Returns the functions that a route or the schedule invokes. The others serve only deployments.
fn required_functions(template: &Template) -> Result<Vec<template::Function>> {
    let is_required = |function: &&template::Function| {
        function.name == REAPER || template.routes.iter().any(|route| route.function == function.name)
    };
    let required: Vec<_> = template.functions.iter().filter(is_required).cloned().collect();
    match required.iter().any(|function| function.name == REAPER) {
        true => Ok(required),
        false => Err(Error::Failed(format!("template.yaml has no function {REAPER}"))),
    }
}

async fn build_functions(
    root: PathBuf,
    required: &[template::Function],
    release: bool,
) -> Result<BTreeMap<String, PathBuf>> {
    let names: Vec<String> = required.iter().map(|function| function.name.clone()).collect();
    blocking(move || {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        build::functions(&root, &names, release)
    })
    .await
}

/// Returns the URL of the configured server, or starts a private cluster with a task that supervises it.
async fn start_database(options: &Options, folder: &Path, tasks: &mut JoinSet<()>) -> Result<String> {
    if let Some(url) = &options.database_url {
        return Ok(url.clone());
    }
    let dir = folder.join("postgres");
    let cluster = blocking(move || Cluster::start(&dir)).await?;
    let url = cluster.url();
    tasks.spawn(supervise(cluster));
    Ok(url)
}

/// Restarts the cluster if it ends, as a managed database would after a crash.
async fn supervise(mut cluster: Cluster) {
    loop {
        sleep(Duration::from_millis(100)).await;
        if !cluster.has_ended() {
            continue;
        }
        eprintln!("PostgreSQL has ended; restarting it");
        let restarted = spawn_blocking(move || {
            let result = cluster.restart();
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
    let (mut client, connection) = connected.context("connect to the database")?;
    let connection = tokio::spawn(connection);
    let applied = bakeoff_core::migrate::apply(&mut client).await;
    drop(client);
    let _ = connection.await;
    applied
        .map(drop)
        .map_err(|error| Error::Failed(format!("could not apply the migrations: {}", error_chain(&error))))
}

fn environment(
    options: &Options,
    url: &str,
    functions_url: &str,
    keys_file: &Path,
) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::from([
        ("DATABASE_URL".to_owned(), functions_url.to_owned()),
        ("SIGNING_KEYS_FILE".to_owned(), keys_file.display().to_string()),
        ("PUBLIC_URL".to_owned(), options.public_url.clone().unwrap_or_else(|| url.to_owned())),
        ("TOKEN_TTL_S".to_owned(), options.token_ttl_s.to_string()),
        ("LEASE_TTL_S".to_owned(), options.lease_ttl_s.to_string()),
        ("HEARTBEAT_INTERVAL_S".to_owned(), heartbeat_interval_s(options.lease_ttl_s).to_string()),
    ]);
    if let Some(root) = &options.trusted_root {
        let path = root.canonicalize().context(format!("read {}", root.display()))?;
        variables.insert("TRUSTED_ROOT_FILE".to_owned(), path.display().to_string());
    }
    Ok(variables)
}

/// Returns a third of the lease, so that two heartbeats may be lost, but at most 60 s.
fn heartbeat_interval_s(lease_ttl_s: u32) -> u32 {
    (lease_ttl_s / 3).clamp(1, 60)
}

/// Plays EventBridge: invokes the reaper at each interval, never two at the same time.
async fn schedule_reaper(reaper: Arc<Function>, every: Duration) {
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

/// Runs blocking work on a separate thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|error| Error::Failed(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::heartbeat_interval_s;

    #[test]
    fn the_heartbeat_interval_is_a_third_of_the_lease_up_to_60_s() {
        assert_eq!([1, 2, 30, 300, 9000].map(heartbeat_interval_s), [1, 1, 10, 60, 60]);
    }
}

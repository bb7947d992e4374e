//! A private PostgreSQL cluster: creation, start, supervision and removal.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Account, Binaries};
use crate::error::{Error, ErrorContext, Result};

/// The superuser of every private cluster.
const SUPERUSER: &str = "bakeoff";
const SUPERVISOR: &str = include_str!("supervise.sh");
/// Time limit for a start. Generous, because the machine may be loaded.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The purpose of a cluster, which determines its durability and lifetime.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// Owned by one process. Commits are durable, so that measurements include a server's real cost.
    Owned {
        /// Additional settings, `name=value`.
        settings: &'static [&'static str],
    },
    /// Shared by test processes. Commits are not flushed, because test data need not survive a crash.
    Tests {
        /// The file that test processes touch; see `supervise.sh`.
        usage_file: PathBuf,
    },
}

/// A running private cluster. Dropping it stops the server and removes its data; so does the end of the
/// owning process, even by SIGKILL.
#[derive(Debug)]
pub struct Cluster {
    data: PathBuf,
    account: Account,
    binaries: Binaries,
    purpose: Purpose,
    password: String,
    port: u16,
    supervisor: Child,
}

impl Cluster {
    /// Creates and starts a cluster in `dir`, or in the system's temporary folder if the database's user has
    /// no access to `dir`. Removes any previous contents.
    ///
    /// # Errors
    /// If PostgreSQL is missing or does not start; the text ends with the last lines of the server's log.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, &[])
    }

    /// Like [`Cluster::start`], with additional server settings, `name=value`.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(dir: &Path, settings: &'static [&'static str]) -> Result<Self> {
        Self::start_for(dir, Purpose::Owned { settings })
    }

    pub(super) fn start_for(dir: &Path, purpose: Purpose) -> Result<Self> {
        let binaries = Binaries::find_or_install()?;
        let account = Account::unprivileged()?;
        let data = data_dir(dir, account)?;
        remove_cluster(&data, &binaries, account)?;
        let password = random_password();
        init(&data, &binaries, account, &password)?;
        let (port, supervisor) = launch_on_free_port(&data, &binaries, account, &purpose)?;
        Ok(Self { data, account, binaries, purpose, password, port, supervisor })
    }

    /// Returns the superuser's URL for the initial database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// Returns whether the server has ended by itself: it was killed, or crashed without recovery.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.supervisor.try_wait(), Ok(None))
    }

    /// Stops the server in immediate mode, which its clients and its data see as a crash. [`Cluster::restart`] starts
    /// it again.
    pub fn crash(&self) {
        stop_server(&self.data, &self.binaries, self.account);
    }

    /// Returns the server's port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Restarts the server on the same port after [`Cluster::has_ended`], with all committed data.
    ///
    /// # Errors
    /// If the server does not start, for example because another process took the port.
    pub fn restart(&mut self) -> Result<()> {
        let until = Instant::now() + START_LIMIT;
        // If only the supervisor was killed, the server still runs; two servers must never use one folder.
        stop_server(&self.data, &self.binaries, self.account);
        loop {
            let before = postmaster(&self.data).map(|postmaster| postmaster.pid);
            self.supervisor = launch(&self.data, &self.binaries, self.account, &self.purpose, self.port)?;
            if wait_until_ready(&self.data, &mut self.supervisor, before.as_deref())? {
                return Ok(());
            }
            // After a SIGKILL, orphaned backends hold the shared memory for a moment, so starts can fail.
            if Instant::now() > until {
                return Err(start_failure(&self.data));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Stops the server and removes its data.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.supervisor.stdin.take());
        if let Purpose::Owned { .. } = self.purpose {
            // Fails only if the supervisor was already reaped.
            let _ = self.supervisor.wait();
            // The supervisor empties the folder, but may lack write permission on its parent.
            let _ = fs::remove_dir_all(&self.data);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns `dir` if the database's user can enter its parent, else a folder in the system's temporary folder.
pub(super) fn data_dir(dir: &Path, account: Account) -> Result<PathBuf> {
    let parent = dir.parent().unwrap_or(dir);
    fs::create_dir_all(parent).context(format!("create {}", parent.display()))?;
    if account.can_enter(parent) {
        return Ok(dir.to_path_buf());
    }
    let digest = crate::hex(&Sha256::digest(dir.as_os_str().as_encoded_bytes()));
    Ok(std::env::temp_dir().join(format!("bakeoff-postgres-{}", &digest[..16])))
}

/// Removes a data directory, and stops a server that still runs in it because its supervisor was killed.
pub(super) fn remove_cluster(data: &Path, binaries: &Binaries, account: Account) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(data) else {
        return Ok(());
    };
    // Every user can write to the temporary folder: never remove or follow a link or a folder of another
    // user.
    let owners: &[u32] = match account {
        Account::CurrentUser => &[],
        Account::Other { uid, .. } => &[0, uid],
    };
    if !meta.is_dir() || !(owners.is_empty() || owners.contains(&meta.uid())) {
        return Err(Error::Failed(format!(
            "{} exists and is not a folder of the database's user; remove it and try again",
            data.display()
        )));
    }
    stop_server(data, binaries, account);
    // The supervisor also removes the data when the server ends; either may be first.
    match fs::remove_dir_all(data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", data.display()))
        }
        _ => Ok(()),
    }
}

/// Stops the server that runs in `data`, if any.
fn stop_server(data: &Path, binaries: &Binaries, account: Account) {
    if !data.join("postmaster.pid").exists() {
        return;
    }
    let mut stop = account.command(&binaries.program("pg_ctl"));
    stop.args(["stop", "--mode", "immediate", "--silent", "--pgdata"]).arg(data);
    let _ = stop.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Returns whether the process id in `data` belongs to a running server.
pub(super) fn is_server_running(data: &Path) -> Result<bool> {
    if !data.join("postmaster.pid").exists() {
        return Ok(false);
    }
    let Some(binaries) = Binaries::find() else {
        return Ok(false);
    };
    let mut status = Account::unprivileged()?.command(&binaries.program("pg_ctl"));
    status.args(["status", "--pgdata"]).arg(data);
    let status = status.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.context("run pg_ctl")?.success())
}

fn init(data: &Path, binaries: &Binaries, account: Account, password: &str) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(data).context(format!("create {}", data.display()))?;
    let password_file = data.with_extension("password");
    write_private(&password_file, password)?;
    account.chown(&password_file)?;
    account.chown(data)?;
    let mut initdb = account.command(&binaries.program("initdb"));
    initdb
        .args([
            "--username",
            SUPERUSER,
            "--encoding",
            "UTF8",
            "--no-locale",
            "--no-sync",
            "--auth",
            "password",
        ])
        .arg("--pwfile")
        .arg(&password_file)
        .arg("--pgdata")
        .arg(data);
    let output = initdb.stdin(Stdio::null()).output().context("run initdb");
    let removed = fs::remove_file(&password_file).context(format!("remove {}", password_file.display()));
    let output = output?;
    removed?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Failed(format!("initdb failed:\n{}", stderr.trim())));
    }
    Ok(())
}

/// Starts the server on a free port. Finds the port by binding and releasing it; another process may take it
/// before Postgres does, so this makes up to five attempts.
fn launch_on_free_port(
    data: &Path,
    binaries: &Binaries,
    account: Account,
    purpose: &Purpose,
) -> Result<(u16, Child)> {
    for _ in 0..5 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .context("find a free port")?
            .port();
        let mut supervisor = launch(data, binaries, account, purpose, port)?;
        if wait_until_ready(data, &mut supervisor, None)? {
            return Ok((port, supervisor));
        }
    }
    Err(start_failure(data))
}

fn launch(data: &Path, binaries: &Binaries, account: Account, purpose: &Purpose, port: u16) -> Result<Child> {
    let log = fs::File::create(data.join("server.log")).context("create the server's log")?;
    let mut supervisor = account.command(Path::new("/bin/sh"));
    supervisor.args(["-c", SUPERVISOR, "supervise.sh"]).arg(data);
    match purpose {
        Purpose::Owned { .. } => supervisor.arg("").stdin(Stdio::piped()),
        Purpose::Tests { usage_file } => supervisor.arg(usage_file).stdin(Stdio::null()),
    };
    supervisor.arg(binaries.program("postgres")).arg("-D").arg(data).arg("-p").arg(port.to_string());
    let (own, further) = settings(purpose);
    for setting in own.iter().chain(further) {
        supervisor.args(["-c", setting]);
    }
    supervisor.stdout(log.try_clone().context("share the server's log")?).stderr(log);
    // A process group of its own: Ctrl-C at the terminal signals the whole group, and the server must outlive
    // the functions that still use it.
    supervisor.process_group(0).spawn().context("start PostgreSQL")
}

/// Returns the settings for the purpose, and the additional ones.
fn settings(purpose: &Purpose) -> (&'static [&'static str], &'static [&'static str]) {
    match purpose {
        Purpose::Owned { settings } => {
            (&["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"], settings)
        }
        Purpose::Tests { .. } => (
            &[
                "listen_addresses=127.0.0.1",
                "unix_socket_directories=",
                "max_connections=500",
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
            ],
            &[],
        ),
    }
}

/// The server's state in `postmaster.pid`, the file that `pg_ctl --wait` reads.
struct Postmaster {
    pid: String,
    ready: bool,
}

fn postmaster(data: &Path) -> Option<Postmaster> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.to_owned();
    Some(Postmaster { pid, ready: lines.nth(6).is_some_and(|status| status.trim() == "ready") })
}

/// Waits until the server accepts connections (true) or has ended (false). `before` is the process id of an
/// earlier server, whose file may still exist.
fn wait_until_ready(data: &Path, supervisor: &mut Child, before: Option<&str>) -> Result<bool> {
    let until = Instant::now() + START_LIMIT;
    while Instant::now() < until {
        if postmaster(data).is_some_and(|now| now.ready && Some(now.pid.as_str()) != before) {
            return Ok(true);
        }
        if supervisor.try_wait().context("wait for PostgreSQL")?.is_some() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

fn start_failure(data: &Path) -> Error {
    let log = fs::read_to_string(data.join("server.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(10)..].join("\n");
    Error::Failed(format!("PostgreSQL did not start. The last lines of its log:\n{last}"))
}

/// Creates a file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let doing = format!("write {}", path.display());
    // Creates the file instead of opening it: in a shared folder, another user may have placed a link at this
    // path.
    let _ = fs::remove_file(path);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).context(&doing)?;
    file.write_all(text.as_bytes()).context(doing)
}

fn random_password() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
    crate::hex(&bytes)
}

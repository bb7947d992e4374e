//! One private cluster: made, started, kept, stopped.

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
use crate::error::{Error, Result, While};

/// The superuser of every private cluster.
const SUPERUSER: &str = "bakeoff";
const KEEPER: &str = include_str!("keep.sh");
/// A loaded machine takes its time; initdb's and recovery's work is bounded all the same.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How a cluster treats its data, and for how long it lives.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// Owned by one process; commits are durable, so that what is measured is what a server costs.
    Owned {
        /// Further settings, `name=value`.
        settings: &'static [&'static str],
    },
    /// Shared by test processes, which touch this file; commits are not flushed, its data is worthless.
    Tests {
        /// See `keep.sh`.
        used: PathBuf,
    },
}

/// A running private cluster. Dropping it stops the server and removes its data; so does the death of
/// the process that holds it.
#[derive(Debug)]
pub struct Cluster {
    data: PathBuf,
    account: Account,
    binaries: Binaries,
    purpose: Purpose,
    password: String,
    port: u16,
    keeper: Child,
}

impl Cluster {
    /// Makes and starts a cluster of our own in `dir`, or, where the database's user cannot reach that,
    /// in a folder named after it in the system's temporary one. Whatever was there is removed.
    ///
    /// # Errors
    /// When PostgreSQL is missing or does not start; the text ends with the server's last words.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, &[])
    }

    /// The same with further settings of the server, `name=value`.
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
        discard(&data, &binaries, account)?;
        let password = random_password();
        init(&data, &binaries, account, &password)?;
        let (port, keeper) = launch_on_a_free_port(&data, &binaries, account, &purpose)?;
        Ok(Self { data, account, binaries, purpose, password, port, keeper })
    }

    /// `postgres://…` of the database every cluster begins with, as its superuser.
    pub fn url(&self) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// Whether the server has ended by itself (killed, or crashed beyond its own recovery).
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.keeper.try_wait(), Ok(None))
    }

    /// Starts the server again on the same port after [`Cluster::has_ended`]; committed data is there.
    ///
    /// # Errors
    /// When it does not start, for one because the port has been taken meanwhile.
    pub fn start_again(&mut self) -> Result<()> {
        let until = Instant::now() + START_LIMIT;
        // Only the keeper may have been killed; two servers on one folder must never be tried.
        stop_server(&self.data, &self.binaries, self.account);
        loop {
            let before = postmaster(&self.data).map(|postmaster| postmaster.pid);
            self.keeper = launch(&self.data, &self.binaries, self.account, &self.purpose, self.port)?;
            if ready(&self.data, &mut self.keeper, before.as_deref())? {
                return Ok(());
            }
            // After a SIGKILL its orphaned backends hold the shared memory for a moment.
            if Instant::now() > until {
                return Err(did_not_start(&self.data));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Stops the server and removes its data.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.keeper.stdin.take());
        if let Purpose::Owned { .. } = self.purpose {
            // Only fails if the keeper was waited for already, and then there is nothing to wait for.
            let _ = self.keeper.wait();
            // The keeper may empty the folder, but not unlink it from a parent that is ours.
            let _ = fs::remove_dir_all(&self.data);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
    }
}

/// `dir` itself if the database's user can get there, else a stand-in in the temporary folder.
pub(super) fn data_dir(dir: &Path, account: Account) -> Result<PathBuf> {
    let parent = dir.parent().unwrap_or(dir);
    fs::create_dir_all(parent).while_(format!("make {}", parent.display()))?;
    if account.can_enter(parent) {
        return Ok(dir.to_path_buf());
    }
    let digest = crate::hex(&Sha256::digest(dir.as_os_str().as_encoded_bytes()));
    Ok(std::env::temp_dir().join(format!("bakeoff-postgres-{}", &digest[..16])))
}

/// Removes a data directory and stops the server that may still run in it (its keeper was killed).
pub(super) fn discard(data: &Path, binaries: &Binaries, account: Account) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(data) else {
        return Ok(());
    };
    // The temporary folder is everybody's: never follow what another user has put there.
    let owners: &[u32] = match account {
        Account::Ourselves => &[],
        Account::Other { uid, .. } => &[0, uid],
    };
    if !meta.is_dir() || !(owners.is_empty() || owners.contains(&meta.uid())) {
        return Err(Error::Failed(format!("{} is in the way: please remove it", data.display())));
    }
    stop_server(data, binaries, account);
    // The keeper removes the data too, once it sees the server gone; either may be first.
    match fs::remove_dir_all(data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).while_(format!("remove {}", data.display()))
        }
        _ => Ok(()),
    }
}

/// Stops whatever server runs in `data`; that none does is as good.
fn stop_server(data: &Path, binaries: &Binaries, account: Account) {
    if !data.join("postmaster.pid").exists() {
        return;
    }
    let mut stop = account.command(&binaries.program("pg_ctl"));
    stop.args(["stop", "--mode", "immediate", "--silent", "--pgdata"]).arg(data);
    let _ = stop.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Whether a server runs in `data`, as far as its process id tells.
pub(super) fn server_runs(data: &Path) -> Result<bool> {
    if !data.join("postmaster.pid").exists() {
        return Ok(false);
    }
    let Some(binaries) = Binaries::find() else {
        return Ok(false);
    };
    let mut status = Account::unprivileged()?.command(&binaries.program("pg_ctl"));
    status.args(["status", "--pgdata"]).arg(data);
    let status = status.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.while_("run pg_ctl")?.success())
}

fn init(data: &Path, binaries: &Binaries, account: Account, password: &str) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(data).while_(format!("make {}", data.display()))?;
    let password_file = data.with_extension("password");
    write_private(&password_file, password)?;
    account.own(&password_file)?;
    account.own(data)?;
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
    let output = initdb.stdin(Stdio::null()).output().while_("run initdb");
    let removed = fs::remove_file(&password_file).while_(format!("remove {}", password_file.display()));
    let output = output?;
    removed?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Failed(format!("initdb failed:\n{}", words.trim())));
    }
    Ok(())
}

/// A port is found by binding it and letting go; another process may take it before Postgres does, so
/// the attempt is repeated.
fn launch_on_a_free_port(
    data: &Path,
    binaries: &Binaries,
    account: Account,
    purpose: &Purpose,
) -> Result<(u16, Child)> {
    for _ in 0..5 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .while_("find a free port")?
            .port();
        let mut keeper = launch(data, binaries, account, purpose, port)?;
        if ready(data, &mut keeper, None)? {
            return Ok((port, keeper));
        }
    }
    Err(did_not_start(data))
}

fn launch(data: &Path, binaries: &Binaries, account: Account, purpose: &Purpose, port: u16) -> Result<Child> {
    let log = fs::File::create(data.join("server.log")).while_("make the server's log")?;
    let mut keeper = account.command(Path::new("/bin/sh"));
    keeper.args(["-c", KEEPER, "keep.sh"]).arg(data);
    match purpose {
        Purpose::Owned { .. } => keeper.arg("").stdin(Stdio::piped()),
        Purpose::Tests { used } => keeper.arg(used).stdin(Stdio::null()),
    };
    keeper.arg(binaries.program("postgres")).arg("-D").arg(data).arg("-p").arg(port.to_string());
    let (own, further) = settings(purpose);
    for setting in own.iter().chain(further) {
        keeper.args(["-c", setting]);
    }
    keeper.stdout(log.try_clone().while_("share the server's log")?).stderr(log);
    // A Ctrl-C at the terminal goes to the whole process group; the server must outlive the functions
    // that are still using it.
    keeper.process_group(0).spawn().while_("start PostgreSQL")
}

/// Those of every such cluster, and those this one was started with.
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

/// What the server says of itself in `postmaster.pid`, the file `pg_ctl --wait` reads.
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

/// Waits until the server takes connections (true) or has ended (false). `before` is the process id in
/// a file that an earlier server left.
fn ready(data: &Path, keeper: &mut Child, before: Option<&str>) -> Result<bool> {
    let until = Instant::now() + START_LIMIT;
    while Instant::now() < until {
        if postmaster(data).is_some_and(|now| now.ready && Some(now.pid.as_str()) != before) {
            return Ok(true);
        }
        if keeper.try_wait().while_("wait for PostgreSQL")?.is_some() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

fn did_not_start(data: &Path) -> Error {
    let log = fs::read_to_string(data.join("server.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(10)..].join("\n");
    Error::Failed(format!("PostgreSQL did not start. Its last words:\n{last}"))
}

/// Creates a file only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let doing = format!("write {}", path.display());
    // Created anew, never opened: in a folder open to others the name may be a planted link.
    let _ = fs::remove_file(path);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).while_(&doing)?;
    file.write_all(text.as_bytes()).while_(doing)
}

fn random_password() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    crate::hex(&bytes)
}

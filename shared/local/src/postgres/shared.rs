//! The cluster that all tests of a workspace share.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::cluster::{self, Cluster, Purpose, write_private};
use super::{Account, Binaries};
use crate::error::{ErrorContext, Result};
use crate::workspace;

/// The files of the shared cluster, under `target/tests/`.
struct Files {
    /// Held during lookup and start, so that only the first of several test processes starts the cluster.
    lock: PathBuf,
    /// Contains the running cluster's URL.
    url: PathBuf,
    data: PathBuf,
    /// Touched by each process that uses the cluster; see `supervise.sh`. Next to the data, where the
    /// supervisor has access.
    usage_file: PathBuf,
}

impl Files {
    fn for_workspace() -> Result<Self> {
        Self::in_dir(&workspace::target()?.join("tests"))
    }

    fn in_dir(dir: &Path) -> Result<Self> {
        let data = cluster::data_dir(&dir.join("postgres"), Account::unprivileged()?)?;
        Ok(Self {
            lock: dir.join("postgres.lock"),
            url: dir.join("postgres.url"),
            usage_file: data.with_extension("used"),
            data,
        })
    }

    fn lock(&self) -> Result<File> {
        let lock = File::create(&self.lock).context(format!("open {}", self.lock.display()))?;
        lock.lock().context(format!("lock {}", self.lock.display()))?;
        Ok(lock)
    }

    fn ensure_running(&self) -> Result<String> {
        touch(&self.usage_file)?;
        if let Some(url) = self.running_url()? {
            return Ok(url);
        }
        let _ = fs::remove_file(&self.url);
        let purpose = Purpose::Tests { usage_file: self.usage_file.clone() };
        let cluster = Cluster::start_for(&self.data, purpose)?;
        let url = cluster.url();
        write_private(&self.url, &url)?;
        Ok(url)
    }

    /// Returns the cluster's URL if it is running and not about to stop.
    fn running_url(&self) -> Result<Option<String>> {
        let Ok(url) = fs::read_to_string(&self.url) else {
            return Ok(None);
        };
        let Some(port) = port_of(&url) else {
            return Ok(None);
        };
        let stopping = self.data.join("stopping").exists();
        let running = !stopping && cluster::is_server_running(&self.data)? && is_postgres(port);
        Ok(running.then_some(url))
    }
}

/// Returns the URL of the cluster that this workspace's tests share. Starts the cluster if it is not running,
/// and replaces a killed one, because test data need not survive. The cluster runs at least until this
/// process ends.
///
/// Blocks for about two seconds if it has to start the cluster.
///
/// # Errors
/// If PostgreSQL is missing or does not start.
pub fn shared_test_cluster() -> Result<String> {
    static URL: OnceLock<String> = OnceLock::new();
    if let Some(url) = URL.get() {
        return Ok(url.clone());
    }
    let files = Files::for_workspace()?;
    let _lock = files.lock()?;
    let url = files.ensure_running()?;
    if URL.set(url.clone()).is_ok() {
        spawn_usage_updates(files.usage_file);
    }
    Ok(url)
}

/// Stops the shared cluster immediately instead of ten minutes after the last test.
///
/// # Errors
/// If its files cannot be removed.
pub fn stop_shared_test_cluster() -> Result<()> {
    let files = Files::for_workspace()?;
    let _lock = files.lock()?;
    let _ = fs::remove_file(&files.url);
    if let Some(binaries) = Binaries::find() {
        cluster::remove_cluster(&files.data, &binaries, Account::unprivileged()?)?;
    }
    let _ = fs::remove_file(&files.usage_file);
    Ok(())
}

fn port_of(url: &str) -> Option<u16> {
    url.rsplit_once(':')?.1.split('/').next()?.parse().ok()
}

/// Returns whether a PostgreSQL server listens on the port. Sends an SSLRequest, which the server answers
/// with one byte, `N` or `S`.
fn is_postgres(port: u16) -> bool {
    let ask = || -> std::io::Result<u8> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    };
    matches!(ask(), Ok(b'N' | b'S'))
}

fn touch(usage_file: &Path) -> Result<()> {
    fs::write(usage_file, "").context(format!("touch {}", usage_file.display()))
}

/// Touches the usage file every minute, because a benchmark can run for more than ten minutes.
fn spawn_usage_updates(usage_file: PathBuf) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(60));
            // Fails only after `cargo clean` removed the folder, and then the cluster should stop.
            let _ = touch(&usage_file);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    fn eventually(what: &str, holds: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < until, "{what} did not happen within 30 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn the_shared_cluster_starts_once_is_replaced_when_killed_and_stops_when_unused() {
        let name = format!("shared-{}", std::process::id());
        let dir = workspace::target().unwrap().join("tests").join(name);
        fs::create_dir_all(&dir).unwrap();
        let files = Files::in_dir(&dir).unwrap();

        let first = files.ensure_running().unwrap();
        assert_eq!(files.ensure_running().unwrap(), first);

        let postmaster = fs::read_to_string(files.data.join("postmaster.pid")).unwrap();
        let pid = postmaster.lines().next().unwrap();
        assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
        eventually("the server's end", || !is_postgres(port_of(&first).unwrap()));
        let second = files.ensure_running().unwrap();
        assert!(is_postgres(port_of(&second).unwrap()));

        fs::remove_file(&files.usage_file).unwrap();
        eventually("the end of the unused server", || !is_postgres(port_of(&second).unwrap()));
        eventually("the removal of its data", || !files.data.join("PG_VERSION").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}

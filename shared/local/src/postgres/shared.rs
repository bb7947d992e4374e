//! The one cluster that all tests of a workspace share.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::cluster::{self, Cluster, Purpose, write_private};
use super::{Account, Binaries};
use crate::error::{Result, While};
use crate::workspace;

/// The files of the shared cluster, under `target/tests/`.
struct Files {
    /// Held while the cluster is looked for or started: the first of many test processes starts it.
    lock: PathBuf,
    /// The URL and nothing else, once it runs.
    url: PathBuf,
    data: PathBuf,
    /// Touched by every process that uses it; see `keep.sh`. Beside the data, where the keeper can see it.
    used: PathBuf,
}

impl Files {
    fn of_this_workspace() -> Result<Self> {
        Self::under(&workspace::target()?.join("tests"))
    }

    fn under(dir: &Path) -> Result<Self> {
        let data = cluster::data_dir(&dir.join("postgres"), Account::unprivileged()?)?;
        Ok(Self {
            lock: dir.join("postgres.lock"),
            url: dir.join("postgres.url"),
            used: data.with_extension("used"),
            data,
        })
    }

    fn locked(&self) -> Result<File> {
        let lock = File::create(&self.lock).while_(format!("open {}", self.lock.display()))?;
        lock.lock().while_(format!("lock {}", self.lock.display()))?;
        Ok(lock)
    }

    fn running_or_started(&self) -> Result<String> {
        touch(&self.used)?;
        if let Some(url) = self.running()? {
            return Ok(url);
        }
        let _ = fs::remove_file(&self.url);
        let purpose = Purpose::Tests { used: self.used.clone() };
        let cluster = Cluster::start_for(&self.data, purpose)?;
        let url = cluster.url();
        write_private(&self.url, &url)?;
        Ok(url)
    }

    /// The URL of the cluster, if it runs and is not about to stop.
    fn running(&self) -> Result<Option<String>> {
        let Ok(url) = fs::read_to_string(&self.url) else {
            return Ok(None);
        };
        let Some(port) = port_of(&url) else {
            return Ok(None);
        };
        let stopping = self.data.join("nobody-left").exists();
        let running = !stopping && cluster::server_runs(&self.data)? && is_postgres(port);
        Ok(running.then_some(url))
    }
}

/// The URL of the cluster the tests of this workspace share, started if it does not run (a killed one
/// is replaced: its data is worthless). It stays while this process lives.
///
/// Blocks for about two seconds when it is the first.
///
/// # Errors
/// When PostgreSQL is missing or does not start.
pub fn shared_test_cluster() -> Result<String> {
    static URL: OnceLock<String> = OnceLock::new();
    if let Some(url) = URL.get() {
        return Ok(url.clone());
    }
    let files = Files::of_this_workspace()?;
    let _lock = files.locked()?;
    let url = files.running_or_started()?;
    if URL.set(url.clone()).is_ok() {
        keep_in_use(files.used);
    }
    Ok(url)
}

/// Stops the shared cluster now, if it runs, instead of ten minutes after the last test.
///
/// # Errors
/// When its files cannot be removed.
pub fn stop_shared_test_cluster() -> Result<()> {
    let files = Files::of_this_workspace()?;
    let _lock = files.locked()?;
    let _ = fs::remove_file(&files.url);
    if let Some(binaries) = Binaries::find() {
        cluster::discard(&files.data, &binaries, Account::unprivileged()?)?;
    }
    let _ = fs::remove_file(&files.used);
    Ok(())
}

fn port_of(url: &str) -> Option<u16> {
    url.rsplit_once(':')?.1.split('/').next()?.parse().ok()
}

/// Asks for TLS, as every client may (PostgreSQL protocol, SSLRequest): the answer is one letter.
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

fn touch(used: &Path) -> Result<()> {
    fs::write(used, "").while_(format!("touch {}", used.display()))
}

/// A benchmark may run for longer than the keeper waits, without a new database.
fn keep_in_use(used: PathBuf) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(60));
            // The folder is gone only after `cargo clean`, and then so should the cluster be.
            let _ = touch(&used);
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
            assert!(Instant::now() < until, "{what} did not come about");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn is_started_once_replaced_when_killed_and_ends_when_nobody_is_left() {
        let name = format!("shared-{}", std::process::id());
        let dir = workspace::target().unwrap().join("tests").join(name);
        fs::create_dir_all(&dir).unwrap();
        let files = Files::under(&dir).unwrap();

        let first = files.running_or_started().unwrap();
        assert_eq!(files.running_or_started().unwrap(), first);

        let postmaster = fs::read_to_string(files.data.join("postmaster.pid")).unwrap();
        let pid = postmaster.lines().next().unwrap();
        assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
        eventually("the server's end", || !is_postgres(port_of(&first).unwrap()));
        let second = files.running_or_started().unwrap();
        assert!(is_postgres(port_of(&second).unwrap()));

        fs::remove_file(&files.used).unwrap();
        eventually("the end of the unused server", || !is_postgres(port_of(&second).unwrap()));
        eventually("the removal of its data", || !files.data.join("PG_VERSION").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}

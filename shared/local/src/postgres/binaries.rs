//! Finds PostgreSQL's server programs, or installs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::is_root;
use crate::error::{Error, ErrorContext, Result};

/// A folder with `initdb`, `postgres` and `pg_ctl` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Finds the programs on this machine. If they are missing, installs them with `apt-get`, if that exists
    /// and the current user is root.
    ///
    /// # Errors
    /// [`Error::Missing`], with the command that installs them.
    pub(crate) fn find_or_install() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        if is_root()? && on_path("apt-get") {
            install_with_apt()?;
        }
        Self::find().ok_or_else(missing)
    }

    /// Finds the programs on `PATH`, else in `pg_config`'s folder, else the newest in the folders that
    /// distributions use outside of `PATH`.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(pg_config_dir())
            .chain(versioned_dirs("/usr/lib/postgresql", "", "bin"))
            .chain(versioned_dirs("/usr", "pgsql-", "bin"))
            .chain(versioned_dirs("/opt/homebrew/opt", "postgresql@", "bin"))
            .find_map(|dir| Self::in_folder(&dir))
    }

    /// Resolves links first, because distributions link only some programs into `PATH`; the real folder has
    /// all.
    fn in_folder(dir: &Path) -> Option<Self> {
        let real = dir.join("initdb").canonicalize().ok()?;
        let dir = real.parent()?.to_path_buf();
        ["initdb", "postgres", "pg_ctl"].iter().all(|name| dir.join(name).is_file()).then_some(Self(dir))
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn pg_config_dir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Returns the folders `parent/<prefix><version>/<leaf>`, newest version first.
fn versioned_dirs(parent: &str, prefix: &str, leaf: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join(leaf)))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn install_with_apt() -> Result<()> {
    eprintln!("PostgreSQL is missing; installing it (apt-get install -y postgresql)");
    // A fresh container has no package lists, so the first attempt can fail only because of that.
    if apt(&["install", "-y", "--no-install-recommends", "postgresql"])? {
        return Ok(());
    }
    if apt(&["update"])? && apt(&["install", "-y", "--no-install-recommends", "postgresql"])? {
        return Ok(());
    }
    Err(missing())
}

fn apt(arguments: &[&str]) -> Result<bool> {
    let status = Command::new("apt-get")
        .arg("-qq")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .context("run apt-get")?;
    Ok(status.success())
}

fn missing() -> Error {
    let remedy = if cfg!(target_os = "macos") {
        "brew install postgresql@17"
    } else if on_path("dnf") {
        "sudo dnf install -y postgresql-server"
    } else if on_path("apk") {
        "sudo apk add postgresql"
    } else {
        "sudo apt-get install -y postgresql"
    };
    Error::Missing {
        what: "PostgreSQL (initdb, postgres and pg_ctl, or a server's URL in DATABASE_URL)".into(),
        remedy: remedy.into(),
    }
}

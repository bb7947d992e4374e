//! Builds the function binaries with Cargo.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Error, ErrorContext, Result};

/// Builds the packages in `functions/` with these names. Cargo reports its progress on standard error.
///
/// # Errors
/// If a package is missing or Cargo fails; Cargo prints the reason.
pub fn functions(root: &Path, names: &[&str], release: bool) -> Result<BTreeMap<String, PathBuf>> {
    for name in names {
        if !root.join("functions").join(name).join("Cargo.toml").is_file() {
            return Err(Error::Failed(format!(
                "template.yaml has the function {name}, but the package functions/{name} does not exist"
            )));
        }
    }
    let built = build(root, &["--bins"], release)?;
    match names.iter().find(|name| !built.contains_key(**name)) {
        Some(name) => Err(Error::Failed(format!("functions/{name} has no binary named {name}"))),
        None => Ok(built),
    }
}

/// Builds one example of the workspace with the release profile.
///
/// # Errors
/// If the example does not exist or Cargo fails.
pub fn example(root: &Path, name: &str) -> Result<PathBuf> {
    let mut built = build(root, &["--example", name], true)?;
    built.remove(name).ok_or_else(|| Error::Failed(format!("the workspace has no example {name}")))
}

/// Runs `cargo build` with these targets, and returns name and path of every executable.
fn build(root: &Path, targets: &[&str], release: bool) -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = cargo(root);
    // Builds the whole workspace, as `cargo test` does. With a selection of packages, Cargo would unify
    // features differently and compile the dependencies a second time.
    cargo.args(["build", "--workspace", "--message-format", "json-render-diagnostics"]).args(targets);
    if release {
        cargo.arg("--release");
    }
    let mut build = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run cargo build")?;
    let messages = BufReader::new(build.stdout.take().expect("standard output is piped"));
    let built: BTreeMap<String, PathBuf> =
        messages.lines().map_while(std::io::Result::ok).filter_map(|line| executable(&line)).collect();
    if !build.wait().context("run cargo build")?.success() {
        return Err(Error::Failed("cargo build failed; its output above has the reason".into()));
    }
    Ok(built)
}

/// Returns a Cargo command without the package variables that `cargo run` set for this program. Build scripts
/// would see them as changed inputs, and Cargo would rebuild everything.
fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Returns name and path of the executable in one of Cargo's messages, if any.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}

//! Building the function binaries, by Cargo, as they will be deployed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Error, Result, While};

/// Builds the packages in `functions/` that have these names, Cargo's progress on standard error.
///
/// # Errors
/// When one of them is not there, or Cargo fails (it has said why).
pub fn functions(root: &Path, names: &[&str], release: bool) -> Result<BTreeMap<String, PathBuf>> {
    for name in names {
        if !root.join("functions").join(name).join("Cargo.toml").is_file() {
            return Err(Error::Failed(format!(
                "template.yaml has the function {name}, but there is no package functions/{name}"
            )));
        }
    }
    let built = build(root, &["--bins"], release)?;
    match names.iter().find(|name| !built.contains_key(**name)) {
        Some(name) => Err(Error::Failed(format!("functions/{name} has no binary of the name {name}"))),
        None => Ok(built),
    }
}

/// Builds one example of the workspace with the release profile.
///
/// # Errors
/// As [`functions`].
pub fn example(root: &Path, name: &str) -> Result<PathBuf> {
    let mut built = build(root, &["--example", name], true)?;
    built.remove(name).ok_or_else(|| Error::Failed(format!("there is no example {name}")))
}

/// Name and path of every program that Cargo builds for these arguments.
fn build(root: &Path, targets: &[&str], release: bool) -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = cargo(root);
    // The whole workspace: Cargo unifies features over what it is asked to build, so naming packages would
    // compile the dependencies once more, apart from those that `cargo test` uses.
    cargo.args(["build", "--workspace", "--message-format", "json-render-diagnostics"]).args(targets);
    if release {
        cargo.arg("--release");
    }
    let mut build = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().while_("run cargo build")?;
    let messages = BufReader::new(build.stdout.take().expect("its output is piped"));
    let built: BTreeMap<String, PathBuf> =
        messages.lines().map_while(std::io::Result::ok).filter_map(|line| executable(&line)).collect();
    if !build.wait().while_("run cargo build")?.success() {
        return Err(Error::Failed("the functions do not build".into()));
    }
    Ok(built)
}

/// Cargo itself, without what `cargo run` has told this program about its own package: build scripts
/// would take that for theirs, and everything would be built again.
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

/// Name and path of the program that one of Cargo's messages announces.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}

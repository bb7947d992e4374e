//! Where this workspace and its build output are.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The folder that holds `template.yaml` and `functions/`.
///
/// Cargo names the package it runs in `CARGO_MANIFEST_DIR`; a binary started by hand is looked for
/// upwards from the current folder, then from the binary itself.
///
/// # Errors
/// When none of them lies in the workspace.
pub fn root() -> Result<PathBuf> {
    let starts = [
        std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        std::env::current_dir().ok(),
        std::env::current_exe().ok(),
    ];
    starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .find(|dir| dir.join("template.yaml").is_file() && dir.join("functions").is_dir())
        .map(Path::to_path_buf)
        .ok_or_else(|| Error::Failed("no template.yaml here or above: run this inside the workspace".into()))
}

/// Cargo's build output, taken from where the running program lies (which also holds under
/// `CARGO_TARGET_DIR` and `--target`).
///
/// # Errors
/// When the program was not built by Cargo and the workspace cannot be found either.
pub fn target() -> Result<PathBuf> {
    let built_by_cargo = std::env::current_exe().ok().and_then(|exe| {
        // Cargo marks the top of its output with this file.
        exe.ancestors().find(|dir| dir.join(".rustc_info.json").is_file()).map(Path::to_path_buf)
    });
    match built_by_cargo {
        Some(dir) => Ok(dir),
        None => Ok(root()?.join("target")),
    }
}

//! Paths of this workspace and its build output.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Returns the folder that contains `template.yaml` and `functions/`.
///
/// Searches upwards from `CARGO_MANIFEST_DIR`, which Cargo sets, then from the current folder and from the
/// executable.
///
/// # Errors
/// If none of them is in the workspace.
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
        .ok_or_else(|| {
            Error::Failed("no template.yaml in this folder or above it; run this inside the workspace".into())
        })
}

/// Returns Cargo's target folder, derived from the executable's path, which is also correct with
/// `CARGO_TARGET_DIR` and `--target`.
///
/// # Errors
/// If Cargo did not build the program and the workspace is not found either.
pub fn target() -> Result<PathBuf> {
    let built_by_cargo = std::env::current_exe().ok().and_then(|exe| {
        // Cargo writes this file to the top of its target folder.
        exe.ancestors().find(|dir| dir.join(".rustc_info.json").is_file()).map(Path::to_path_buf)
    });
    match built_by_cargo {
        Some(dir) => Ok(dir),
        None => Ok(root()?.join("target")),
    }
}

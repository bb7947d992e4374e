//! A small disk for the evidence, which can be filled.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio_postgres::Client;

use crate::error::{Error, ErrorContext, Result};

/// A tmpfs with a tablespace for `submission_files`. Dropping it unmounts it.
pub(super) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts it, which needs root.
    ///
    /// # Errors
    /// When this machine does not let us.
    pub(super) async fn mount(client: &Client, data: &Path, megabytes: usize) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("bakeoff-storm-{}", std::process::id()));
        fs::create_dir_all(&folder).context(format!("make {}", folder.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(&folder);
        let mounted = mount.stdin(Stdio::null()).output().context("run mount")?;
        if !mounted.status.success() {
            let _ = fs::remove_dir(&folder);
            let why = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
            return Err(Error::Failed(format!("no small disk can be mounted here: {why}")));
        }
        let disk = Self { folder };
        let tablespace = disk.folder.join("tablespace");
        fs::create_dir(&tablespace).context("make the tablespace's folder")?;
        let owner = fs::metadata(data).context("look at the database's folder")?;
        chown(&tablespace, Some(owner.uid()), Some(owner.gid())).context("give the tablespace away")?;
        let create = format!("CREATE TABLESPACE storm LOCATION '{}'", tablespace.display());
        client.batch_execute(&create).await.context("make a tablespace")?;
        let moved = "ALTER TABLE submission_files SET TABLESPACE storm";
        client.batch_execute(moved).await.context("move the evidence to the small disk")?;
        Ok(disk)
    }

    /// Takes all the room there is.
    pub(super) fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast()).context("make the ballast")?;
        let zeros = vec![0; 1 << 20];
        while ballast.write_all(&zeros).is_ok() {}
        // The last page, too.
        while ballast.write_all(&[0; 512]).is_ok() {}
        Ok(())
    }

    /// Gives it back.
    pub(super) fn empty(&self) {
        let _ = fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server may still hold files there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).stdin(Stdio::null()).status();
        let _ = fs::remove_dir(&self.folder);
    }
}

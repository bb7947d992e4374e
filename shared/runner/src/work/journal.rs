//! The work folder: what survives a crash.
//!
//! ```text
//! WORK/lock                     held by the one runner that works here
//! WORK/jobs/CLAIM_ID/
//!   journal.json                the state, written before the step that it names
//!   job.json                    the claim's answer, as received
//!   config.json                 what the harness runs on
//!   harness.N.log               what its Nth start printed
//!   result.json                 the signed envelope
//!   receipt.json                the service's answer to it
//! ```
//!
//! Every file but the log is written beside its name, flushed, and renamed, and the folder is flushed after it:
//! a power cut leaves the old file or the new one.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::failure::Failure;
use crate::error::{Error, Result, While as _};

/// Where a job stands. Each state is written before its step is taken, and each step may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// A job is asked for under the claim id. Asked again, the same claim is answered.
    Claiming,
    /// The job is ours, and `job.json` is written. The harness has not been started.
    Claimed,
    /// The harness is being started, or runs, or has ended unseen.
    Running {
        /// How often it was started, this time included.
        starts: u32,
        /// When, in seconds since the epoch.
        started_at: i64,
        /// Containers of the harness's name that were there before, and are another's.
        containers_before: Vec<String>,
    },
    /// `result.json` is written and waits to be submitted.
    Finished,
    /// The attempt failed and waits to be released so.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The job waits to be handed back, no attempt counted.
    HandingBack,
    /// Nothing is left to do.
    Ended {
        /// How, in a word: `submitted`, `released`, `failed`, `cancelled`, `lost` …
        how: String,
    },
}

/// The folder in which one runner works, locked.
#[derive(Debug)]
pub struct WorkFolder {
    jobs: PathBuf,
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

/// The folder of one claim.
#[derive(Debug)]
pub struct JobFolder {
    path: PathBuf,
    /// The claim.
    pub claim_id: Uuid,
    state: State,
}

impl WorkFolder {
    /// Opens the folder, makes it where it is missing, and locks it.
    ///
    /// # Errors
    /// When another runner works in it.
    pub fn open(path: &Path) -> Result<Self> {
        let jobs = path.join("jobs");
        std::fs::create_dir_all(&jobs).while_(|| format!("create {}", jobs.display()))?;
        let lock = path.join("lock");
        let doing = || format!("lock {}", lock.display());
        let file = File::options().create(true).truncate(false).write(true).open(&lock).while_(doing)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::Failed(format!(
                    "another runner works in {}. Give this one a folder of its own: --work DIR",
                    path.display()
                )));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(error).while_(doing),
        }
        let jobs = jobs.canonicalize().while_(|| format!("find {}", jobs.display()))?;
        Ok(Self { jobs, _lock: file })
    }

    /// The jobs that a runner before this one did not end, in no particular order.
    ///
    /// # Errors
    /// When the folder cannot be read. A folder without a readable journal is no job: it was being made.
    pub fn unfinished(&self) -> Result<Vec<JobFolder>> {
        let doing = || format!("read {}", self.jobs.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.jobs).while_(doing)? {
            let path = entry.while_(doing)?.path();
            let claim_id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let state = std::fs::read(path.join("journal.json")).ok();
            let state = state.and_then(|text| serde_json::from_slice(&text).ok());
            if let (Some(claim_id), Some(state)) = (claim_id, state)
                && !matches!(state, State::Ended { .. })
            {
                found.push(JobFolder { path, claim_id, state });
            }
        }
        Ok(found)
    }

    /// Makes the folder of a claim that is about to be asked for.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create_job(&self) -> Result<JobFolder> {
        let claim_id = Uuid::new_v4();
        let path = self.jobs.join(claim_id.to_string());
        std::fs::create_dir(&path).while_(|| format!("create {}", path.display()))?;
        flush_folder(&self.jobs)?;
        let mut job = JobFolder { path, claim_id, state: State::Claiming };
        job.enter(State::Claiming)?;
        Ok(job)
    }
}

impl JobFolder {
    /// Where the job stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Writes the state down; on return it is on the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn enter(&mut self, state: State) -> Result<()> {
        let text = serde_json::to_vec(&state).map_err(|error| Error::Failed(error.to_string()))?;
        self.write("journal.json", &text)?;
        self.state = state;
        Ok(())
    }

    /// The path of a file of the job.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file of the job.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.file(name);
        std::fs::read(&path).while_(|| format!("read {}", path.display()))
    }

    /// Writes a file of the job; on return it is on the disk, whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let (path, beside) = (self.file(name), self.file(&format!("{name}.new")));
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        });
        written.while_(|| format!("write {}", path.display()))?;
        flush_folder(&self.path)
    }

    /// Removes the folder of a claim that brought no job.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.path).while_(|| format!("remove {}", self.path.display()))
    }
}

/// A rename is on the disk only once its folder is.
fn flush_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).while_(|| format!("flush {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bakeoff-journal-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn an_unfinished_job_is_found_again_and_an_ended_one_is_not() {
        let path = scratch("found");
        let folder = WorkFolder::open(&path).unwrap();
        let mut one = folder.create_job().unwrap();
        let failure = Failure { code: "oom".into(), detail: "of 24 GB".into() };
        one.enter(State::Failed { failure }).unwrap();
        folder.create_job().unwrap().enter(State::Ended { how: "submitted".into() }).unwrap();
        // A crash between the folder and its journal.
        std::fs::create_dir(path.join("jobs").join(Uuid::new_v4().to_string())).unwrap();
        let found = folder.unfinished().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].claim_id, found[0].state()), (one.claim_id, one.state()));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_folder_has_one_runner() {
        let path = scratch("lock");
        let first = WorkFolder::open(&path).unwrap();
        assert!(WorkFolder::open(&path).unwrap_err().to_string().contains("another runner"));
        drop(first);
        WorkFolder::open(&path).unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }
}

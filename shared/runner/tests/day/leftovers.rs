//! What a runner leaves behind when it is killed: its harness works on, as it should, but not after its test.

use std::path::PathBuf;

use bakeoff_runner::work::processes;
use uuid::Uuid;

/// The harnesses of the jobs in a work folder. Killed when this is dropped, also by a test that fails.
pub(crate) struct Harnesses {
    pub(crate) work: PathBuf,
}

impl Harnesses {
    /// The claims of the work folder.
    pub(crate) fn claims(&self) -> Vec<Uuid> {
        let jobs = std::fs::read_dir(self.work.join("jobs")).into_iter().flatten();
        jobs.filter_map(|job| job.ok()?.file_name().to_str()?.parse().ok()).collect()
    }
}

impl Drop for Harnesses {
    fn drop(&mut self) {
        for claim_id in self.claims() {
            processes::kill_all(claim_id);
        }
    }
}

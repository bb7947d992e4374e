//! What runners, admins and the reaper's schedule wrote down: with the database, all that the invariants are
//! judged by. Times are microseconds since the epoch; runners and database read one clock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bakeoff_core::audit_chain::Head;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::{ErrorContext, Result};

/// What a runner asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// A token.
    Register,
    /// A job.
    Claim,
    /// A longer lease.
    Heartbeat,
    /// To accept a result.
    Submit,
    /// To take a job back.
    Release,
}

/// One request of a runner and the service's answer.
#[derive(Debug, Clone, Serialize)]
pub struct Exchange {
    /// Its name.
    pub runner: String,
    /// What for.
    pub asked: Asked,
    /// The run in the path.
    pub run_id: Option<Uuid>,
    /// The claim in the body.
    pub claim_id: Option<Uuid>,
    /// When the request went out.
    pub sent: i64,
    /// When the answer was in, or the connection gone.
    pub received: i64,
    /// Of the answer; 0 if there was none.
    pub status: u16,
    /// Whether the runner was told: false for a reply that the storm dropped.
    pub heard: bool,
    /// The problem's code.
    pub code: Option<String>,
    /// The row, in a claim's or a submit's answer.
    pub queue_id: Option<Uuid>,
    /// In a claim's or a heartbeat's answer.
    pub lease_expires_at: Option<i64>,
    /// In a heartbeat's answer.
    pub directive: Option<String>,
    /// In a submit's answer.
    pub receipt: Option<String>,
    /// In a submit's answer.
    pub late: Option<bool>,
}

/// What an admin did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Enqueued a run.
    Enqueue,
    /// Allowed a key.
    Allow,
    /// Revoked a key.
    Revoke,
    /// Cancelled a run.
    Cancel,
    /// Requeued a run.
    Requeue,
}

impl Act {
    /// Its name in the audit log.
    pub fn audited_as(self) -> &'static str {
        match self {
            Self::Enqueue => "run.enqueue",
            Self::Allow => "key.add",
            Self::Revoke => "key.revoke",
            Self::Cancel => "run.cancel",
            Self::Requeue => "run.requeue",
        }
    }
}

/// One request of an admin and the service's answer.
#[derive(Debug, Clone, Serialize)]
pub struct Acted {
    /// What for.
    pub act: Act,
    /// The run or the key.
    pub subject: String,
    /// When the request went out.
    pub sent: i64,
    /// When the answer was in.
    pub received: i64,
    /// Of the answer; 0 if there was none.
    pub status: u16,
    /// How many rows it made, cancelled or requeued; 1 for a key that was added or revoked.
    pub changed: i64,
}

/// One successful run of the reaper.
#[derive(Debug, Clone, Serialize)]
pub struct ReaperRun {
    /// When it was invoked.
    pub started: i64,
    /// When it had answered.
    pub ended: i64,
    /// Whether it took nothing back, because the service itself had been away.
    pub grace: bool,
    /// Whether nothing was left to do.
    pub finished: bool,
    /// The audit log's last row as the reaper reported it.
    pub audit_head: Option<Head>,
}

/// A fault that struck.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Struck {
    /// Its kind.
    pub kind: &'static str,
    /// When.
    pub at: i64,
}

/// Everything written down.
#[derive(Debug, Default)]
pub struct Log {
    exchanges: Mutex<Vec<Exchange>>,
    acts: Mutex<Vec<Acted>>,
    reaper_runs: Mutex<Vec<ReaperRun>>,
    struck: Mutex<Vec<Struck>>,
}

/// The log of a storm that is over.
#[derive(Debug, Default, Clone)]
pub struct Story {
    /// Of runners.
    pub exchanges: Vec<Exchange>,
    /// Of admins.
    pub acts: Vec<Acted>,
    /// Of the schedule.
    pub reaper_runs: Vec<ReaperRun>,
    /// Of the storm itself; no invariant looks at it.
    pub struck: Vec<Struck>,
}

/// Now.
pub fn now() -> i64 {
    micros(OffsetDateTime::now_utc())
}

/// Microseconds since the epoch.
pub fn micros(time: OffsetDateTime) -> i64 {
    (time.unix_timestamp_nanos() / 1000) as i64
}

fn push<T>(list: &Mutex<Vec<T>>, entry: T) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
}

fn copy<T: Clone>(list: &Mutex<Vec<T>>) -> Vec<T> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Log {
    pub(super) fn exchange(&self, exchange: Exchange) {
        push(&self.exchanges, exchange);
    }

    pub(super) fn act(&self, acted: Acted) {
        push(&self.acts, acted);
    }

    pub(super) fn reaper_run(&self, run: ReaperRun) {
        push(&self.reaper_runs, run);
    }

    pub(super) fn fault(&self, kind: &'static str) {
        push(&self.struck, Struck { kind, at: now() });
    }

    pub(super) fn story(&self) -> Story {
        Story {
            exchanges: copy(&self.exchanges),
            acts: copy(&self.acts),
            reaper_runs: copy(&self.reaper_runs),
            struck: copy(&self.struck),
        }
    }
}

impl Story {
    /// How many faults of each kind struck.
    pub fn faults(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for fault in &self.struck {
            *counts.entry(fault.kind).or_default() += 1;
        }
        counts
    }

    /// Writes a file of JSON lines for each kind of entry.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        write(&folder.join("exchanges.jsonl"), &self.exchanges)?;
        write(&folder.join("acts.jsonl"), &self.acts)?;
        write(&folder.join("reaper-runs.jsonl"), &self.reaper_runs)?;
        write(&folder.join("faults.jsonl"), &self.struck)
    }
}

fn write<T: Serialize>(path: &Path, entries: &[T]) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let mut file = BufWriter::new(File::create(path).context(doing())?);
    for entry in entries {
        serde_json::to_writer(&mut file, entry).map_err(std::io::Error::other).context(doing())?;
        file.write_all(b"\n").context(doing())?;
    }
    file.flush().context(doing())
}

//! What runners, admins and faults share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::log::Log;
use super::results::Template;
use crate::client::Api;

/// How long an answer may take before a client gives up on it: longer than API Gateway waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(35);

/// The service as its clients see it, and what they agree on.
pub(super) struct World {
    pub(super) api: Api,
    pub(super) log: Log,
    pub(super) template: Template,
    pub(super) seed: u64,
    pub(super) lease_ttl: Duration,
    /// The service's signing keys.
    pub(super) keys_file: PathBuf,
    /// Faults strike while it holds.
    stormy: AtomicBool,
    /// Runners go home when it holds.
    over: AtomicBool,
    /// Requests that the network delivers later.
    pub(super) delayed: AtomicUsize,
    /// Every run that was enqueued, and whether it has one row.
    runs: Mutex<Vec<(Uuid, bool)>>,
    cancelled: Mutex<Vec<Uuid>>,
}

impl World {
    pub(super) fn new(url: &str, template: Template, seed: u64, ttl_s: u32, keys_file: PathBuf) -> Self {
        Self {
            api: Api::new(url),
            log: Log::default(),
            template,
            seed,
            lease_ttl: Duration::from_secs(ttl_s.into()),
            keys_file,
            stormy: AtomicBool::new(true),
            over: AtomicBool::new(false),
            delayed: AtomicUsize::new(0),
            runs: Mutex::default(),
            cancelled: Mutex::default(),
        }
    }

    pub(super) fn is_stormy(&self) -> bool {
        self.stormy.load(Ordering::Relaxed)
    }

    pub(super) fn calm_down(&self) {
        self.stormy.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// The key of runner number `number`.
    pub(super) fn key(&self, number: usize) -> SigningKey {
        SigningKey::from_bytes(&Sha256::digest(format!("storm {} runner {number}", self.seed)).into())
    }

    pub(super) fn enqueued(&self, run_id: Uuid, single: bool) {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).push((run_id, single));
    }

    /// A run enqueued lately, chosen by a number: only among those is there one that has not ended.
    pub(super) fn recent_run(&self, choice: u64) -> Option<(Uuid, bool)> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = &runs[runs.len().saturating_sub(80)..];
        (!recent.is_empty()).then(|| recent[(choice % recent.len() as u64) as usize])
    }

    pub(super) fn cancelled(&self, run_id: Uuid) {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).push(run_id);
    }

    /// A cancelled run that nobody has requeued.
    pub(super) fn take_cancelled(&self) -> Option<Uuid> {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

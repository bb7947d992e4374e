//! The heartbeats of one claim, from a thread of their own: a slow disk or a long upload must not stop them.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::api::{ApiError, Directive, RunnerApi};

/// After a heartbeat that got no answer the next one comes this soon: a lease lasts a few intervals only.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the service last said of the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet, or go on.
    Live,
    /// The lease ran out and the job went back to the queue. The result is still accepted while nobody has
    /// completed the row, so the work goes on.
    Lapsed,
    /// Stop: the row was cancelled, or is complete.
    Cancelled,
    /// The key is not allowed any more.
    KeyNotAllowed,
}

/// Which claim to send heartbeats for.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The run.
    pub run_id: Uuid,
    /// The row.
    pub queue_id: Uuid,
    /// The claim.
    pub claim_id: Uuid,
    /// How often.
    pub interval: Duration,
}

/// A running series of heartbeats. It ends when this is dropped; a request under way is not waited for.
#[derive(Debug)]
pub struct Heartbeats {
    verdict: Arc<Mutex<Verdict>>,
    progress: Arc<Mutex<Value>>,
    _end: Sender<()>,
}

impl Heartbeats {
    /// Starts the thread; the first heartbeat is sent at once.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(api: Arc<RunnerApi>, claim: Claim, progress: Value) -> std::io::Result<Self> {
        let verdict = Arc::new(Mutex::new(Verdict::Live));
        let progress = Arc::new(Mutex::new(progress));
        let (end, ended) = channel::<()>();
        let (said, sent) = (Arc::clone(&verdict), Arc::clone(&progress));
        let beat = move || {
            loop {
                let now = get(&sent);
                let (verdict, wait) = ask(&api, claim, &now, get(&said));
                *said.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
                if ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("heartbeat".into()).spawn(beat)?;
        Ok(Self { verdict, progress, _end: end })
    }

    /// What the service last said.
    pub fn verdict(&self) -> Verdict {
        get(&self.verdict)
    }

    /// Sets what the next heartbeat carries.
    pub fn set_progress(&self, progress: Value) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

/// Sends one heartbeat. Returns what follows for the claim, and when to send the next.
fn ask(api: &RunnerApi, claim: Claim, progress: &Value, before: Verdict) -> (Verdict, Duration) {
    let retry = RETRY_AFTER.min(claim.interval);
    match api.heartbeat(claim.run_id, claim.claim_id, progress) {
        Ok(answer) if answer.directive == Directive::Cancel => (Verdict::Cancelled, claim.interval),
        Ok(_) => (Verdict::Live, claim.interval),
        Err(error) => match error.code() {
            Some("key_not_allowed") => (Verdict::KeyNotAllowed, claim.interval),
            Some("claim_lost" | "run_finished" | "run_not_found") => (after_loss(api, claim), claim.interval),
            _ => (before, error.retry_after().unwrap_or(retry)),
        },
    }
}

/// The claim has ended: whether a result is still wanted stands in the run's rows.
fn after_loss(api: &RunnerApi, claim: Claim) -> Verdict {
    match api.status(claim.run_id) {
        Ok(status) if status.has_ended(claim.queue_id) => Verdict::Cancelled,
        Err(ApiError::Refused(problem)) if problem.code == "run_not_found" => Verdict::Cancelled,
        Err(ApiError::Refused(problem)) if problem.code == "key_not_allowed" => Verdict::KeyNotAllowed,
        _ => Verdict::Lapsed,
    }
}

fn get<T: Clone>(shared: &Mutex<T>) -> T {
    shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

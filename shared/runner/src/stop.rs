//! How far the runner is asked to stop, by Ctrl-C and the service manager.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Result, While as _};

/// How far the runner is asked to stop, from not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopLevel {
    /// Go on.
    Run,
    /// Finish the job, then stop: the first Ctrl-C.
    AfterJob,
    /// Hand the job back and stop: the second Ctrl-C, SIGTERM, SIGHUP.
    Now,
}

/// A request to stop, shared by the threads.
#[derive(Debug, Clone)]
pub struct Stop(Arc<(Mutex<StopLevel>, Condvar)>);

impl Stop {
    /// Creates one that nobody has raised.
    #[allow(clippy::new_without_default, reason = "a default request to stop reads as one")]
    pub fn new() -> Self {
        Self(Arc::new((Mutex::new(StopLevel::Run), Condvar::new())))
    }

    /// Creates one that the process's signals raise.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::new();
        let raised = stop.clone();
        let doing = || "catch signals".to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().while_(doing)?;
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).while_(doing)?;
        let mut terminate = signal(SignalKind::terminate()).while_(doing)?;
        let mut hang_up = signal(SignalKind::hangup()).while_(doing)?;
        drop(guard);
        let wait = move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => raised.raise(raised.level().next()),
                        _ = terminate.recv() => raised.raise(StopLevel::Now),
                        _ = hang_up.recv() => raised.raise(StopLevel::Now),
                    }
                }
            });
        };
        std::thread::Builder::new().name("signals".into()).spawn(wait).while_(doing)?;
        Ok(stop)
    }

    /// Raises the level; it never sinks.
    pub fn raise(&self, level: StopLevel) {
        let mut current = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *current = level.max(*current);
        self.0.1.notify_all();
    }

    /// The level.
    pub fn level(&self) -> StopLevel {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time`, or until `level` is reached; returns whether it is. Returns at once if it was reached
    /// before.
    pub fn wait(&self, time: Duration, level: StopLevel) -> bool {
        let until = Instant::now() + time;
        let mut current = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *current < level {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            current = self.0.1.wait_timeout(current, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *current >= level
    }
}

impl StopLevel {
    fn next(self) -> Self {
        match self {
            Self::Run => Self::AfterJob,
            Self::AfterJob | Self::Now => Self::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_stop_ends_the_wait_and_never_sinks() {
        let stop = Stop::new();
        let raised = stop.clone();
        let thread = std::thread::spawn(move || raised.raise(StopLevel::Now));
        assert!(stop.wait(Duration::from_secs(600), StopLevel::AfterJob));
        thread.join().unwrap();
        // Raised before the wait: a Ctrl-C between a look and the wait must not be slept over.
        assert!(stop.wait(Duration::from_secs(600), StopLevel::Now));
        stop.raise(StopLevel::AfterJob);
        assert_eq!(stop.level(), StopLevel::Now);
        assert!(!Stop::new().wait(Duration::ZERO, StopLevel::AfterJob));
    }
}

//! `work`: claims jobs, runs them, and submits their results, until it is asked to stop.
//!
//! A job is a small state machine whose state is on the disk ([`journal`]): `Worker::drive` takes the next step
//! of whichever state it finds, so that a job taken up after a crash goes the same way as a fresh one.
//!
//! ```text
//!   Claiming ──▶ Claimed ──▶ Running ──▶ Finished ──▶ Ended: submitted
//!                               │  └───▶ Failed ────▶ Ended: failed
//!                               └──────▶ HandingBack ▶ Ended: released
//! ```

pub mod config;
pub mod containers;
pub mod failure;
pub mod harness;
pub mod heartbeat;
pub mod journal;
pub mod processes;
pub mod program;
pub mod progress;
mod run;
pub mod seal;
pub mod setup;
pub mod submit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bakeoff_core::results::run_result::FailureCode;
use serde_json::json;

use self::config::MachineStanzas;
use self::failure::Failure;
use self::journal::{JobFolder, State, WorkFolder};
use self::program::Program;
use crate::api::{ApiError, Capabilities, Claimed, Job, RunnerApi};
use crate::back_off::{self, BackOff};
use crate::command_line::{Drain, WorkOptions};
use crate::error::{Error, Result, While as _};
use crate::key::RunnerKey;
use crate::report::{Report, rough};
use crate::stop::{Stop, StopLevel};

/// Between two claims that found nothing, unless the service says otherwise.
const POLL_AFTER: Duration = Duration::from_secs(15);
/// Without a job the service asks for a claim a minute; longer only of a runner that fails job after job.
const LONG_WAIT: Duration = Duration::from_secs(100);
/// After a job that ran out of memory, jobs that need as much are not asked for this long: the service would
/// hand the same job out again as soon as its retry is due.
const SMALLER_JOBS_FOR: Duration = Duration::from_secs(30 * 60);

/// A runner at work.
struct Worker<'a> {
    options: &'a WorkOptions,
    api: Arc<RunnerApi>,
    key: RunnerKey,
    key_path: std::path::PathBuf,
    runner_id: String,
    program: Program,
    machine: MachineStanzas,
    folder: WorkFolder,
    report: Report,
    stop: Stop,
    began: Instant,
    jobs_done: u32,
    /// Whether it was said that there is no job, since the last one.
    said_idle: bool,
    smaller_jobs: Option<SmallerJobs>,
}

/// A limit on what is asked for, after a job ran out of memory.
struct SmallerJobs {
    vram_gb: f64,
    until: Instant,
}

/// Runs `bakeoff-runner work`.
///
/// # Errors
/// When the runner cannot work on: its key is not allowed, a file cannot be written, the program cannot be
/// started. A job that fails is no error.
pub fn work(options: &WorkOptions) -> Result<()> {
    let report = Report::new(options.json);
    let prepared = setup::prepare(options, &report)?;
    if options.dry_run {
        return prepared.describe(options, &report);
    }
    let stop = Stop::on_signals()?;
    let mut worker = prepared.into_worker(options, report, stop)?;
    if !worker.register()? {
        return Ok(());
    }
    worker.take_up_unfinished()?;
    worker.work()
}

impl Worker<'_> {
    /// Registers; false when asked to stop first.
    fn register(&mut self) -> Result<bool> {
        let registered = self.patiently("register", StopLevel::AfterJob, |api| api.register())?;
        let Some(registered) = registered else { return Ok(false) };
        self.report.step(
            "registered",
            &format!("registered as {} at {}", registered.runner_id, self.options.api),
            json!({ "runner_id": registered.runner_id }),
        );
        if !registered.unknown_quantizations.is_empty() {
            let names = registered.unknown_quantizations.join(", ");
            self.report.step(
                "warning",
                &format!("the queue does not know these quantizations, and has no jobs for them: {names}"),
                json!({ "unknown_quantizations": registered.unknown_quantizations }),
            );
        }
        self.runner_id = registered.runner_id;
        Ok(true)
    }

    /// Ends what a runner before this one began. A claim that may have been made is asked for again later.
    fn take_up_unfinished(&mut self) -> Result<()> {
        for mut job in self.folder.unfinished()? {
            if *job.state() != State::Claiming {
                let text = format!("taking up claim {}, which a runner before this one began", job.claim_id);
                self.report.step(
                    "taken_up",
                    &text,
                    json!({ "claim_id": job.claim_id, "state": job.state() }),
                );
                self.drive(&mut job)?;
                self.jobs_done += 1;
            }
        }
        Ok(())
    }

    /// Claims and runs one job after another.
    fn work(&mut self) -> Result<()> {
        let mut asked_before =
            self.folder.unfinished()?.into_iter().filter(|job| *job.state() == State::Claiming);
        let mut next = asked_before.next();
        drop(asked_before);
        while self.may_take_more() {
            let mut job = match next.take() {
                Some(job) => job,
                None => self.folder.create_job()?,
            };
            let wait = self.ask(&mut job)?;
            if *job.state() != State::Claiming {
                self.drive(&mut job)?;
                self.jobs_done += 1;
            } else if self.options.once && wait.is_some() {
                self.report.step("idle", "nothing to do", json!({}));
                return job.remove();
            } else if let Some(wait) = wait {
                self.report_idle(wait);
                self.wait(wait);
                next = Some(job);
            }
        }
        // A claim that was never answered stays: the next runner asks for it again.
        self.report.step("stopped", "stopped", json!({ "jobs": self.jobs_done }));
        Ok(())
    }

    fn may_take_more(&self) -> bool {
        let drained = match self.options.drain_after {
            Some(Drain::Jobs(jobs)) => self.jobs_done >= jobs,
            Some(Drain::Time(time)) => self.began.elapsed() >= time,
            None => false,
        };
        let once = self.options.once && self.jobs_done > 0;
        self.stop.level() == StopLevel::Run && !drained && !once
    }

    /// Says once that there is no job, and again when the next claim is far off: a terminal that stays silent
    /// looks like a runner that hangs.
    fn report_idle(&mut self, wait: Duration) {
        if self.said_idle && wait < LONG_WAIT {
            return;
        }
        self.said_idle = true;
        let why = match wait < LONG_WAIT {
            true => "no job for this machine",
            false => "no job for a while: the queue holds a runner back whose jobs fail in a row",
        };
        let text = format!("{why}; asking again in {}", rough(wait));
        self.report.step("idle", &text, json!({ "wait_s": wait.as_secs() }));
    }

    fn wait(&self, time: Duration) {
        let left = match self.options.drain_after {
            Some(Drain::Time(limit)) => limit.saturating_sub(self.began.elapsed()),
            _ => time,
        };
        self.stop.wait(time.min(left), StopLevel::AfterJob);
    }

    /// Asks for a job. Returns when to ask again if there is none; `None` with the state still Claiming when
    /// asked to stop, or when the claim id is spent.
    fn ask(&mut self, job: &mut JobFolder) -> Result<Option<Duration>> {
        let claim_id = job.claim_id;
        let capabilities = self.capabilities_now();
        let asked =
            self.patiently("claim", StopLevel::AfterJob, |api| api.claim(claim_id, capabilities.as_ref()));
        match asked {
            Ok(None) => Ok(None),
            Ok(Some(Claimed::Nothing { retry_after })) => {
                Ok(Some(retry_after.unwrap_or_else(|| BackOff::default().next_wait(Some(POLL_AFTER)))))
            }
            Ok(Some(Claimed::Job { job: claimed, text })) => {
                job.write("job.json", text.as_bytes())?;
                job.enter(State::Claimed)?;
                self.report_claimed(&claimed);
                Ok(None)
            }
            // The claim was made and its answer lost, so long ago that its lease has run out since.
            Err(Error::Api(error)) if error.code() == Some("claim_lost") => {
                job.enter(State::Ended { how: "lost".into() })?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn report_claimed(&mut self, job: &Job) {
        self.said_idle = false;
        let model = job.model.as_ref();
        let name = model.map_or("no model", |model| model.name.as_str());
        let quantization = model.and_then(|model| model.quantization.as_deref()).unwrap_or_default();
        let text = format!(
            "claimed run {} (attempt {} of {}): {} {quantization}, {} tasks",
            job.run_id,
            job.attempt,
            job.max_attempts,
            name,
            job.tasks.len()
        );
        let fields = json!({ "run_id": job.run_id, "claim_id": job.claim_id, "attempt": job.attempt });
        self.report.step("claimed", &text, fields);
    }

    /// What to ask for now, if it is less than was registered.
    fn capabilities_now(&mut self) -> Option<Capabilities> {
        let smaller = self.smaller_jobs.as_ref().filter(|limit| limit.until > Instant::now());
        let Some(vram_gb) = smaller.map(|limit| limit.vram_gb) else {
            self.smaller_jobs = None;
            return None;
        };
        let all = &self.api.registration().capabilities;
        Some(Capabilities { vram_gb: vram_gb.min(all.vram_gb), ..all.clone() })
    }

    /// Takes a claimed job to its end, from wherever it stands. Returns early, with the state on the disk, when
    /// the runner is to stop now.
    fn drive(&mut self, job: &mut JobFolder) -> Result<()> {
        loop {
            let claimed = self.claimed_job(job)?;
            let goes_on = match job.state().clone() {
                State::Claiming | State::Ended { .. } => return Ok(()),
                State::Claimed => self.start(job, &claimed, 0)?,
                State::Running { .. } => self.take_up_running(job, &claimed)?,
                State::Finished => self.submit(job, &claimed)?,
                State::Failed { failure } => self.release(job, &claimed, Some(&failure))?,
                State::HandingBack => self.release(job, &claimed, None)?,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn claimed_job(&self, job: &JobFolder) -> Result<Job> {
        serde_json::from_slice(&job.read("job.json")?)
            .map_err(|error| Error::Failed(format!("{}: {error}", job.file("job.json").display())))
    }

    /// Submits the result until the service has answered.
    fn submit(&mut self, job: &mut JobFolder, claimed: &Job) -> Result<bool> {
        let request = submit::request(job.claim_id, &job.read("result.json")?)
            .while_(|| "compress the result".to_owned())?;
        let run_id = claimed.run_id;
        let answer = self.patiently("submit", StopLevel::Now, |api| api.submit(run_id, request.clone()));
        let error = match answer {
            Ok(None) => return Ok(false),
            Ok(Some(receipt)) => {
                job.write("receipt.json", receipt.as_bytes())?;
                let receipt = job.file("receipt.json");
                let text = format!("submitted run {run_id}; the receipt is {}", receipt.display());
                self.report.step("submitted", &text, json!({ "run_id": run_id, "receipt": receipt }));
                return self.end(job, "submitted");
            }
            Err(Error::Api(error)) => error,
            Err(error) => return Err(error),
        };
        match submit::verdict(&error) {
            submit::Verdict::NotWanted(why) => {
                self.report.step(
                    "not_wanted",
                    &format!("the result of run {run_id} is not wanted: {why}"),
                    json!({ "run_id": run_id }),
                );
                self.end(job, "not_wanted")
            }
            submit::Verdict::Refused(why) => {
                let failure =
                    Failure::new(FailureCode::MalformedOutput, format!("the result is refused: {why}"));
                self.fail(job, failure)
            }
            submit::Verdict::KeyNotAllowed => Err(self.key_not_allowed()),
        }
    }

    /// Writes a failed attempt down.
    fn fail(&mut self, job: &mut JobFolder, failure: Failure) -> Result<bool> {
        self.report.step(
            "failed",
            &format!("failed: {}: {}", failure.code, failure.detail),
            json!({ "failure": failure }),
        );
        job.enter(State::Failed { failure })?;
        Ok(true)
    }

    /// Releases the claim.
    fn release(&mut self, job: &mut JobFolder, claimed: &Job, failure: Option<&Failure>) -> Result<bool> {
        let (run_id, claim_id) = (claimed.run_id, job.claim_id);
        let said = failure.map(|failure| (failure.code.as_str(), failure.detail.as_str()));
        let answer = self.patiently("release", StopLevel::Now, |api| api.release(run_id, claim_id, said));
        match answer {
            Ok(None) => return Ok(false),
            Ok(Some(())) => {}
            // It has ended without us: lapsed, cancelled, completed by another.
            Err(Error::Api(error)) if !matches!(error, ApiError::Unexpected(_)) => {
                self.report.step(
                    "released",
                    &format!("run {run_id} had left us already: {error}"),
                    json!({ "run_id": run_id }),
                );
                return self.end(job, "lost");
            }
            Err(error) => return Err(error),
        }
        if failure.is_some_and(Failure::is_oom) {
            self.ask_for_smaller_jobs(claimed);
        }
        let (how, text) = match failure {
            Some(_) => ("failed", format!("reported run {run_id} as failed")),
            None => ("released", format!("handed run {run_id} back")),
        };
        self.report.step("released", &text, json!({ "run_id": run_id, "failure": failure }));
        self.end(job, how)
    }

    fn ask_for_smaller_jobs(&mut self, claimed: &Job) {
        let needed = claimed.model.as_ref().and_then(|model| model.required_vram_gb).unwrap_or(0.0);
        if needed >= 1.0 {
            let vram_gb = needed - 1.0;
            self.smaller_jobs = Some(SmallerJobs { vram_gb, until: Instant::now() + SMALLER_JOBS_FOR });
            let text = format!("asking only for jobs of up to {vram_gb} GB for the next half hour");
            self.report.step("smaller_jobs", &text, json!({ "vram_gb": vram_gb }));
        }
    }

    fn end(&self, job: &mut JobFolder, how: &str) -> Result<bool> {
        job.enter(State::Ended { how: how.to_owned() })?;
        Ok(false)
    }

    /// Sends a request until it is answered; `None` when the runner is to stop at `level` first.
    fn patiently<T>(
        &self,
        what: &str,
        level: StopLevel,
        request: impl Fn(&RunnerApi) -> std::result::Result<T, ApiError>,
    ) -> Result<Option<T>> {
        let answer = back_off::until_answered(what, (&self.stop, level), &self.report, || request(&self.api));
        answer.map_err(|error| match error.code() {
            Some("key_not_allowed") => self.key_not_allowed(),
            _ => Error::Api(error),
        })
    }

    fn key_not_allowed(&self) -> Error {
        Error::KeyNotAllowed { public_key: self.key.public_base64() }
    }
}

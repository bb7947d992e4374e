//! The part of a job in which the harness runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bakeoff_core::results::run_result::FailureCode;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::failure::Failure;
use super::harness::{Exit, Harness, LogReader};
use super::heartbeat::{Claim, Heartbeats, Verdict};
use super::journal::{JobFolder, State};
use super::progress::Progress;
use super::seal::{self, Envelope};
use super::{Worker, config, containers};
use crate::api::{Directive, Job};
use crate::error::{Error, Result, While as _};
use crate::stop::StopLevel;

/// How often the harness's end, its lines and the service's word are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A job whose harness ended unseen is started this often: one that takes the machine down with it must not do so
/// for ever.
const STARTS_MAX: u32 = 3;

impl Worker<'_> {
    /// Starts the harness and watches it to its end. Returns whether the job goes on.
    pub(super) fn start(&mut self, job: &mut JobFolder, claimed: &Job, starts_before: u32) -> Result<bool> {
        if starts_before >= STARTS_MAX {
            let detail = format!("the runner or its machine stopped {STARTS_MAX} times during this job");
            return self.fail(job, Failure::new(FailureCode::InfraError, detail));
        }
        let config = match config::of_job(claimed, &self.machine, &self.key_path, &self.runner_id) {
            Ok(config) => config,
            Err(why) => return self.fail(job, Failure::new(FailureCode::LoadFailure, why)),
        };
        job.write("config.json", &config::to_text(&config))?;
        let resume = self.write_resume(job, starts_before)?;
        let starts = starts_before + 1;
        let containers_before =
            if self.program.has_containers() { containers::existing() } else { Vec::new() };
        let started_at = OffsetDateTime::now_utc().unix_timestamp();
        job.enter(State::Running { starts, started_at, containers_before })?;
        let command =
            self.program.command(&job.file("config.json"), &job.file("written.json"), resume.as_deref());
        let harness = match Harness::start(command, job.claim_id, &job.file(&log_name(starts))) {
            Ok(harness) => harness,
            Err(source) => {
                // This machine's fault, and every job's: hand the job back and end.
                job.enter(State::HandingBack)?;
                self.release(job, claimed, None)?;
                return Err(Error::Io { doing: format!("start {:?}", self.program), source });
            }
        };
        let text = if resume.is_some() { "resumed the harness" } else { "started the harness" };
        self.report.step("started", text, json!({ "run_id": claimed.run_id, "starts": starts }));
        let total = config::cells(claimed, &config);
        self.watch(job, claimed, harness, Progress::new(total))
    }

    /// Goes on with a job whose runner was killed while its harness ran.
    pub(super) fn take_up_running(&mut self, job: &mut JobFolder, claimed: &Job) -> Result<bool> {
        let State::Running { starts, .. } = job.state().clone() else { return Ok(true) };
        let log = job.file(&log_name(starts));
        let config = job.read("config.json")?;
        let config = serde_json::from_slice(&config).map_err(|error| Error::Failed(error.to_string()))?;
        let mut progress = Progress::new(config::cells(claimed, &config));
        if log.is_file() {
            let adopted = Harness::adopt(job.claim_id, &log).while_(|| format!("read {}", log.display()))?;
            if let Some(harness) = adopted {
                self.report.step("adopted", "the harness still runs", json!({ "run_id": claimed.run_id }));
                return self.watch(job, claimed, harness, progress);
            }
            let mut lines = LogReader::open(&log).while_(|| format!("read {}", log.display()))?;
            progress.read_all(&lines.new_lines());
        }
        self.clean_up(job);
        if self.written(job, &progress).is_some_and(|path| !is_partial(&path)) {
            return self.conclude(job, Exit::Unseen, &progress);
        }
        // Nothing of it runs: before it is begun anew, the claim must still be ours.
        let (run_id, claim_id) = (claimed.run_id, job.claim_id);
        let beat = self.patiently("heartbeat", StopLevel::AfterJob, |api| {
            api.heartbeat(run_id, claim_id, &json!({ "phase": "taken up" }))
        });
        match beat {
            Ok(None) => Ok(false),
            Ok(Some(beat)) if beat.directive == Directive::Continue => self.start(job, claimed, starts),
            Ok(Some(_)) => self.end(job, "cancelled"),
            Err(Error::Api(error)) => {
                let text = format!("run {run_id} is not ours any more: {error}");
                self.report.step("lost", &text, json!({ "run_id": run_id }));
                self.end(job, "lost")
            }
            Err(error) => Err(error),
        }
    }

    /// Watches a harness until it ends or must.
    fn watch(
        &mut self,
        job: &mut JobFolder,
        claimed: &Job,
        mut harness: Harness,
        mut progress: Progress,
    ) -> Result<bool> {
        let claim = Claim {
            run_id: claimed.run_id,
            queue_id: claimed.queue_id,
            claim_id: job.claim_id,
            interval: Duration::from_secs(claimed.heartbeat_interval_s.max(1)),
        };
        let heartbeats = Heartbeats::start(self.api.clone(), claim, progress.to_json())
            .while_(|| "start the heartbeat's thread".to_owned())?;
        let mut said = Verdict::Live;
        loop {
            // Asked before the lines are read: then the last ones are there.
            let exit = harness.exit();
            if progress.read_all(&harness.new_lines()) {
                heartbeats.set_progress(progress.to_json());
                self.report.progress(&progress);
            }
            if let Some(exit) = exit {
                self.clean_up(job);
                return self.conclude(job, exit, &progress);
            }
            let verdict = heartbeats.verdict();
            if verdict == Verdict::Lapsed && said != Verdict::Lapsed {
                let text =
                    "the lease has run out; working on, since a late result counts while nobody has another";
                self.report.step("lapsed", text, json!({ "run_id": claimed.run_id }));
            }
            said = verdict;
            match verdict {
                Verdict::Live | Verdict::Lapsed => {}
                Verdict::Cancelled => {
                    self.stop_harness(job, harness, "the run was cancelled");
                    return self.end(job, "cancelled");
                }
                Verdict::KeyNotAllowed => {
                    self.stop_harness(job, harness, "the key is not allowed any more");
                    self.end(job, "key_not_allowed")?;
                    return Err(self.key_not_allowed());
                }
            }
            if self.stop.wait(TICK, StopLevel::Now) {
                self.stop_harness(job, harness, "asked to stop");
                job.enter(State::HandingBack)?;
                return Ok(true);
            }
        }
    }

    fn stop_harness(&self, job: &JobFolder, harness: Harness, why: &str) {
        self.report.step("stopping", &format!("{why}: stopping the harness"), json!({ "why": why }));
        if !harness.stop(self.options.grace) {
            self.report.step("killed", "the harness did not stop by itself and was killed", json!({}));
        }
        self.clean_up(job);
    }

    /// Ends the processes and removes the containers that the harness has left.
    fn clean_up(&self, job: &JobFolder) {
        let processes = super::processes::kill_all(job.claim_id);
        let containers = match job.state() {
            State::Running { containers_before, .. } if self.program.has_containers() => {
                containers::sweep(containers_before)
            }
            _ => 0,
        };
        if processes + containers > 0 {
            let text = format!("swept up after the harness: processes {processes}, containers {containers}");
            self.report.step("swept", &text, json!({ "processes": processes, "containers": containers }));
        }
    }

    /// The harness has ended: its result is sealed and kept, or its failure written down.
    fn conclude(&mut self, job: &mut JobFolder, exit: Exit, progress: &Progress) -> Result<bool> {
        let written = self.written(job, progress);
        let Some(path) = written.filter(|_| matches!(exit, Exit::Code(0) | Exit::Unseen)) else {
            let lines = progress.last_lines.iter().map(String::as_str);
            return self.fail(job, Failure::of_exit(exit, lines));
        };
        let written = std::fs::read(&path).while_(|| format!("read the result {}", path.display()))?;
        match seal::envelope(&written, &self.key, &self.runner_id) {
            Ok(envelope) => {
                job.write("result.json", &envelope)?;
                job.enter(State::Finished)?;
                let text = format!(
                    "finished: {} of {} cells, {} failed",
                    progress.done, progress.total, progress.failed
                );
                self.report.step("finished", &text, json!({ "cells": progress.to_json() }));
                Ok(true)
            }
            Err(why) => self.fail(job, Failure::new(FailureCode::MalformedOutput, why)),
        }
    }

    fn written(&self, job: &JobFolder, progress: &Progress) -> Option<PathBuf> {
        self.program.result_path(progress.result.as_deref(), &job.file("written.json"))
    }

    /// Writes the result of an earlier, interrupted start as the harness takes it up: without its envelope.
    fn write_resume(&self, job: &JobFolder, starts_before: u32) -> Result<Option<PathBuf>> {
        let mut progress = Progress::new(0);
        if let Ok(mut log) = LogReader::open(&job.file(&log_name(starts_before))) {
            progress.read_all(&log.new_lines());
        }
        let partial = self.written(job, &progress).filter(|path| is_partial(path));
        let Some(text) = partial.and_then(|path| std::fs::read(path).ok()) else { return Ok(None) };
        let result =
            serde_json::from_slice::<Envelope>(&text).map(|envelope| envelope.result.get().as_bytes());
        job.write("resume.json", result.unwrap_or(&text))?;
        Ok(Some(job.file("resume.json")))
    }
}

fn log_name(starts: u32) -> String {
    format!("harness.{starts}.log")
}

/// Whether a result says that its run did not get to its end.
fn is_partial(path: &Path) -> bool {
    #[derive(Default, Deserialize)]
    struct Outcome {
        run_status: Option<String>,
    }
    let text = std::fs::read(path).unwrap_or_default();
    let outcome = match serde_json::from_slice::<Envelope>(&text) {
        Ok(envelope) => serde_json::from_str(envelope.result.get()),
        Err(_) => serde_json::from_slice::<Outcome>(&text),
    };
    match outcome {
        Ok(outcome) => outcome.run_status.as_deref() == Some("incomplete"),
        // Cut off in mid-write: nothing to submit.
        Err(_) => true,
    }
}

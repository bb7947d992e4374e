//! Tests of the sandbox: a runner without a flaw passes, and each line of the table has a runner that fails it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod runner;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bakeoff_local::sandbox::{PRACTICES, Practice, Trial, Verdict, judge_in};
use bakeoff_local::stack::Options;
use bakeoff_testkit::Database;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use self::runner::{Flaw, Runner};

/// Each practice, a flaw that breaks it, and a part of what the table then says.
const COUNTERPARTS: &[(&str, Flaw, &str)] = &[
    ("corrects_its_clock", Flaw::TrustsItsOwnClock, "s after the first's, and not 40 s"),
    ("registers_again", Flaw::ReusesItsProof, "`jti` is the same"),
    ("waits_when_idle", Flaw::PollsAtOnce, "asked to wait 2s"),
    ("asks_again", Flaw::ClaimsUnderANewId, "under another `claim_id`"),
    ("comes_back", Flaw::RetriesAClaimAtOnce, "asked to wait 4s"),
    ("sends_heartbeats", Flaw::SendsHeartbeatsTooLate, "2 heartbeats in 6 s"),
    ("sends_heartbeats", Flaw::SendsTooManyHeartbeats, "one each second was asked for"),
    ("sends_heartbeats", Flaw::StopsItsHeartbeats, "a lease lasts 3 s"),
    ("repeats_lost_heartbeats", Flaw::GivesUpOnALostHeartbeat, "no heartbeat after the lost ones"),
    ("repeats_lost_heartbeats", Flaw::WaitsTooLongAfterALostHeartbeat, "a lease lasts 3 s"),
    ("renews_its_token", Flaw::KeepsAnExpiredToken, "did not register for a new token"),
    ("renews_its_token", Flaw::DropsItsJobWithItsToken, "did not go on under the same claim"),
    ("stops_on_cancel", Flaw::IgnoresCancel, "the next claim did not come"),
    ("stops_on_cancel", Flaw::SubmitsWhatIsCancelled, "submitted a result of the cancelled run"),
    ("stops_on_cancel", Flaw::ReleasesWhatIsCancelled, "released the cancelled run"),
    ("submits_late", Flaw::DropsALateResult, "the first result thrown away"),
    ("submits_late", Flaw::SubmitsLateUnderANewClaim, "not COMPLETE"),
    ("submits_again", Flaw::SubmitsOnce, "a second submit did not come"),
    ("submits_again", Flaw::ComputesAnotherResult, "the second submit is another"),
    ("submits_until_answered", Flaw::SubmitsOnce, "not COMPLETE"),
    ("submits_until_answered", Flaw::RetriesASubmitAtOnce, "asked to wait 2s"),
    ("waits_for_slow_answers", Flaw::HangsUpOnASlowAnswer, "submits while the first was being answered"),
    ("reports_failures", Flaw::InventsAFailureCode, "\"boom\""),
    ("reports_failures", Flaw::NamesNoFailure, "the failure's code is \"\""),
    ("reports_failures", Flaw::HidesAFailure, "a release did not come"),
    ("binds_its_results", Flaw::LeavesTheNonceOut, "0 of 1 results are bound"),
    ("sends_valid_requests", Flaw::SendsAnUnknownField, "not COMPLETE"),
    ("sends_valid_requests", Flaw::ChokesOnAnUnknownField, "not COMPLETE"),
    ("ends_each_job_once", Flaw::ForgetsASecondJob, "it dropped a job"),
    ("stops_when_revoked", Flaw::AsksOnWhenRevoked, "requests within 6 s"),
    ("stops_when_revoked", Flaw::SubmitsWhenRevoked, "submitted a result with the revoked key"),
];
/// So many sandboxes at a time: they wait most of the time, but each starts a dozen processes.
const AT_A_TIME: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_without_a_flaw_passes_whole() {
    let table = judge(Flaw::None, PRACTICES.iter().collect(), 90).await;
    let broken: Vec<&Verdict> = table.iter().filter(|verdict| verdict.broken.is_some()).collect();
    assert_eq!(broken, Vec::<&Verdict>::new());
    assert_eq!(table.len(), PRACTICES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_the_table_fails_a_runner_that_breaks_it() {
    let practices: BTreeSet<&str> = PRACTICES.iter().map(|practice| practice.name).collect();
    let tried: BTreeSet<&str> = COUNTERPARTS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(practices, tried);

    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut trials = JoinSet::new();
    for (name, flaw, part) in COUNTERPARTS {
        let places = Arc::clone(&places);
        trials.spawn(async move {
            let _place = places.acquire().await.unwrap();
            let practice = PRACTICES.iter().filter(|practice| practice.name == *name);
            let table = judge(*flaw, practice.collect(), 15).await;
            let broken = table[0].broken.as_deref().unwrap_or("nothing");
            (!broken.contains(part)).then(|| format!("{name}, {flaw:?}: {broken}"))
        });
    }
    let unnoticed: Vec<String> = trials.join_all().await.into_iter().flatten().collect();
    assert_eq!(unnoticed, [""; 0]);
}

/// Tries a runner with this flaw.
async fn judge(flaw: Flaw, practices: Vec<&'static Practice>, patience_s: u64) -> Vec<Verdict> {
    let database = Database::create().await;
    let stack = Options {
        port: 0,
        database_url: Some(database.owner_url().to_owned()),
        quiet: true,
        ..Options::default()
    };
    let trial = Trial { practices, random: 1, patience: Duration::from_secs(patience_s) };
    let start = |api: &str, key: &Path| {
        let work = tokio::spawn(Runner::new(api, key, flaw).work());
        Ok(Work(work.abort_handle()))
    };
    let table = judge_in(&stack, trial, start).await.unwrap();
    // The drop blocks until no backend is at work: on a thread that another trial's connection needs, for ever.
    tokio::task::spawn_blocking(move || drop(database)).await.unwrap();
    table
}

/// A runner at work, which ends when this is dropped.
struct Work(AbortHandle);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.abort();
    }
}

//! Runners that are killed, with their harness or without, and at every step.

use bakeoff_local::sandbox::proxy::{Fault, Operation};
use bakeoff_runner::work::processes;
use serde_json::{Value, json};

use crate::day::Day;

#[tokio::test(flavor = "multi_thread")]
async fn a_harness_outlives_its_runner_and_the_next_one_takes_it_up() {
    let day = Day::begin("adopted").await;
    let (hold, stanza) = day.hold("hold");
    let run_id = day.enqueue(stanza).await;
    let mut runner = day.runner(&["--once"]);
    day.until_status(run_id, "IN_PROGRESS").await;
    day.until_started(run_id).await;
    runner.kill();
    assert!(!day.children().is_empty());

    let mut next = day.runner(&["--once"]);
    day.until("the next runner", async || next.said().contains("\"adopted\"")).await;
    day.release(&hold);
    next.ended_well().await;
    assert_eq!(day.row(run_id).await, ("COMPLETE".to_owned(), 0));
    assert_eq!(day.starts(run_id), ["fresh"]);
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_written_while_no_runner_lives_is_submitted() {
    let day = Day::begin("unseen").await;
    let (hold, stanza) = day.hold("hold");
    let run_id = day.enqueue(stanza).await;
    let mut runner = day.runner(&["--once"]);
    day.until_started(run_id).await;
    runner.kill();
    // Its lease runs out too.
    day.lapse_and_reap().await;
    day.release(&hold);
    day.until("the end of the harness", async || day.children().is_empty()).await;
    day.runner(&["--once"]).ended_well().await;
    assert_eq!(day.row(run_id).await.0, "COMPLETE");
    assert_eq!(day.starts(run_id), ["fresh"]);
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_the_harness_resumes_from_what_it_had() {
    let day = Day::begin("power-cut").await;
    let run_id = day.enqueue(json!({ "do": "partial" })).await;
    let mut runner = day.runner(&["--once"]);
    let partial = async || {
        let results = std::fs::read_dir(day.folder.join("harness/results"));
        results.is_ok_and(|mut results| results.next().is_some())
    };
    day.until("a partial result", partial).await;
    power_cut(&day, &mut runner);

    day.runner(&["--once"]).ended_well().await;
    assert_eq!(day.row(run_id).await, ("COMPLETE".to_owned(), 0));
    assert_eq!(day.starts(run_id), ["fresh", "resumed"]);
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_its_machine_down_is_reported_after_three_starts() {
    let day = Day::begin("deadly").await;
    let run_id = day.enqueue(json!({ "do": "hang" })).await;
    for starts in 1..=3 {
        let mut runner = day.runner(&["--once"]);
        day.until("a start", async || day.starts(run_id).len() == starts).await;
        power_cut(&day, &mut runner);
    }
    day.runner(&["--once"]).ended_well().await;
    assert_eq!(day.row(run_id).await, ("PENDING".to_owned(), 1));
    assert_eq!(day.starts(run_id).len(), 3);
    day.end().await;
}

fn power_cut(day: &Day, runner: &mut crate::day::Runner) {
    runner.kill();
    for claim_id in day.harnesses.claims() {
        processes::kill_all(claim_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_fails_leaves_no_harness_running() {
    let day = Day::begin("failing-test").await;
    let run_id = day.enqueue(json!({ "do": "ignore_sigint" })).await;
    let runner = day.runner(&[]);
    day.until_started(run_id).await;
    let (claims, folder) = (day.harnesses.claims(), day.folder.clone());
    assert!(!day.children().is_empty());
    // As a panic drops them: the last one first.
    drop(runner);
    assert!(!day.children().is_empty());
    drop(day);
    assert_eq!(claims.into_iter().flat_map(processes::of_claim).count(), 0);
    std::fs::remove_dir_all(folder).unwrap();
}

/// When a runner is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The request does not reach the service.
    Before,
    /// The service has carried it out, and the answer is lost.
    After,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_killed_at_any_step_loses_nothing() {
    let day = Day::begin("every-step").await;
    let steps = [Operation::Register, Operation::Claim, Operation::Heartbeat, Operation::Submit];
    for (step, moment) in steps.iter().flat_map(|step| [(*step, Moment::Before), (*step, Moment::After)]) {
        let run_id = day.enqueue(json!({})).await;
        killed_at(&day, step, moment).await;
        assert_eq!(day.row(run_id).await, ("COMPLETE".to_owned(), 0), "{step:?} {moment:?}");
        let starts = day.starts(run_id);
        assert!(starts.len() <= 2, "{step:?} {moment:?}: {starts:?}");
        if step == Operation::Submit {
            assert_eq!(starts, ["fresh"], "a finished result is not computed again");
        }
    }
    for moment in [Moment::Before, Moment::After] {
        let run_id = day.enqueue(json!({ "do": "oom" })).await;
        killed_at(&day, Operation::Release, moment).await;
        assert_eq!(day.row(run_id).await, ("PENDING".to_owned(), 1), "release {moment:?}");
        assert_eq!(day.starts(run_id), ["fresh"]);
    }
    let journals = std::fs::read_dir(day.folder.join("work/jobs")).unwrap();
    let ended = journals.map(|job| std::fs::read(job.unwrap().path().join("journal.json")).unwrap());
    for journal in ended {
        assert_eq!(serde_json::from_slice::<Value>(&journal).unwrap()["state"], "ended");
    }
    day.end().await;
}

/// Runs a runner that dies at the first request of a kind, and then another to its end.
async fn killed_at(day: &Day, step: Operation, moment: Moment) {
    let (send, receive) = std::sync::mpsc::channel::<u32>();
    let mut kill = Some(move || {
        let id = receive.recv().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-KILL", &id]).status().unwrap().success());
    });
    day.proxy.direct(move |asked| match (asked.operation == step, moment) {
        (true, Moment::Before) => {
            if let Some(kill) = kill.take() {
                kill();
            }
            Fault::LoseRequest
        }
        (true, Moment::After) => match kill.take() {
            Some(kill) => Fault::LoseAnswerAnd(Box::new(kill)),
            None => Fault::None,
        },
        (false, _) => Fault::None,
    });
    let mut runner = day.runner(&["--once"]);
    send.send(runner.id()).unwrap();
    assert!(!runner.ended().await.success(), "{step:?} {moment:?}: {}", runner.said());
    day.proxy.direct(|_| Fault::None);
    let mut next = day.runner(&["--once"]);
    next.ended_well().await;
}

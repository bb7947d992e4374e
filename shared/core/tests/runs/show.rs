//! A run as an admin sees it.

use bakeoff_core::Error;
use bakeoff_core::queue::reap::reap;
use bakeoff_core::queue::release::{Failure, ReleaseRequest, release};
use bakeoff_core::queue::waiting::Cause;
use bakeoff_core::results::run_result::FailureCode;
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::evidence::{Part, evidence};
use bakeoff_core::runs::show::show;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, TERMS};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use uuid::Uuid;

const WHOLE: Part = Part { offset: 0, length: i32::MAX };

#[tokio::test]
async fn every_claim_is_told_with_its_runner_and_how_it_ended() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let other = fixture::runner(&client, "other").await;
    let run_id = fixture::enqueue_run(&client, &fixture::run()).await.run_id;

    let lapsed = fixture::claim_next(&client, &runner).await;
    fixture::expire_lease(&client, &lapsed).await;
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    let failed = fixture::claim_next(&client, &other).await;
    let failure = Failure { code: FailureCode::Oom, detail: Some("24 GB are not enough".into()) };
    let request = ReleaseRequest { claim_id: failed.claim_id, failure: Some(failure) };
    release(&client, &other.authenticated, run_id, &request).await.unwrap();
    client.batch_execute("UPDATE run_queue SET retry_after = NULL").await.unwrap();
    let returned = fixture::claim_next(&client, &other).await;
    let request = ReleaseRequest { claim_id: returned.claim_id, failure: None };
    release(&client, &other.authenticated, run_id, &request).await.unwrap();
    let revoked = fixture::claim_next(&client, &other).await;
    revoke(&client, &fixture::admin(), &other.machine.key_id(), None).await.unwrap();
    let completed = fixture::claim_next(&client, &runner).await;
    let live = show(&client, run_id).await.unwrap();
    assert_eq!((live.status.as_str(), live.rows[0].claims[4].state.as_str()), ("CLAIMED", "live"));
    assert!(live.rows[0].claims[4].lease_expires_at.is_some());
    fixture::submit_result(&client, &runner, &completed, &fixture::result(&completed)).await.unwrap();

    let run = show(&client, run_id).await.unwrap();
    assert_eq!((run.status.as_str(), run.run_status.as_deref()), ("COMPLETE", Some("complete")));
    assert_eq!(run.enqueued.as_ref().unwrap().by, fixture::admin().principal());
    assert!(run.waiting.is_none());
    let row = &run.rows[0];
    assert_eq!((row.attempt_count, row.priority), (2, 110));
    assert_eq!((row.prompt_path.as_str(), row.models[0].id.as_str()), ("prompts/plain.md", "m"));
    let claims: Vec<_> = row
        .claims
        .iter()
        .map(|claim| (claim.claim_id.unwrap(), claim.runner_id.as_str(), claim.state.as_str()))
        .collect();
    let expected = [
        (lapsed.claim_id, "bench", "lapsed"),
        (failed.claim_id, "other", "failed"),
        (returned.claim_id, "other", "released"),
        (revoked.claim_id, "other", "revoked"),
        (completed.claim_id, "bench", "completed"),
    ];
    assert_eq!(claims, expected);
    assert!(row.claims.iter().all(|claim| claim.claimed_at.is_some() && claim.claimed_at <= claim.ended_at));
    let details: Vec<_> = row.claims.iter().map(|claim| claim.detail.as_deref()).collect();
    let lapse = Some("the lease of bench expired");
    assert_eq!(details, [lapse, Some("oom: 24 GB are not enough"), None, None, None]);
}

#[tokio::test]
async fn a_result_is_told_with_its_metrics_and_its_files_byte_for_byte() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let result = fixture::result(&job);
    fixture::submit_result(&client, &runner, &job, &result).await.unwrap();

    let run = show(&client, job.run_id).await.unwrap();
    let submission = run.rows[0].submission.as_ref().unwrap();
    assert_eq!((submission.runner_id.as_str(), submission.late), ("bench", false));
    assert_eq!(
        (submission.signer.kind.as_str(), submission.signer.id.clone()),
        ("envelope", runner.machine.key_id())
    );
    assert_eq!((run.metrics.len(), run.metrics[0].score, run.metrics[0].model.as_str()), (1, Some(1.0), "m"));
    assert_eq!(run.hardware.unwrap().gpu_model.as_deref(), Some("NVIDIA GeForce RTX 4090"));

    let sent = fixture::envelope(&runner.machine, &result);
    let [file] = submission.files.as_slice() else { panic!("{:?}", submission.files) };
    let digest: String = Sha256::digest(sent.get()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        (file.name.as_str(), file.size, &file.sha256),
        ("envelope.json", sent.get().len() as i64, &digest)
    );
    let read = evidence(&client, job.run_id, "envelope.json", None, WHOLE).await.unwrap();
    assert_eq!((read.content.as_slice(), read.sha256), (sent.get().as_bytes(), digest));
    let part =
        evidence(&client, job.run_id, "envelope.json", None, Part { offset: 3, length: 5 }).await.unwrap();
    assert_eq!((part.content.as_slice(), part.size), (&sent.get().as_bytes()[3..8], read.size));
    let beyond = Part { offset: i32::MAX, length: 5 };
    assert!(evidence(&client, job.run_id, "envelope.json", None, beyond).await.unwrap().content.is_empty());
    for (run_id, name, submission_id) in [
        (job.run_id, "result.json", None),
        (Uuid::new_v4(), "envelope.json", None),
        (job.run_id, "envelope.json", Some(Uuid::new_v4())),
    ] {
        let refused = evidence(&client, run_id, name, submission_id, WHOLE).await;
        assert!(matches!(refused, Err(Error::FileNotFound)), "{refused:?}");
    }
}

#[tokio::test]
async fn of_several_submissions_one_must_be_named() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let run_id = fixture::split_run(&client).await;
    for _ in 0..2 {
        let job = fixture::claim_next(&client, &runner).await;
        fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    }
    let run = show(&client, run_id).await.unwrap();
    assert_eq!(run.status, "IN_PROGRESS");
    let refused = evidence(&client, run_id, "envelope.json", None, WHOLE).await;
    assert!(
        matches!(&refused, Err(Error::Invalid(errors)) if errors[0].pointer == "/submission_id"),
        "{refused:?}"
    );
    for submission in run.rows.iter().filter_map(|row| row.submission.as_ref()) {
        let file =
            evidence(&client, run_id, "envelope.json", Some(submission.submission_id), WHOLE).await.unwrap();
        assert_eq!(
            (file.submission_id, file.sha256),
            (submission.submission_id, submission.files[0].sha256.clone())
        );
    }
}

#[tokio::test]
async fn a_run_says_why_it_waits() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut big = fixture::run();
    big["models"] = [fixture::model("big", "q4_k_m", 110.0)].into_iter().collect();
    let big = fixture::enqueue_run(&client, &big).await.run_id;
    let waiting = async |run_id| show(&client, run_id).await.unwrap().waiting.unwrap();

    let why = waiting(big).await;
    assert_eq!((why.cause, why.capable_runners), (Cause::NoCapableRunner, 0));
    assert_eq!(why.detail, "needs 72 GB with q4_k_m; no allowed runner was seen within a week");
    let runner = fixture::runner(&client, "bench").await;
    let why = waiting(big).await;
    assert_eq!(why.detail, "needs 72 GB with q4_k_m; bench, the nearest runner, has 24 GB");
    assert_eq!(why.nearest_miss.unwrap().lacks_vram_gb, 48.0);

    let first = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    let second = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    // The big one stands before both, and one before the other.
    let why = waiting(second).await;
    assert_eq!((why.cause, why.jobs_before, why.idle_capable_runners), (Cause::JobsBefore, 2, 1));
    assert_eq!(why.capable_runner_ids, ["bench"]);
    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!(job.run_id, first);
    assert_eq!(waiting(second).await.cause, Cause::RunnersBusy);
    cancel(&client, &fixture::admin(), big, None).await.unwrap();
    assert!(show(&client, big).await.unwrap().waiting.is_none());

    let failure = Failure { code: FailureCode::Oom, detail: None };
    let request = ReleaseRequest { claim_id: job.claim_id, failure: Some(failure) };
    release(&client, &runner.authenticated, first, &request).await.unwrap();
    let why = waiting(first).await;
    assert_eq!(why.cause, Cause::Deferred);
    assert!(
        why.detail.starts_with("the last attempt failed: oom. It may be claimed again from "),
        "{}",
        why.detail
    );
    assert_eq!(waiting(second).await.cause, Cause::Next);
    revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    assert_eq!(waiting(second).await.cause, Cause::NoCapableRunner);
}

#[tokio::test]
async fn what_another_tool_inserted_is_shown_too() {
    let database = Database::create().await;
    let client = database.client().await;
    let inserted = fixture::undemanding_run(&client).await;
    let (run_id, queue_id) = (inserted.run_id, inserted.rows[0].queue_id);
    let run = show(&client, run_id).await.unwrap();
    assert!(run.enqueued.is_none());
    assert_eq!(
        (run.rows[0].queue_id, run.rows[0].models.len(), run.rows[0].required_vram_gb),
        (queue_id, 0, 0)
    );
    let unknown = show(&client, Uuid::new_v4()).await;
    assert!(matches!(unknown, Err(Error::RunNotFound)), "{unknown:?}");
}

//! Tests of a run's status, as runners see it.

use bakeoff_core::Error;
use bakeoff_core::queue::heartbeat::{HeartbeatRequest, heartbeat};
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::status::status;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn a_runs_status_follows_its_rows_and_shows_a_submission_only_to_its_runner() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let other = fixture::runner(&client, "other").await;
    let run_id = fixture::split_run(&client).await;
    let status_for = async |runner: &Runner| status(&client, &runner.authenticated, run_id).await.unwrap();

    assert_eq!(status_for(&runner).await.status, "PENDING");
    let job = fixture::claim_next(&client, &runner).await;
    let progress = HeartbeatRequest { claim_id: job.claim_id, progress: Some(json!({ "cells": 3 })) };
    heartbeat(&client, &runner.authenticated, TERMS, run_id, &progress).await.unwrap();
    let run = status_for(&runner).await;
    assert_eq!((run.status.as_str(), run.rows.len()), ("IN_PROGRESS", 3));
    let own: Vec<_> = run.rows.iter().filter(|row| row.own).collect();
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].queue_id, own[0].status.as_str()), (job.queue_id, "IN_PROGRESS"));
    assert_eq!(own[0].progress, Some(json!({ "cells": 3 })));
    assert!(status_for(&other).await.rows.iter().all(|row| !row.own));

    let accepted = fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    let submission =
        |run: bakeoff_core::runs::status::RunStatus| run.rows.into_iter().find_map(|row| row.submission);
    let own = submission(status_for(&runner).await).unwrap();
    assert_eq!(
        (own.submission_id, own.receipt, own.sha256),
        (accepted.submission_id, accepted.receipt, accepted.sha256)
    );
    assert!(!own.late);
    assert!(submission(status_for(&other).await).is_none());

    let unknown = status(&client, &runner.authenticated, Uuid::new_v4()).await;
    assert!(matches!(unknown, Err(Error::RunNotFound)), "{unknown:?}");
    revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    let refused = status(&client, &runner.authenticated, run_id).await;
    assert!(matches!(refused, Err(Error::KeyNotAllowed)), "{refused:?}");
}

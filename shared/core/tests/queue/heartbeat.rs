//! Tests of heartbeats: renewing the lease, and telling the runner of a cancel.

use bakeoff_core::Error;
use bakeoff_core::queue::claim::Job;
use bakeoff_core::queue::heartbeat::{Directive, Heartbeat, HeartbeatRequest, heartbeat};
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

async fn send_heartbeat(client: &Client, runner: &Runner, job: &Job) -> Result<Heartbeat, Error> {
    let request = HeartbeatRequest { claim_id: job.claim_id, progress: None };
    heartbeat(client, &runner.authenticated, TERMS, job.run_id, &request).await
}

async fn status(client: &Client, job: &Job) -> String {
    let row = "SELECT status FROM run_queue WHERE queue_id = $1";
    client.query_one(row, &[&job.queue_id]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_first_heartbeat_sets_in_progress_and_each_renews_the_lease() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    client.execute("UPDATE run_queue SET lease_expires_at = now() + interval '10 s'", &[]).await.unwrap();
    client.execute("UPDATE runners SET last_heartbeat = NULL, status = 'DEAD'", &[]).await.unwrap();

    let first = send_heartbeat(&client, &runner, &job).await.unwrap();
    assert_eq!(first.directive, Directive::Continue);
    assert_eq!((first.lease_expires_at.unwrap() - first.server_time).whole_seconds(), 300);
    assert_eq!(status(&client, &job).await, "IN_PROGRESS");
    let started = "SELECT started_at FROM run_queue";
    let started_at: time::OffsetDateTime = client.query_one(started, &[]).await.unwrap().get(0);
    let alive = "SELECT status = 'ACTIVE' AND last_heartbeat = $1 FROM runners";
    assert!(client.query_one(alive, &[&first.server_time]).await.unwrap().get::<_, bool>(0));

    let second = send_heartbeat(&client, &runner, &job).await.unwrap();
    assert!(second.lease_expires_at > first.lease_expires_at);
    let again: time::OffsetDateTime = client.query_one(started, &[]).await.unwrap().get(0);
    assert_eq!(again, started_at);
}

#[tokio::test]
async fn a_heartbeat_without_progress_keeps_the_previous_one() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    for (sent, kept) in [
        (Some(json!({ "cells": 3 })), json!({ "cells": 3 })),
        (None, json!({ "cells": 3 })),
        (Some(json!({ "cells": 4 })), json!({ "cells": 4 })),
    ] {
        let request = HeartbeatRequest { claim_id: job.claim_id, progress: sent };
        heartbeat(&client, &runner.authenticated, TERMS, job.run_id, &request).await.unwrap();
        let row = client.query_one("SELECT progress FROM run_queue", &[]).await.unwrap();
        assert_eq!(row.get::<_, Value>(0), kept);
    }
}

#[tokio::test]
async fn a_heartbeat_renews_an_expired_lease_before_the_reaper_ends_it() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    fixture::expire_lease(&client, &job).await;
    let renewed = send_heartbeat(&client, &runner, &job).await.unwrap();
    assert!(renewed.lease_expires_at.unwrap() > renewed.server_time);
    assert_eq!(reap(&client, TERMS, Duration::from_secs(5)).await.unwrap().returned, 0);
}

#[tokio::test]
async fn a_heartbeat_for_an_ended_or_another_runners_claim_is_claim_lost() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let other = fixture::runner(&client, "other").await;
    let lost = |answer: Result<Heartbeat, Error>| {
        assert!(matches!(answer, Err(Error::ClaimLost)), "{answer:?}");
    };
    lost(send_heartbeat(&client, &other, &job).await);
    let elsewhere = Job { run_id: Uuid::new_v4(), ..job.clone() };
    lost(send_heartbeat(&client, &runner, &elsewhere).await);
    let unknown = Job { claim_id: Uuid::new_v4(), ..job.clone() };
    lost(send_heartbeat(&client, &runner, &unknown).await);

    fixture::expire_lease(&client, &job).await;
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    lost(send_heartbeat(&client, &runner, &job).await);
    let again = fixture::claim_next(&client, &other).await;
    lost(send_heartbeat(&client, &runner, &job).await);
    fixture::submit_result(&client, &other, &again, &fixture::result(&again)).await.unwrap();
    lost(send_heartbeat(&client, &other, &again).await);
}

#[tokio::test]
async fn every_heartbeat_after_a_cancel_returns_cancel() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    send_heartbeat(&client, &runner, &job).await.unwrap();
    cancel(&client, &fixture::admin(), job.run_id, Some("not needed")).await.unwrap();
    for _ in 0..2 {
        let answer = send_heartbeat(&client, &runner, &job).await.unwrap();
        assert_eq!((answer.directive, answer.lease_expires_at), (Directive::Cancel, None));
    }
    assert_eq!(status(&client, &job).await, "CANCELLED");
}

#[tokio::test]
async fn a_heartbeat_returns_cancel_after_another_runners_late_result() {
    let database = Database::create().await;
    let client = database.client().await;
    let (slow, job) = fixture::runner_with_job(&client).await;
    let other = fixture::runner(&client, "other").await;
    fixture::expire_lease(&client, &job).await;
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    let held = fixture::claim_next(&client, &other).await;
    send_heartbeat(&client, &other, &held).await.unwrap();
    fixture::submit_result(&client, &slow, &job, &fixture::result(&job)).await.unwrap();
    assert_eq!(send_heartbeat(&client, &other, &held).await.unwrap().directive, Directive::Cancel);
}

#[tokio::test]
async fn a_heartbeat_with_a_revoked_key_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    let refused = send_heartbeat(&client, &runner, &job).await;
    assert!(matches!(refused, Err(Error::KeyNotAllowed)), "{refused:?}");
}

/// T1 (cancel) has locked the row; T2 (heartbeat) waits for it. After T1's commit, T2 must return a cancel and
/// not a lost claim.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_waited_for_a_cancel_returns_cancel() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut admin = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let transaction = admin.transaction().await.unwrap();
    cancel(transaction.client(), &fixture::admin(), job.run_id, None).await.unwrap();
    let waiting = database.client().await;
    let answer = tokio::spawn(async move { send_heartbeat(&waiting, &runner, &job).await });
    let blocked = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while client.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
    transaction.commit().await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().directive, Directive::Cancel);
}

/// No index contains the lease. Otherwise each heartbeat would leave a dead index entry in the range that claims
/// scan.
#[tokio::test]
async fn later_heartbeats_are_hot_updates() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    send_heartbeat(&client, &runner, &job).await.unwrap();
    let counters = async || {
        // The session's counters are flushed, and the cached snapshot of statistics is discarded.
        client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
        client.batch_execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
        let row = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'run_queue'";
        let row = client.query_one(row, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let (updates, hot) = counters().await;
    for _ in 0..50 {
        send_heartbeat(&client, &runner, &job).await.unwrap();
    }
    let (updates_after, hot_after) = counters().await;
    let (updates, hot) = (updates_after - updates, hot_after - hot);
    // A full page whose dead versions cannot be pruned yet costs a non-HOT update now and then. An index on the
    // lease would make all 50 non-HOT.
    assert!(updates == 50 && hot >= 45, "{hot} of {updates}");
}

#[test]
fn every_invalid_field_of_a_heartbeat_is_reported() {
    let long = json!({ "claim_id": Uuid::new_v4(), "progress": { "text": "x".repeat(2100) } });
    for (body, expected) in [
        (json!({}), vec!["/claim_id"]),
        (json!({ "claim_id": 7, "progress": [], "x": 1 }), vec!["/claim_id", "/progress", "/x"]),
        (long, vec!["/progress"]),
        (json!({ "claim_id": Uuid::new_v4(), "progress": { "a": "\0" } }), vec!["/progress"]),
    ] {
        let errors = HeartbeatRequest::parse(&body.to_string()).unwrap_err();
        let pointers: Vec<&str> = errors.iter().map(|field_error| field_error.pointer.as_str()).collect();
        assert_eq!(pointers, expected);
    }
}

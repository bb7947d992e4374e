//! The migration: on nothing, twice, twice at once, and on a database that the harness has used.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_core::migrate::{apply, has_history};
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::listing::list;
use bakeoff_core::runs::requeue::requeue;
use bakeoff_core::runs::status::status;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Machine, TERMS};
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

/// The harness's schema, as its own tools create it.
const HARNESS_SCHEMA: &str = include_str!("../../../migrations/V1__harness_schema.sql");

/// Tables, columns, constraints, indexes and functions, as text to compare.
async fn catalog(client: &Client) -> Vec<String> {
    let catalog = "
        SELECT format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
          FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL
        SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        ORDER BY 1";
    client.query(catalog, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_second_migration_changes_nothing() {
    let database = Database::create_unmigrated().await;
    let mut client = database.client().await;
    let first = apply(&mut client).await.unwrap().migrations;
    assert!(first.len() >= 2 && first[0].contains("harness_schema"), "{first:?}");
    let before = catalog(&client).await;
    assert!(apply(&mut client).await.unwrap().migrations.is_empty());
    assert_eq!(catalog(&client).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_migrations_at_once_apply_each_file_once() {
    let database = Database::create_unmigrated().await;
    let (mut one, mut other) = (database.client().await, database.client().await);
    let (a, b) = tokio::join!(apply(&mut one), apply(&mut other));
    let (a, b) = (a.unwrap().migrations, b.unwrap().migrations);
    assert!(a.is_empty() != b.is_empty(), "{a:?} {b:?}");
    let runner = fixture::runner(&one, "bench").await;
    fixture::enqueued(&one, &fixture::run()).await;
    fixture::claimed(&other, &runner).await;
}

/// Another process that gave up must not keep everybody else from migrating.
#[tokio::test]
async fn the_lock_is_given_back_also_after_a_failure() {
    let database = Database::create_unmigrated().await;
    let mut client = database.client().await;
    client.batch_execute("CREATE TABLE queue_lanes ()").await.unwrap();
    assert!(apply(&mut client).await.is_err());
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(client.query_one(held, &[]).await.unwrap().get::<_, i64>(0), 0);
    client.batch_execute("DROP TABLE queue_lanes").await.unwrap();
    apply(&mut client).await.unwrap();
}

#[tokio::test]
async fn only_a_migrated_database_has_a_history() {
    let database = Database::create_unmigrated().await;
    let mut client = database.client().await;
    assert!(!has_history(&client).await.unwrap());
    apply(&mut client).await.unwrap();
    assert!(has_history(&client).await.unwrap());
}

/// A database that the harness's own tools have worked on: rows in every state, written as they write
/// them, among them a claim without an id and ends without a time.
async fn used_by_the_harness(machine: &Machine) -> (Database, Client) {
    let database = Database::create_unmigrated().await;
    let client = database.client().await;
    client.batch_execute(HARNESS_SCHEMA).await.unwrap();
    let insert = "INSERT INTO runners (runner_id, public_key, last_heartbeat) VALUES ($1, $2, now())";
    client.execute(insert, &[&machine.name, &machine.public_key().to_base64()]).await.unwrap();
    client
        .batch_execute(
            "INSERT INTO tasks (name, natural_key_hash) VALUES ('t', 'k');
             INSERT INTO prompts (task_id, file_path, git_commit_hash) VALUES (1, 'prompts/plain.md', 'abc');
             INSERT INTO runs (run_id, submitted_at, publisher_id)
             SELECT gen_random_uuid(), now(), 'harness ' || n FROM generate_series(1, 6) AS n;
             INSERT INTO run_queue (run_id, prompt_id, status, claimed_by, claimed_at, retry_after,
                                    attempt_count)
             SELECT run_id, 1, s.status, s.claimed_by, s.claimed_at, s.retry_after, s.attempt_count
               FROM (VALUES
                   ('harness 1', 'PENDING', NULL, NULL::timestamptz, NULL::timestamptz, 0),
                   ('harness 2', 'PENDING', NULL, NULL, now() - interval '1 h', 2),
                   ('harness 3', 'CLAIMED', 'bench', now() - interval '9 days', NULL, 0),
                   ('harness 4', 'IN_PROGRESS', 'bench', now() - interval '9 days', NULL, 0),
                   ('harness 5', 'COMPLETE', 'bench', now() - interval '9 days', NULL, 0),
                   ('harness 6', 'FAILED', NULL, NULL, NULL, 5)
               ) AS s (publisher_id, status, claimed_by, claimed_at, retry_after, attempt_count)
               JOIN runs USING (publisher_id)",
        )
        .await
        .unwrap();
    (database, client)
}

async fn run_named(client: &Client, publisher_id: &str) -> Uuid {
    let run = "SELECT run_id FROM runs WHERE publisher_id = $1";
    client.query_one(run, &[&publisher_id]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_database_that_the_harness_has_used_works_as_any() {
    let machine = Machine::named("bench");
    let (_database, mut client) = used_by_the_harness(&machine).await;
    let untouched =
        "SELECT queue_id, run_id, status, claimed_by, claimed_at, completed_at, updated_at, priority
                       FROM run_queue ORDER BY queue_id";
    let before = format!("{:?}", client.query(untouched, &[]).await.unwrap());
    apply(&mut client).await.unwrap();
    assert_eq!(format!("{:?}", client.query(untouched, &[]).await.unwrap()), before);

    // The runner that the harness knew is the same one here, once its key is allowed.
    machine.allow(&client).await;
    let body = machine.registration();
    let runner = machine.register(&client, &body).await;
    let listed = list(&client, None, None, 10).await.unwrap();
    assert_eq!(listed.rows.len(), 6);

    // Both waiting rows come, the one that is due for its retry too.
    let mut claimed = [fixture::claimed(&client, &runner).await, fixture::claimed(&client, &runner).await];
    claimed.sort_by_key(|job| job.attempt);
    assert_eq!(claimed.each_ref().map(|job| job.attempt), [1, 3]);
    let prompts: serde_json::Value = serde_json::from_str(claimed[0].prompts.get()).unwrap();
    assert_eq!(prompts, serde_json::json!([{ "id": "plain", "prompt_id": 1 }]));
    let result = fixture::result(&claimed[0]);
    assert!(!fixture::submitted(&client, &runner, &claimed[0], &result).await.unwrap().late);
    fixture::lapsed(&client, &claimed[1]).await;

    // A claim of the old tools has no lease that could run out: it is left to an admin.
    let reaped = reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    assert_eq!((reaped.returned, reaped.queue.live_claims), (1, 2));
    let old = run_named(&client, "harness 3").await;
    assert_eq!(status(&client, &runner.authenticated, old).await.unwrap().status, "CLAIMED");
    assert_eq!(cancel(&client, &fixture::admin(), old, None).await.unwrap().rows_cancelled, 1);
    assert_eq!(requeue(&client, &fixture::admin(), old, None).await.unwrap().rows_requeued, 1);
    let failed = run_named(&client, "harness 6").await;
    assert_eq!(requeue(&client, &fixture::admin(), failed, None).await.unwrap().rows_requeued, 1);
    let complete = run_named(&client, "harness 5").await;
    let refused = cancel(&client, &fixture::admin(), complete, None).await;
    assert!(matches!(refused, Err(Error::RunFinished(_))), "{refused:?}");

    for _ in 0..3 {
        fixture::claimed(&client, &runner).await;
    }
    // Three of ours, and the one that an old tool marked as in progress.
    let revoked = revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    assert_eq!(revoked.claims_returned, 4);
}

#[tokio::test]
async fn rows_that_the_harness_inserts_later_are_claimable_by_themselves() {
    let machine = Machine::named("bench");
    let (_database, mut client) = used_by_the_harness(&machine).await;
    apply(&mut client).await.unwrap();
    machine.allow(&client).await;
    let body = machine.registration();
    let runner = machine.register(&client, &body).await;
    client
        .batch_execute(
            "INSERT INTO runs (run_id, submitted_at, publisher_id) VALUES (gen_random_uuid(), now(), 'later');
             INSERT INTO run_queue (run_id, prompt_id, priority, source_file)
             SELECT run_id, 1, 1, 'queue/later.json' FROM runs WHERE publisher_id = 'later'",
        )
        .await
        .unwrap();
    let job = fixture::claimed(&client, &runner).await;
    assert_eq!(job.run_id, run_named(&client, "later").await);
    fixture::submitted(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
}

#[tokio::test]
async fn an_impossible_row_is_refused() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueued(&client, &fixture::run()).await;
    let refuse = async |changes: &[&str]| {
        for change in changes {
            let refused = client.execute(&format!("UPDATE run_queue SET {change}"), &[]).await.unwrap_err();
            let code = refused.code().map(tokio_postgres::error::SqlState::code);
            assert_eq!(code, Some("23514"), "{change}: {refused:?}");
        }
    };
    refuse(&[
        "status = 'CLAIMED'",
        "status = 'IN_PROGRESS', claimed_by = 'x', claimed_at = now(), claim_id = gen_random_uuid()",
        "status = 'COMPLETE'",
        "status = 'FAILED'",
        "status = 'CANCELLED'",
        "status = 'DONE'",
        "lease_expires_at = now()",
        "claim_id = gen_random_uuid()",
        "max_runtime_s = 0",
    ])
    .await;
    fixture::claimed(&client, &runner).await;
    refuse(&[
        "lease_expires_at = NULL",
        "claim_id = NULL",
        "claimed_by = NULL",
        "claimed_at = NULL",
        "status = 'PENDING'",
        "status = 'COMPLETE', completed_at = now()",
        "status = 'FAILED', completed_at = now(), lease_expires_at = NULL",
    ])
    .await;
    // And no lane that the claim does not know of.
    let refused = client.execute("UPDATE run_queue SET lane_id = 4711", &[]).await.unwrap_err();
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("23503"));
}

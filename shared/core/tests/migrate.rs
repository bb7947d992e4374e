//! Tests of the migration: on an empty database, repeated, concurrent, and on a database used by the harness.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_core::migrate::{apply, has_history};
use bakeoff_core::queue::overview::overview;
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::listing::{Filter, list};
use bakeoff_core::runs::requeue::requeue;
use bakeoff_core::runs::status::status;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Machine, TERMS};
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

/// The harness's schema, as its own tools create it.
const HARNESS_SCHEMA: &str = include_str!("../../../migrations/V1__harness_schema.sql");

/// Returns all columns, constraints, indexes and functions as text.
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
async fn concurrent_migrations_apply_each_file_once() {
    let database = Database::create_unmigrated().await;
    let (mut one, mut other) = (database.client().await, database.client().await);
    let (a, b) = tokio::join!(apply(&mut one), apply(&mut other));
    let (a, b) = (a.unwrap().migrations, b.unwrap().migrations);
    assert!(a.is_empty() != b.is_empty(), "{a:?} {b:?}");
    let runner = fixture::runner(&one, "bench").await;
    fixture::enqueue_run(&one, &fixture::run()).await;
    fixture::claim_next(&other, &runner).await;
}

/// A data-only restore and logical replication write rows without triggers. The next migration corrects the counts.
#[tokio::test]
async fn rows_written_without_triggers_are_counted_by_the_next_migration() {
    let database = Database::create().await;
    let mut client = database.owner().await;
    fixture::split_run(&client).await;
    fixture::undemanding_run(&client).await;
    assert_eq!(apply(&mut client).await.unwrap().corrected_counts, 0);
    let ready = async |client: &Client| overview(client).await.unwrap().rows.ready;
    assert_eq!(ready(&client).await, 4);
    // Three of the four rows go, and two that wait for their retry come.
    client
        .batch_execute(
            "SET session_replication_role = replica;
             INSERT INTO run_queue (run_id, prompt_id, lane_id, retry_after)
             SELECT run_id, prompt_id, 0, now() + interval '1 h' FROM run_queue LIMIT 2;
             DELETE FROM run_queue WHERE retry_after IS NULL AND lane_id <> 0;
             SET session_replication_role = origin",
        )
        .await
        .unwrap();
    let left = "SELECT count(*) FROM run_queue WHERE retry_after IS NULL";
    let left: i64 = client.query_one(left, &[]).await.unwrap().get(0);
    assert_ne!(ready(&client).await, left);
    assert!(apply(&mut client).await.unwrap().corrected_counts > 0);
    let counted = overview(&client).await.unwrap().rows;
    assert_eq!((counted.ready, counted.deferred), (left, 2));
    assert_eq!(apply(&mut client).await.unwrap().corrected_counts, 0);
}

/// A process that failed must not block the migrations of others.
#[tokio::test]
async fn the_lock_is_released_after_a_failure() {
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

/// Creates a database that the harness's own tools have used: rows in every state as those tools write them, among
/// them live rows without claim_id, and ended rows without completed_at.
async fn create_harness_database(machine: &Machine) -> (Database, Client) {
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

async fn run_of(client: &Client, publisher_id: &str) -> Uuid {
    let run = "SELECT run_id FROM runs WHERE publisher_id = $1";
    client.query_one(run, &[&publisher_id]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_database_used_by_the_harness_migrates_and_works() {
    let machine = Machine::new("bench");
    let (_database, mut client) = create_harness_database(&machine).await;
    let untouched =
        "SELECT queue_id, run_id, status, claimed_by, claimed_at, completed_at, updated_at, priority
                       FROM run_queue ORDER BY queue_id";
    let before = format!("{:?}", client.query(untouched, &[]).await.unwrap());
    apply(&mut client).await.unwrap();
    assert_eq!(format!("{:?}", client.query(untouched, &[]).await.unwrap()), before);

    // The harness's runner registers under its old name once its key is allowed.
    machine.allow(&client).await;
    let body = machine.registration();
    let runner = machine.register(&client, &body).await;
    let listed = list(&client, &Filter::default(), None, 10).await.unwrap();
    assert_eq!(listed.rows.len(), 6);

    // Both PENDING rows are claimed, including the one whose retry_after has passed.
    let mut claimed =
        [fixture::claim_next(&client, &runner).await, fixture::claim_next(&client, &runner).await];
    claimed.sort_by_key(|job| job.attempt);
    assert_eq!(claimed.each_ref().map(|job| job.attempt), [1, 3]);
    let prompts: serde_json::Value = serde_json::from_str(claimed[0].prompts.get()).unwrap();
    assert_eq!(prompts, serde_json::json!([{ "id": "plain", "prompt_id": 1 }]));
    let result = fixture::result(&claimed[0]);
    assert!(!fixture::submit_result(&client, &runner, &claimed[0], &result).await.unwrap().late);
    fixture::expire_lease(&client, &claimed[1]).await;

    // A claim of the harness's tools has no lease, so the reaper does not end it. An admin can cancel it.
    let reaped = reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    assert_eq!((reaped.returned, reaped.queue.live_claims), (1, 2));
    let old = run_of(&client, "harness 3").await;
    assert_eq!(status(&client, &runner.authenticated, old).await.unwrap().status, "CLAIMED");
    assert_eq!(cancel(&client, &fixture::admin(), old, None).await.unwrap().rows_cancelled, 1);
    assert_eq!(requeue(&client, &fixture::admin(), old, None).await.unwrap().rows_requeued, 1);
    let failed = run_of(&client, "harness 6").await;
    assert_eq!(requeue(&client, &fixture::admin(), failed, None).await.unwrap().rows_requeued, 1);
    let complete = run_of(&client, "harness 5").await;
    let refused = cancel(&client, &fixture::admin(), complete, None).await;
    assert!(matches!(refused, Err(Error::RunFinished(_))), "{refused:?}");

    for _ in 0..3 {
        fixture::claim_next(&client, &runner).await;
    }
    // The three claims above, and the row that a harness tool set to IN_PROGRESS.
    let revoked = revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
    assert_eq!(revoked.claims_returned, 4);
}

#[tokio::test]
async fn rows_inserted_by_the_harness_after_the_migration_are_claimable() {
    let machine = Machine::new("bench");
    let (_database, mut client) = create_harness_database(&machine).await;
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
    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!(job.run_id, run_of(&client, "later").await);
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
}

#[tokio::test]
async fn the_schema_refuses_inconsistent_rows() {
    let database = Database::create().await;
    let (client, owner) = (database.client().await, database.owner().await);
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let refuse = async |changes: &[&str]| {
        for change in changes {
            let refused = owner.execute(&format!("UPDATE run_queue SET {change}"), &[]).await.unwrap_err();
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
    fixture::claim_next(&client, &runner).await;
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
    // An unknown lane is refused by the foreign key.
    let refused = owner.execute("UPDATE run_queue SET lane_id = 4711", &[]).await.unwrap_err();
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("23503"));
}

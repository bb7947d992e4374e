//! What the functions' database role may not do. That it may do what it must, every other test shows: they all
//! connect as it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::functions_role::{NAME, set_password};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

async fn assert_denied(client: &Client, sql: &str) {
    let refused = client.batch_execute(sql).await.map_err(|error| error.code().cloned());
    assert_eq!(refused, Err(Some(SqlState::INSUFFICIENT_PRIVILEGE)), "{sql}");
}

#[tokio::test]
async fn the_audit_log_and_the_evidence_cannot_be_rewritten() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    for table in ["audit_log", "submissions", "submission_files"] {
        let column = if table == "audit_log" { "actor = 'x'" } else { "submission_id = gen_random_uuid()" };
        assert_denied(&client, &format!("UPDATE {table} SET {column}")).await;
        assert_denied(&client, &format!("DELETE FROM {table}")).await;
        assert_denied(&client, &format!("TRUNCATE {table}")).await;
        assert_denied(&client, &format!("ALTER TABLE {table} DISABLE TRIGGER ALL")).await;
        assert_denied(&client, &format!("DROP TABLE {table}")).await;
        assert_denied(&client, &format!("SELECT FROM {table} FOR UPDATE")).await;
    }
    assert_denied(&client, "SET session_replication_role = replica").await;
}

#[tokio::test]
async fn the_allowlist_can_only_grow_and_be_revoked() {
    let database = Database::create().await;
    let client = database.client().await;
    fixture::runner(&client, "bench").await;
    for change in [
        "expires_at = NULL",
        "runner_id = 'another'",
        "public_key = decode(repeat('00', 32), 'hex')",
        "key_id = 'another'",
        "label = 'another'",
        "added_by = 'another'",
        "kind = 'oidc'",
    ] {
        assert_denied(&client, &format!("UPDATE allowlist SET {change}")).await;
    }
    assert_denied(&client, "DELETE FROM allowlist").await;
}

#[tokio::test]
async fn the_schema_and_the_server_are_out_of_reach() {
    let database = Database::create().await;
    let client = database.client().await;
    for sql in [
        "CREATE TABLE public.own ()",
        "CREATE SCHEMA own",
        "ALTER TABLE run_queue ADD COLUMN own integer",
        "CREATE INDEX ON run_queue (status)",
        "DROP TABLE run_queue",
        "TRUNCATE run_queue",
        "DELETE FROM run_queue",
        "DELETE FROM runs",
        "DELETE FROM runners",
        "UPDATE models SET name = 'x'",
        "UPDATE runs SET publisher_id = 'x'",
        "INSERT INTO refinery_schema_history (version) VALUES (99)",
        "CREATE OR REPLACE FUNCTION public.allowlist_admits(entry allowlist, p_runner_id text) RETURNS boolean \
         LANGUAGE sql STABLE AS 'SELECT true'",
        "CREATE FUNCTION public.own() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER own AFTER INSERT ON run_queue EXECUTE FUNCTION audit_log_is_append_only()",
        "CREATE ROLE own",
        "CREATE DATABASE own",
        "CREATE EXTENSION dblink",
        "GRANT bakeoff_functions TO pg_monitor",
        "COPY runs TO PROGRAM 'true'",
        "COPY runs FROM '/etc/passwd'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT pg_reload_conf()",
        "SELECT rolpassword FROM pg_authid",
        "ALTER SYSTEM SET work_mem = '1GB'",
    ] {
        assert_denied(&client, sql).await;
    }
    let role = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
                  FROM pg_roles WHERE rolname = current_user";
    assert!(!client.query_one(role, &[]).await.unwrap().get::<_, bool>(0));
    let user: String = client.query_one("SELECT current_user::text", &[]).await.unwrap().get(0);
    assert_eq!(user, NAME);
}

/// A privilege that an earlier version granted does not outlive the migration.
#[tokio::test]
async fn a_migration_takes_back_what_is_no_longer_granted() {
    let database = Database::create().await;
    let mut owner = database.owner().await;
    owner.batch_execute("GRANT ALL ON audit_log, runs TO bakeoff_functions").await.unwrap();
    let client = database.client().await;
    client.batch_execute("DELETE FROM runs").await.unwrap();
    bakeoff_core::migrate::apply(&mut owner).await.unwrap();
    assert_denied(&client, "DELETE FROM runs").await;
    assert_denied(&client, "DELETE FROM audit_log").await;
}

/// The rotation of the password needs no other rights than the role's own.
#[tokio::test]
async fn the_role_sets_its_own_password_and_the_server_sees_no_plain_text() {
    let database = Database::create().await;
    let (client, owner) = (database.client().await, database.owner().await);
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'bakeoff_functions'";
    // In a transaction that is rolled back: the server's other databases have the same role.
    client.batch_execute("BEGIN").await.unwrap();
    set_password(&client, "another 'password'; --").await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    let stored: String = owner.query_one(verifier, &[]).await.unwrap().get(0);
    assert!(stored.starts_with("SCRAM-SHA-256$"), "{stored}");
    drop(client);
    database.client().await;
}

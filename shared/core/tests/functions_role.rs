//! What the functions' database role may not do. That it may do what it must, every other test shows: they all
//! connect as it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::functions_role::{NAME, set_password};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// A result that was accepted, so that every statement has rows which it would change.
async fn with_a_submission() -> (Database, Client) {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    fixture::submit_result(&client, &runner, &job, &fixture::result(&job)).await.unwrap();
    fixture::enqueue_run(&client, &fixture::run()).await;
    (database, client)
}

async fn assert_denied(client: &Client, sql: &str) {
    let refused = client.batch_execute(sql).await.map_err(|error| error.code().cloned());
    assert_eq!(refused, Err(Some(SqlState::INSUFFICIENT_PRIVILEGE)), "{sql}");
}

/// Tables that are written once, and whose rows stay.
const WRITTEN_ONCE: [&str; 8] = [
    "audit_log",
    "submissions",
    "submission_files",
    "queue_jobs",
    "queue_lanes",
    "queue_labels",
    "enqueue_requests",
    "system_hardware",
];

#[tokio::test]
async fn the_audit_log_and_the_evidence_cannot_be_rewritten() {
    let (_database, client) = with_a_submission().await;
    for table in WRITTEN_ONCE {
        let column: String = client
            .query_one(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum = 2",
                &[&table],
            )
            .await
            .unwrap()
            .get(0);
        for sql in [
            format!("UPDATE {table} SET {column} = {column}"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("TRUNCATE {table} CASCADE"),
            format!("SELECT FROM {table} FOR UPDATE"),
            format!("SELECT FROM {table} FOR KEY SHARE"),
            format!("DO $$ BEGIN LOCK TABLE {table} IN EXCLUSIVE MODE; END $$"),
            format!("ALTER TABLE {table} DISABLE TRIGGER ALL"),
            format!("ALTER TABLE {table} OWNER TO {NAME}"),
            format!("CREATE RULE own AS ON INSERT TO {table} DO INSTEAD NOTHING"),
            format!("DROP TABLE {table}"),
        ] {
            assert_denied(&client, &sql).await;
        }
    }
    assert_denied(&client, "SET session_replication_role = replica").await;
}

/// An audit entry takes its id, its time and its place in the chain from the database.
#[tokio::test]
async fn an_audit_entry_cannot_be_backdated_or_put_elsewhere() {
    let (database, client) = with_a_submission().await;
    for (column, value) in [
        ("at", "now() - interval '1 day'"),
        ("audit_id", "1000"),
        ("chain_position", "1000"),
        ("previous_sha256", "sha256('')"),
    ] {
        let insert = format!(
            "INSERT INTO audit_log (actor, action, {column}) OVERRIDING SYSTEM VALUE VALUES ('x', 'x', {value})"
        );
        assert_denied(&client, &insert).await;
    }
    // A table of the writer's own under that name, which the chain's trigger must not read.
    let decoy = "CREATE TEMPORARY TABLE audit_log AS TABLE public.audit_log;
                 UPDATE audit_log SET chain_position = chain_position + 1000;
                 INSERT INTO public.audit_log (actor, action) VALUES ('x', 'x')";
    client.batch_execute(decoy).await.unwrap();
    let verified = bakeoff_core::audit_chain::verify(&database.client().await, None).await.unwrap();
    assert_eq!(verified.discrepancies, []);
    assert!(verified.rows > 1);
}

/// What identifies a row, and what an admin decided, is not a function's to change.
#[tokio::test]
async fn columns_that_no_statement_changes_cannot_be_changed() {
    let (_database, client) = with_a_submission().await;
    for (table, columns) in [
        (
            "allowlist",
            "key_id, kind, public_key, issuer, subject, repository, workflow, runner_id, label, added_by, \
             added_at, expires_at",
        ),
        ("run_queue", "queue_id, run_id, prompt_id, lane_id, max_attempts, max_runtime_s, created_at"),
        ("runners", "runner_id, public_key, registered_at"),
        ("runs", "run_id, publisher_id"),
        ("run_model_metrics", "run_id, prompt_id, model_id, trace_id"),
        ("run_hardware_metrics", "run_id"),
        ("tasks", "task_id, natural_key_hash"),
        ("past_claims", "claim_id, queue_id, runner_id, ended_by, ended_at, nonce, detail"),
        ("models", "model_id, name, model_hash"),
        ("prompts", "prompt_id, file_path, git_commit_hash"),
        ("quantization_methods", "name, vram_multiplier"),
    ] {
        for column in columns.split(", ") {
            assert_denied(&client, &format!("UPDATE {table} SET {column} = NULL")).await;
        }
    }
    for table in [
        "allowlist",
        "runners",
        "runs",
        "run_queue",
        "run_model_metrics",
        "run_hardware_metrics",
        "models",
        "creators",
        "prompts",
        "tasks",
        "reaper_state",
        "quantization_methods",
    ] {
        assert_denied(&client, &format!("DELETE FROM {table}")).await;
        assert_denied(&client, &format!("TRUNCATE {table} CASCADE")).await;
    }
    for table in ["reaper_state (only_row)", "quantization_methods (name)", "source_types (name)"] {
        assert_denied(&client, &format!("INSERT INTO {table} VALUES (NULL)")).await;
    }
}

#[tokio::test]
async fn what_no_statement_reads_cannot_be_read() {
    let (_database, client) = with_a_submission().await;
    for table in [
        "agent_traces",
        "creators",
        "interface_type",
        "refinery_schema_history",
        "schema_tables",
        "schema_tables_join",
        "schema_versions",
        "spent_proofs",
        "system_gpu_link",
        "task_categories",
        "pg_authid",
        "pg_statistic",
        "pg_subscription",
        "pg_user_mapping",
        "pg_hba_file_rules",
        "pg_file_settings",
        "pg_shmem_allocations",
    ] {
        assert_denied(&client, &format!("TABLE {table}")).await;
        assert_denied(&client, &format!("COPY (TABLE {table}) TO STDOUT")).await;
    }
}

#[tokio::test]
async fn the_schema_cannot_be_changed() {
    let (database, client) = with_a_submission().await;
    // Databases are created from a template here, which does not pass on what the migration took from everyone.
    bakeoff_core::migrate::apply(&mut database.owner().await).await.unwrap();
    for sql in [
        "CREATE TABLE public.own ()",
        "CREATE TEMPORARY TABLE own ()",
        "CREATE SCHEMA own",
        "CREATE VIEW public.own AS TABLE runs",
        "CREATE SEQUENCE public.own",
        "CREATE TYPE public.own AS ENUM ()",
        "CREATE FUNCTION public.own() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION public.allowlist_admits(entry allowlist, p_runner_id text) RETURNS boolean \
         LANGUAGE sql STABLE AS 'SELECT true'",
        "ALTER FUNCTION queue_heartbeat SECURITY DEFINER",
        "DROP FUNCTION audit_log_chain CASCADE",
        "ALTER TABLE run_queue ADD COLUMN own integer",
        "ALTER TABLE allowlist ALTER COLUMN revoked_at SET DEFAULT NULL",
        "ALTER TABLE allowlist ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE submissions DROP CONSTRAINT submissions_pkey",
        "CREATE INDEX ON run_queue (status)",
        "DROP INDEX run_queue_lane_idx",
        "DROP TABLE run_queue",
        "CREATE TRIGGER own AFTER INSERT ON run_queue EXECUTE FUNCTION audit_log_is_append_only()",
        "DROP TRIGGER audit_log_is_append_only ON audit_log",
        "DROP TRIGGER audit_log_chain ON audit_log",
        "COMMENT ON TABLE runs IS 'own'",
        "INSERT INTO refinery_schema_history (version) VALUES (99)",
        "SELECT setval('prompts_prompt_id_seq', 1)",
        "ALTER SEQUENCE audit_log_audit_id_seq RESTART",
        "CREATE EXTENSION dblink",
        "CREATE EVENT TRIGGER own ON ddl_command_start EXECUTE FUNCTION audit_log_is_append_only()",
        "CREATE PUBLICATION own FOR ALL TABLES",
    ] {
        assert_denied(&client, sql).await;
    }
}

#[tokio::test]
async fn no_other_role_and_nothing_of_the_server_is_within_reach() {
    let (database, client) = with_a_submission().await;
    let owner: String =
        database.owner().await.query_one("SELECT current_user::text", &[]).await.unwrap().get(0);
    for sql in [
        format!("SET ROLE {owner}"),
        format!("SET SESSION AUTHORIZATION {owner}"),
        format!("ALTER ROLE {owner} PASSWORD 'own'"),
        format!("GRANT {owner} TO {NAME}"),
        format!("REASSIGN OWNED BY {owner} TO {NAME}"),
        format!("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT ALL ON TABLES TO {NAME}"),
    ]
    .iter()
    .map(String::as_str)
    .chain([
        "CREATE ROLE own",
        "CREATE DATABASE own",
        "ALTER ROLE bakeoff_functions SUPERUSER",
        "ALTER ROLE bakeoff_functions CREATEROLE",
        "ALTER ROLE bakeoff_functions BYPASSRLS",
        "ALTER ROLE bakeoff_functions CONNECTION LIMIT 1",
        "ALTER ROLE ALL SET search_path = own",
        "DROP ROLE bakeoff_functions",
        "GRANT bakeoff_functions TO pg_monitor",
        "GRANT pg_read_all_data TO bakeoff_functions",
        "GRANT pg_write_all_data TO bakeoff_functions",
        "GRANT pg_execute_server_program TO bakeoff_functions",
        "GRANT pg_signal_backend TO bakeoff_functions",
        "SET ROLE pg_read_server_files",
        "SET ROLE pg_database_owner",
        "COPY runs TO PROGRAM 'true'",
        "COPY runs (run_id) FROM PROGRAM 'true'",
        "COPY runs TO '/tmp/own'",
        "COPY runs (run_id) FROM '/etc/passwd'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_read_binary_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT pg_stat_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_export(1, '/tmp/own')",
        "SELECT pg_reload_conf()",
        "SELECT pg_rotate_logfile()",
        "SELECT pg_switch_wal()",
        "SELECT pg_create_restore_point('own')",
        "SELECT pg_stat_reset()",
        "SELECT pg_create_physical_replication_slot('own')",
        "SELECT pg_replication_origin_create('own')",
        "SELECT pg_current_logfile()",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "SET log_statement = 'none'",
        "LOAD 'auto_explain'",
        "CHECKPOINT",
    ]) {
        assert_denied(&client, sql).await;
    }
    let session = database.owner().await;
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    for end in ["pg_terminate_backend", "pg_cancel_backend"] {
        assert_denied(&client, &format!("SELECT {end}({pid})")).await;
    }
    let own = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
                      EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid), rolname = current_user
                 FROM pg_roles r WHERE rolname = $1";
    let own = client.query_one(own, &[&NAME]).await.unwrap();
    assert_eq!((own.get(0), own.get(1), own.get(2)), (false, false, true));
}

/// A privilege that an earlier version granted does not outlive the migration.
#[tokio::test]
async fn a_migration_takes_back_what_is_no_longer_granted() {
    let database = Database::create().await;
    let mut owner = database.owner().await;
    let earlier = "GRANT ALL ON audit_log, runs TO bakeoff_functions;
                   GRANT UPDATE (expires_at) ON allowlist TO bakeoff_functions;
                   GRANT ALL ON SEQUENCE prompts_prompt_id_seq TO bakeoff_functions";
    owner.batch_execute(earlier).await.unwrap();
    let client = database.client().await;
    client.batch_execute("DELETE FROM runs").await.unwrap();
    bakeoff_core::migrate::apply(&mut owner).await.unwrap();
    for sql in [
        "DELETE FROM runs",
        "DELETE FROM audit_log",
        "UPDATE allowlist SET expires_at = NULL",
        "SELECT setval('prompts_prompt_id_seq', 1)",
    ] {
        assert_denied(&client, sql).await;
    }
}

#[tokio::test]
async fn a_password_reaches_the_server_as_a_verifier() {
    let database = Database::create().await;
    let mut owner = database.owner().await;
    // Rolled back: the server's other databases have the same role.
    let transaction = owner.transaction().await.unwrap();
    set_password(transaction.client(), "another 'password'; --").await.unwrap();
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'bakeoff_functions'";
    let stored: String = transaction.query_one(verifier, &[]).await.unwrap().get(0);
    assert!(stored.starts_with("SCRAM-SHA-256$") && !stored.contains("another"), "{stored}");
    transaction.rollback().await.unwrap();
    database.client().await;
}

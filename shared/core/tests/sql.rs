//! Tests of every SQL statement: it prepares, and it leaves no session state, which would pin the connection of a
//! multiplexing proxy.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_testkit::Database;
use std::fs;
use std::path::PathBuf;

fn sources(extension: &str) -> Vec<(PathBuf, String)> {
    let mut sources = Vec::new();
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                sources.push((path.clone(), fs::read_to_string(path).unwrap()));
            }
        }
    }
    sources.sort();
    assert!(sources.len() > 10, "the source folder contains the SQL files");
    sources
}

/// Returns SQL in upper case without comments and string literals, with single spaces between words.
fn normalize(sql: &str) -> String {
    let lines: Vec<&str> = sql.lines().map(|line| line.split("--").next().unwrap()).collect();
    let outside: Vec<String> = lines.join(" ").split('\'').step_by(2).map(str::to_uppercase).collect();
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    words(outside.join("''"))
}

/// Returns the first construct that changes session state. RDS Proxy and similar proxies pin such a connection to one
/// client.
fn find_session_state(sql: &str) -> Option<&'static str> {
    const SESSION: [&str; 13] = [
        "LISTEN ",
        "NOTIFY ",
        "PREPARE ",
        "DEALLOCATE ",
        "DECLARE CURSOR",
        "DISCARD ",
        "SET SESSION",
        "SET LOCAL",
        "SET_CONFIG(",
        "TEMPORARY ",
        "TEMP TABLE",
        "LOCK TABLE",
        "SETVAL(",
    ];
    let sql = normalize(sql);
    let statement_sets = sql.split(';').any(|statement| {
        let statement = statement.trim_start();
        statement.starts_with("SET ")
            || statement.starts_with("BEGIN SET ")
            || statement.starts_with("RESET ")
    });
    if statement_sets {
        return Some("SET");
    }
    // Only the pg_advisory_xact_lock functions release their lock at the end of the transaction.
    let locks = ["PG_ADVISORY_LOCK", "PG_TRY_ADVISORY_LOCK", "PG_ADVISORY_UNLOCK"];
    SESSION.into_iter().chain(locks).find(|word| sql.contains(word))
}

#[test]
fn no_statement_on_a_request_path_pins_its_connection() {
    for (path, sql) in sources("sql") {
        assert_eq!(find_session_state(&sql), None, "{}", path.display());
    }
    // SQL literals in Rust code. Migrations are excluded, because they use a connection of their own.
    for (path, code) in sources("rs") {
        if path.file_name().is_some_and(|name| name == "migrate.rs") {
            continue;
        }
        for literal in code.split('"').skip(1).step_by(2).filter(|text| text.contains("SELECT")) {
            assert_eq!(find_session_state(literal), None, "{}", path.display());
        }
    }
}

#[test]
fn statements_with_session_state_are_detected() {
    for sql in [
        "SET statement_timeout = 1",
        "SELECT 1; set jit = off",
        "listen x",
        "SELECT pg_advisory_lock(1)",
        "CREATE TEMP TABLE t ()",
        "CREATE\n TEMPORARY\tTABLE t ()",
        "SELECT set_config('jit', 'off', true)",
        "PREPARE p AS SELECT 1",
    ] {
        assert!(find_session_state(sql).is_some(), "{sql}");
    }
    for sql in [
        "UPDATE t SET x = 1",
        "SELECT pg_advisory_xact_lock_shared(1)",
        "SELECT 'SET x; LISTEN '  -- SET; LISTEN y",
        "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET x = 2",
    ] {
        assert_eq!(find_session_state(sql), None, "{sql}");
    }
}

/// The listed types are those that the operation sends, for statements whose parameter types Postgres cannot infer.
#[tokio::test]
async fn every_statement_prepares() {
    use tokio_postgres::types::Type;
    let database = Database::create().await;
    let client = database.client().await;
    let (text, uuid, int4, int8) = (Type::TEXT, Type::UUID, Type::INT4, Type::INT8);
    for (path, sql) in sources("sql") {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if sql.contains("CREATE OR REPLACE FUNCTION") || name == "functions_role" {
            // Applied by the migration; checked below.
            continue;
        }
        let types = match name.as_str() {
            "audit_refused" => vec![text.clone(); 5],
            "cancel" | "requeue" => vec![uuid.clone(), text.clone(), text.clone()],
            "reap_prune" => vec![int4.clone(), int4.clone(), int4.clone()],
            "allowlist_list" => vec![int8.clone(), int4.clone()],
            "priority" => vec![uuid.clone(), text.clone(), int4.clone()],
            "evidence" => vec![uuid.clone(), text.clone(), uuid.clone(), int4.clone(), int4.clone()],
            "release" => {
                vec![uuid.clone(), uuid.clone(), text.clone(), text.clone(), text.clone(), text.clone()]
            }
            "register" => {
                let mut types = vec![text.clone(), text.clone(), text.clone(), text.clone(), int8.clone()];
                types.extend([int4.clone(), text.clone(), int4.clone(), text.clone(), text.clone()]);
                types.extend([Type::FLOAT8, Type::TEXT_ARRAY, Type::JSONB]);
                types
            }
            "allowlist_add" => {
                let mut types = vec![text.clone(), text.clone(), Type::BYTEA];
                types.extend(vec![text.clone(); 7]);
                types.push(Type::TIMESTAMPTZ);
                types
            }
            _ => Vec::new(),
        };
        if let Err(error) = client.prepare_typed(&sql, &types).await {
            panic!("{}: {error:?}", path.display());
        }
    }
}

/// PL/pgSQL parses a statement when it is first executed, so the statements themselves are covered by the tests of
/// each operation.
#[tokio::test]
async fn the_database_has_exactly_the_functions_of_the_source() {
    let database = Database::create().await;
    let client = database.client().await;
    let functions = "SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                      WHERE n.nspname = 'public' ORDER BY 1";
    let rows = client.query(functions, &[]).await.unwrap();
    let actual: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut expected: Vec<String> = sources("sql")
        .iter()
        .flat_map(|(_, sql)| sql.split("CREATE OR REPLACE FUNCTION ").skip(1))
        .map(|definition| definition.split('(').next().unwrap().trim().to_owned())
        .collect();
    // Trigger functions, and those that they call, are created by the migration of their table.
    for migration in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations")).unwrap() {
        let schema = fs::read_to_string(migration.unwrap().path()).unwrap();
        let definitions = schema.split("CREATE FUNCTION ").skip(1);
        expected.extend(definitions.map(|definition| definition.split('(').next().unwrap().to_owned()));
    }
    expected.sort();
    assert_eq!(actual, expected);
}

/// The allowlist's predicate is an SQL function. If Postgres did not inline it, the planner could not use the
/// partial index on unrevoked entries.
#[tokio::test]
async fn the_allowlist_predicate_is_inlined() {
    let database = Database::create().await;
    let client = database.client().await;
    let plan = "EXPLAIN SELECT FROM allowlist a WHERE a.key_id = 'k' AND allowlist_admits(a, 'bench')";
    client.batch_execute("SET enable_seqscan = off").await.unwrap();
    let plan: Vec<String> = client.query(plan, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("allowlist_unrevoked_idx"), "{plan}");
    assert!(!plan.contains("allowlist_admits"), "{plan}");
}

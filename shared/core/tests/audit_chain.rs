//! The audit log's chain: what somebody with every right on the table does to a row shows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::audit_chain::{Discrepancy, Head, head, verify};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use tokio::task::JoinSet;
use tokio_postgres::Client;

async fn write(client: &Client, actor: &str) {
    let insert = "INSERT INTO audit_log (actor, action, subject, detail) \
                  VALUES ($1, 'test', nullif($1, 'nobody'), jsonb_build_object('ä', $1::text, 'n', 1.50))";
    client.execute(insert, &[&actor]).await.unwrap();
}

/// Six rows, among them one without a subject and one with everything that must be escaped somewhere.
async fn chain() -> (Database, Client, Head) {
    let database = Database::create().await;
    let client = database.client().await;
    for actor in ["one", "nobody", "3:x,\"\\\n\u{1}ß", "four", "five", "six"] {
        write(&client, actor).await;
    }
    let last = head(&client).await.unwrap().unwrap();
    (database, client, last)
}

/// Does what only the table's owner can.
async fn tamper(database: &Database, sql: &str) {
    let off = "ALTER TABLE audit_log DISABLE TRIGGER USER";
    let on = "ALTER TABLE audit_log ENABLE TRIGGER USER";
    database.owner().await.batch_execute(&format!("{off}; {sql}; {on}")).await.unwrap();
}

async fn discrepancies(client: &Client, known_head: Option<&Head>) -> Vec<Discrepancy> {
    verify(client, known_head).await.unwrap().discrepancies
}

#[tokio::test]
async fn an_untouched_log_verifies_and_ends_in_its_head() {
    let (_database, client, last) = chain().await;
    let verified = verify(&client, Some(&last)).await.unwrap();
    assert_eq!((verified.rows, verified.discrepancies_found), (6, 0), "{:?}", verified.discrepancies);
    // Computed here and by the database's function.
    assert_eq!(verified.head, Some(last.clone()));
    write(&client, "later").await;
    assert_eq!(discrepancies(&client, Some(&last)).await, []);
    assert_eq!(head(&client).await.unwrap().unwrap().position, 7);
}

#[tokio::test]
async fn an_empty_log_verifies() {
    let database = Database::create().await;
    let verified = verify(&database.client().await, None).await.unwrap();
    assert_eq!((verified.rows, verified.head, verified.discrepancies_found), (0, None, 0));
}

#[tokio::test]
async fn every_changed_column_shows() {
    for change in [
        "actor = 'other'",
        "action = 'other'",
        "subject = NULL",
        "subject = ''",
        "detail = '{}'",
        "at = at + interval '1 us'",
        "previous_sha256 = sha256('')",
    ] {
        let (database, client, _) = chain().await;
        tamper(&database, &format!("UPDATE audit_log SET {change} WHERE chain_position = 4")).await;
        let found = discrepancies(&client, None).await;
        assert!(found.contains(&Discrepancy::Changed { position: 4 }), "{change}: {found:?}");
    }
}

#[tokio::test]
async fn a_removed_row_and_rows_that_changed_places_show() {
    let (database, client, _) = chain().await;
    tamper(&database, "DELETE FROM audit_log WHERE chain_position IN (2, 3)").await;
    assert_eq!(discrepancies(&client, None).await, [Discrepancy::Missing { from: 2, to: 3 }]);

    let (database, client, _) = chain().await;
    tamper(
        &database,
        "DELETE FROM audit_log WHERE chain_position = 3; \
         UPDATE audit_log SET chain_position = chain_position - 1 WHERE chain_position > 3",
    )
    .await;
    assert!(!discrepancies(&client, None).await.is_empty(), "closing the gap does not help");

    let (database, client, _) = chain().await;
    tamper(&database, "DELETE FROM audit_log WHERE chain_position = 1").await;
    assert_eq!(discrepancies(&client, None).await, [Discrepancy::Missing { from: 1, to: 1 }]);
}

#[tokio::test]
async fn the_end_of_the_log_is_held_by_a_noted_head() {
    let (database, client, last) = chain().await;
    tamper(&database, "UPDATE audit_log SET actor = 'other' WHERE chain_position = 6").await;
    assert_eq!(discrepancies(&client, None).await, [], "nothing follows the last row");
    assert_eq!(discrepancies(&client, Some(&last)).await, [Discrepancy::Changed { position: 6 }]);
    tamper(&database, "DELETE FROM audit_log WHERE chain_position >= 5").await;
    assert_eq!(discrepancies(&client, Some(&last)).await, [Discrepancy::Missing { from: 5, to: 6 }]);
}

/// A chain that somebody made anew, digests and all, is whole and is not the one whose head was recorded.
#[tokio::test]
async fn a_chain_made_anew_is_not_the_noted_one() {
    let (database, client, last) = chain().await;
    tamper(
        &database,
        "UPDATE audit_log SET actor = 'other' WHERE chain_position = 2; \
         DO $$ BEGIN FOR p IN 3..6 LOOP \
             UPDATE audit_log SET previous_sha256 = (SELECT audit_log_sha256(a) FROM audit_log a \
                                                      WHERE a.chain_position = p - 1) \
              WHERE chain_position = p; \
         END LOOP; END $$",
    )
    .await;
    assert_eq!(discrepancies(&client, None).await, []);
    assert_eq!(discrepancies(&client, Some(&last)).await, [Discrepancy::Changed { position: 6 }]);
}

/// T1 draws its id first and commits last; T2 must still come after it or before it, never beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_once_make_one_chain() {
    let database = Database::create().await;
    let mut writers = JoinSet::new();
    for number in 0..8 {
        let client = database.client().await;
        writers.spawn(async move {
            for _ in 0..25 {
                write(&client, &format!("writer {number}")).await;
            }
        });
    }
    writers.join_all().await;
    let verified = verify(&database.client().await, None).await.unwrap();
    assert_eq!((verified.rows, verified.discrepancies_found), (200, 0), "{:?}", verified.discrepancies);
}

/// A snapshot that is older than the last row cannot see what the new row follows.
#[tokio::test]
async fn a_writer_with_an_old_snapshot_makes_no_fork() {
    let (database, client, _) = chain().await;
    let mut other = database.client().await;
    let transaction =
        other.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let transaction = transaction.start().await.unwrap();
    transaction.query("SELECT count(*) FROM audit_log", &[]).await.unwrap();
    write(&client, "in between").await;
    let fork = "INSERT INTO audit_log (actor, action) VALUES ('fork', 'test')";
    assert!(transaction.batch_execute(fork).await.is_err());
    drop(transaction);
    assert_eq!(discrepancies(&client, None).await, []);
}

#[tokio::test]
async fn a_run_of_several_rows_in_one_statement_is_chained() {
    let (_database, client, _) = chain().await;
    let several =
        "INSERT INTO audit_log (actor, action) SELECT 'n' || n, 'test' FROM generate_series(1, 5) n";
    client.batch_execute(several).await.unwrap();
    fixture::enqueue_run(&client, &fixture::run()).await;
    let verified = verify(&client, None).await.unwrap();
    assert_eq!((verified.rows, verified.discrepancies_found), (12, 0), "{:?}", verified.discrepancies);
}

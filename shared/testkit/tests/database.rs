//! Test databases: migrated, isolated from each other, and dropped at the end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_testkit::Database;

async fn exists(database: &Database, name: &str) -> bool {
    let found = "SELECT 1 FROM pg_database WHERE datname = $1";
    database.client().await.query_opt(found, &[&name]).await.unwrap().is_some()
}

fn name_of(database: &Database) -> String {
    database.url().rsplit_once('/').unwrap().1.to_owned()
}

#[tokio::test]
async fn a_database_is_migrated_and_isolated() {
    let (one, other) = tokio::join!(Database::create(), Database::create());
    let client = one.owner().await;
    client.execute("INSERT INTO creators VALUES (gen_random_uuid(), 'x')", &[]).await.unwrap();
    let count = "SELECT count(*) FROM creators";
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_eq!(other.owner().await.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn dropping_the_value_drops_the_database_despite_connections() {
    let (watcher, database) = tokio::join!(Database::create(), Database::create());
    let name = name_of(&database);
    let _open = database.client().await;
    assert!(exists(&watcher, &name).await);
    drop(database);
    assert!(!exists(&watcher, &name).await);
}

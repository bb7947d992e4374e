//! Private clusters: start, restart after a kill, and removal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use bakeoff_local::postgres::{Binaries, Cluster};
use tokio_postgres::NoTls;

fn folder(name: &str) -> PathBuf {
    bakeoff_local::workspace::target().unwrap().join("tests").join(format!("{name}-{}", std::process::id()))
}

async fn query(url: &str, sql: &str) -> String {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what} did not happen within 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn the_server_programs_of_this_machine_are_found() {
    assert!(Binaries::find().is_some());
}

#[tokio::test]
async fn a_cluster_is_durable_restarts_after_a_kill_and_is_removed() {
    let dir = folder("own-cluster");
    let mut cluster = Cluster::start(&dir).unwrap();
    let url = cluster.url();
    assert_eq!(query(&url, "SHOW fsync").await, "on");
    execute(&url, "CREATE TABLE kept AS SELECT 'still here' AS what").await;

    let data = query(&url, "SHOW data_directory").await;
    let postmaster = std::fs::read_to_string(format!("{data}/postmaster.pid")).unwrap();
    let pid = postmaster.lines().next().unwrap().to_owned();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    eventually("the end of the killed server", || cluster.has_ended()).await;
    cluster.restart().unwrap();
    assert_eq!(query(&url, "SELECT what FROM kept").await, "still here");

    cluster.stop();
    assert!(!PathBuf::from(data).exists());
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
}

#[tokio::test]
async fn a_wrong_password_is_rejected() {
    let cluster = Cluster::start(&folder("password")).unwrap();
    let (before, after) = cluster.url().split_once('@').map(|(b, a)| (b.to_owned(), a.to_owned())).unwrap();
    let user = before.rsplit_once(':').unwrap().0;
    assert!(tokio_postgres::connect(&format!("{user}:wrong@{after}"), NoTls).await.is_err());
}

#[tokio::test]
async fn two_clusters_run_at_the_same_time() {
    let (one, other) = (Cluster::start(&folder("one")).unwrap(), Cluster::start(&folder("other")).unwrap());
    assert_eq!(query(&one.url(), "SELECT 'one'").await, "one");
    drop(one);
    assert_eq!(query(&other.url(), "SELECT 'other'").await, "other");
}

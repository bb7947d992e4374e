//! Outages below the functions: lost connections, no Postgres, killed processes. Each must give a clean
//! response, and the next request must succeed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bakeoff_local::api_gateway::sigv4::{Credentials, sign};
use bakeoff_local::postgres::Cluster;
use bakeoff_local::stack::{Options, Stack};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::NoTls;

/// Starts a stack on a cluster of the test's own, which the stack does not restart.
async fn stack() -> (Stack, Cluster) {
    let name = format!("outage-{}", std::process::id());
    let cluster =
        Cluster::start(&bakeoff_local::workspace::target().unwrap().join("tests").join(name)).unwrap();
    let options = Options { port: 0, database_url: Some(cluster.url()), ..Options::default() };
    (Stack::start(&options).await.unwrap(), cluster)
}

async fn database(cluster: &Cluster) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Sends `GET /api/admin/runs` as an admin; the function reads the queue.
async fn list_runs(base: &str) -> Response<Value> {
    let uri: http::Uri = format!("{base}/api/admin/runs").parse().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, uri.authority().unwrap().as_str().parse().unwrap());
    let now = OffsetDateTime::now_utc();
    for (name, value) in sign(&Method::GET, &uri, &headers, b"", &Credentials::local(), now).unwrap() {
        headers.insert(name, value.parse().unwrap());
    }
    let mut request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    *request.headers_mut() = headers;
    let (parts, body) =
        Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, serde_json::from_slice(&body).unwrap())
}

async fn eventually<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = poll().await {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not happen within 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the ids of a function's processes that are children of this process.
fn processes(function: &str) -> Vec<u32> {
    let of_function = |process: &Path| {
        let program = std::fs::read_link(process.join("exe")).ok()?;
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
        let ours = program.file_name()? == function && parent == std::process::id().to_string();
        ours.then(|| process.file_name()?.to_str()?.parse().ok()).flatten()
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| of_function(&entry.ok()?.path()));
    all.collect()
}

fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outage_gives_a_clean_response_and_the_next_request_succeeds() {
    let (stack, mut cluster) = stack().await;
    assert_eq!(list_runs(&stack.url).await.status(), 200);
    let process = processes("runs");
    assert_eq!(process.len(), 1);

    check_terminated_connections_are_replaced(&stack, &cluster).await;
    check_without_postgres_the_status_is_503(&stack, &mut cluster).await;
    assert_eq!(processes("runs"), process, "the process outlives its connections");
    check_a_process_killed_during_a_request_gives_502(&stack, &cluster).await;
    assert_ne!(processes("runs"), process);
    stack.stop().await;
}

async fn check_terminated_connections_are_replaced(stack: &Stack, cluster: &Cluster) {
    let terminate = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
               WHERE application_name = 'bakeoff'";
    let connections: i64 = database(cluster).await.query_one(terminate, &[]).await.unwrap().get(0);
    assert!(connections > 0);
    assert_eq!(list_runs(&stack.url).await.status(), 200);
}

async fn check_without_postgres_the_status_is_503(stack: &Stack, cluster: &mut Cluster) {
    let row = database(cluster).await.query_one("SHOW data_directory", &[]).await.unwrap();
    let data: PathBuf = row.get::<_, String>(0).into();
    let postmaster = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    kill(postmaster.lines().next().unwrap());
    eventually("the end of the server", async || cluster.has_ended().then_some(())).await;

    let response = list_runs(&stack.url).await;
    assert_eq!((response.status().as_u16(), &response.body()["code"]), (503, &"unavailable".into()));
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let seconds: u32 = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((2..=6).contains(&seconds));
    assert!(response.headers().contains_key("x-request-id"));

    cluster.restart().unwrap();
    assert_eq!(list_runs(&stack.url).await.status(), 200);
}

async fn check_a_process_killed_during_a_request_gives_502(stack: &Stack, cluster: &Cluster) {
    let mut client = database(cluster).await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE run_queue IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let base = stack.url.clone();
    let request = tokio::spawn(async move { list_runs(&base).await });
    let waiting = "SELECT FROM pg_stat_activity \
                   WHERE application_name = 'bakeoff' AND wait_event_type = 'Lock'";
    let find_waiting_request = async || lock.query_opt(waiting, &[]).await.unwrap();
    eventually("a request that waits for the lock", find_waiting_request).await;
    for pid in processes("runs") {
        kill(&pid.to_string());
    }
    assert_eq!(request.await.unwrap().status(), 502);
    lock.rollback().await.unwrap();
    assert_eq!(list_runs(&stack.url).await.status(), 200);
}

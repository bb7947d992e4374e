//! The gateway with function processes: routes, IAM, limits, and processes that die.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bakeoff_local::api_gateway::ApiGateway;
use bakeoff_local::api_gateway::route::Route;
use bakeoff_local::api_gateway::sigv4::{Credentials, sign};
use bakeoff_local::api_gateway::template;
use bakeoff_local::lambda::runtime_api::{Function, Settings};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::net::TcpListener;

/// Starts a gateway on a free port, with the same function for every route.
async fn start_gateway(instances: usize, timeout: Duration) -> SocketAddr {
    let log = std::env::temp_dir().join(format!("bakeoff-gateway-{}.log", std::process::id()));
    let function = Function::new(Settings {
        function: template::Function { name: "f".into(), timeout, memory_mb: 128 },
        binary: PathBuf::from(env!("CARGO_BIN_EXE_test-function")),
        environment: BTreeMap::new(),
        log,
        instances,
    });
    let routes = vec![
        Route::new("ANY", "/{path}", "f", false).unwrap(),
        Route::new("POST", "/admin/{path}", "f", true).unwrap(),
    ];
    let functions = HashMap::from([("f".to_owned(), Arc::new(function))]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Arc::new(ApiGateway::new(routes, functions, Credentials::local())).serve(listener));
    address
}

async fn gateway_with_long_timeout() -> SocketAddr {
    start_gateway(1, Duration::from_secs(3600)).await
}

async fn send(request: Request<Full<Bytes>>) -> (StatusCode, Value) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn get(gateway: SocketAddr, path: &str) -> (StatusCode, Value) {
    send(Request::get(format!("http://{gateway}{path}")).body(Full::default()).unwrap()).await
}

async fn post(gateway: SocketAddr, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
    send(Request::post(format!("http://{gateway}{path}")).body(Full::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_request_becomes_an_event_and_the_same_process_serves_the_next() {
    let gateway = gateway_with_long_timeout().await;
    let (status, first) = get(gateway, "/echo?a=1").await;
    assert_eq!(status, 200);
    assert_eq!(first["event"]["routeKey"], "ANY /{path}");
    assert_eq!(first["event"]["pathParameters"]["path"], "echo");
    assert_eq!(first["event"]["requestContext"]["http"]["sourceIp"], "127.0.0.1");
    let (_, second) = get(gateway, "/echo").await;
    assert_eq!(first["pid"], second["pid"]);
}

#[tokio::test]
async fn a_process_that_dies_during_a_request_gives_502_and_a_new_one_serves_the_next() {
    let gateway = gateway_with_long_timeout().await;
    let (_, before) = get(gateway, "/echo").await;
    let (status, body) = get(gateway, "/crash").await;
    assert_eq!((status, &body["message"]), (StatusCode::BAD_GATEWAY, &"Internal Server Error".into()));
    let (status, after) = get(gateway, "/echo").await;
    assert_eq!(status, 200);
    assert_ne!(before["pid"], after["pid"]);
}

#[tokio::test]
async fn a_process_killed_while_idle_is_replaced() {
    let gateway = gateway_with_long_timeout().await;
    let (_, before) = get(gateway, "/echo").await;
    let pid = before["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    // Until the kernel reports the process's end, a request may still be sent to it and get a 502.
    let after = loop {
        match get(gateway, "/echo").await {
            (StatusCode::OK, answer) if answer["pid"] != before["pid"] => break answer,
            (status, _) => assert!(status == StatusCode::OK || status == StatusCode::BAD_GATEWAY),
        }
    };
    assert_ne!(before["pid"], after["pid"]);
}

#[tokio::test]
async fn an_error_reported_by_the_function_gives_502_and_its_process_continues() {
    let gateway = gateway_with_long_timeout().await;
    let (_, before) = get(gateway, "/echo").await;
    assert_eq!(get(gateway, "/fail").await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(get(gateway, "/echo").await.1["pid"], before["pid"]);
}

#[tokio::test]
async fn a_function_that_exceeds_its_timeout_gives_504_and_is_killed() {
    let gateway = start_gateway(1, Duration::from_millis(500)).await;
    let (status, body) = get(gateway, "/hang").await;
    assert_eq!(
        (status, &body["message"]),
        (StatusCode::GATEWAY_TIMEOUT, &"Endpoint request timed out".into())
    );
    assert_eq!(get(gateway, "/echo").await.0, StatusCode::OK);
}

#[tokio::test]
async fn concurrent_requests_use_separate_processes_up_to_the_limit() {
    let gateway = start_gateway(2, Duration::from_secs(2)).await;
    // The hanging request occupies one process; the other serves the second request.
    let (hanging, answer) = tokio::join!(get(gateway, "/hang"), get(gateway, "/echo"));
    assert_eq!((hanging.0, answer.0), (StatusCode::GATEWAY_TIMEOUT, StatusCode::OK));
}

#[tokio::test]
async fn an_unknown_route_gives_api_gateways_404() {
    let (status, body) = get(gateway_with_long_timeout().await, "/a/b/c").await;
    assert_eq!((status, &body["message"]), (StatusCode::NOT_FOUND, &"Not Found".into()));
}

#[tokio::test]
async fn a_body_over_api_gateways_or_lambdas_limit_gives_413() {
    let gateway = gateway_with_long_timeout().await;
    // As text, the body fits into an event; as base64, it exceeds the limit.
    assert_eq!(post(gateway, "/fail", vec![b'x'; 4_800_000]).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(post(gateway, "/fail", vec![0xff; 4_800_000]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(post(gateway, "/fail", vec![b'x'; 11_000_000]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(get(gateway, "/echo").await.0, StatusCode::OK);
}

fn signed_request(
    gateway: SocketAddr,
    credentials: &Credentials,
    body: &'static str,
) -> Request<Full<Bytes>> {
    let url = format!("http://{gateway}/admin/keys?limit=2");
    let mut request = Request::post(&url).header("host", gateway.to_string());
    let headers = request.headers_ref().unwrap().clone();
    let now = OffsetDateTime::now_utc();
    let uri = url.parse().unwrap();
    for (name, value) in sign(&Method::POST, &uri, &headers, body.as_bytes(), credentials, now).unwrap() {
        request = request.header(name, value);
    }
    request.body(body.into()).unwrap()
}

#[tokio::test]
async fn an_iam_route_requires_a_valid_signature_and_passes_the_caller_to_the_function() {
    let gateway = gateway_with_long_timeout().await;
    let (status, answer) = send(signed_request(gateway, &Credentials::local(), "{}")).await;
    assert_eq!(status, 200);
    let iam = &answer["event"]["requestContext"]["authorizer"]["iam"];
    assert_eq!(iam["userArn"], "arn:aws:iam::000000000000:user/local");

    let wrong = Credentials { secret_key: "wrong".into(), ..Credentials::local() };
    for refused in [
        signed_request(gateway, &wrong, "{}"),
        Request::post(format!("http://{gateway}/admin/keys")).body("{}".into()).unwrap(),
    ] {
        let (status, body) = send(refused).await;
        assert_eq!((status, &body["message"]), (StatusCode::FORBIDDEN, &"Forbidden".into()));
    }
}

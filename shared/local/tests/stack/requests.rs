//! The front with real processes behind it: routes, IAM, limits, and what happens when a process dies.

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

/// A front on a free port, with one function behind every route.
async fn front(instances: usize, timeout: Duration) -> SocketAddr {
    let log = std::env::temp_dir().join(format!("bakeoff-front-{}.log", std::process::id()));
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

async fn an_hour() -> SocketAddr {
    front(1, Duration::from_secs(3600)).await
}

async fn send(request: Request<Full<Bytes>>) -> (StatusCode, Value) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn get(front: SocketAddr, path: &str) -> (StatusCode, Value) {
    send(Request::get(format!("http://{front}{path}")).body(Full::default()).unwrap()).await
}

async fn post(front: SocketAddr, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
    send(Request::post(format!("http://{front}{path}")).body(Full::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_request_reaches_the_function_as_an_event_and_the_same_process_serves_the_next() {
    let front = an_hour().await;
    let (status, first) = get(front, "/echo?a=1").await;
    assert_eq!(status, 200);
    assert_eq!(first["event"]["routeKey"], "ANY /{path}");
    assert_eq!(first["event"]["pathParameters"]["path"], "echo");
    assert_eq!(first["event"]["requestContext"]["http"]["sourceIp"], "127.0.0.1");
    let (_, second) = get(front, "/echo").await;
    assert_eq!(first["pid"], second["pid"]);
}

#[tokio::test]
async fn a_process_that_dies_in_mid_request_is_a_502_and_a_fresh_one_serves_the_next() {
    let front = an_hour().await;
    let (_, before) = get(front, "/echo").await;
    let (status, body) = get(front, "/crash").await;
    assert_eq!((status, &body["message"]), (StatusCode::BAD_GATEWAY, &"Internal Server Error".into()));
    let (status, after) = get(front, "/echo").await;
    assert_eq!(status, 200);
    assert_ne!(before["pid"], after["pid"]);
}

#[tokio::test]
async fn a_process_killed_while_idle_is_not_noticed_by_the_client() {
    let front = an_hour().await;
    let (_, before) = get(front, "/echo").await;
    let pid = before["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    // Its end is seen once the kernel has delivered it; until then the request may meet the corpse.
    let after = loop {
        match get(front, "/echo").await {
            (StatusCode::OK, answer) if answer["pid"] != before["pid"] => break answer,
            (status, _) => assert!(status == StatusCode::OK || status == StatusCode::BAD_GATEWAY),
        }
    };
    assert_ne!(before["pid"], after["pid"]);
}

#[tokio::test]
async fn an_error_the_function_reports_is_a_502_and_its_process_goes_on() {
    let front = an_hour().await;
    let (_, before) = get(front, "/echo").await;
    assert_eq!(get(front, "/fail").await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(get(front, "/echo").await.1["pid"], before["pid"]);
}

#[tokio::test]
async fn a_function_that_does_not_answer_is_a_504_and_is_killed() {
    let front = front(1, Duration::from_millis(500)).await;
    let (status, body) = get(front, "/hang").await;
    assert_eq!(
        (status, &body["message"]),
        (StatusCode::GATEWAY_TIMEOUT, &"Endpoint request timed out".into())
    );
    assert_eq!(get(front, "/echo").await.0, StatusCode::OK);
}

#[tokio::test]
async fn concurrent_requests_get_processes_of_their_own_up_to_the_limit() {
    let front = front(2, Duration::from_secs(2)).await;
    // One process is held by the hanging request, so the other answers meanwhile.
    let (hanging, answer) = tokio::join!(get(front, "/hang"), get(front, "/echo"));
    assert_eq!((hanging.0, answer.0), (StatusCode::GATEWAY_TIMEOUT, StatusCode::OK));
}

#[tokio::test]
async fn an_unknown_route_is_api_gateways_404() {
    let (status, body) = get(an_hour().await, "/a/b/c").await;
    assert_eq!((status, &body["message"]), (StatusCode::NOT_FOUND, &"Not Found".into()));
}

#[tokio::test]
async fn a_body_over_the_gateways_or_lambdas_limit_is_a_413() {
    let front = an_hour().await;
    // As text it fits an event, in base64 it is over.
    assert_eq!(post(front, "/fail", vec![b'x'; 4_800_000]).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(post(front, "/fail", vec![0xff; 4_800_000]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(post(front, "/fail", vec![b'x'; 11_000_000]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(get(front, "/echo").await.0, StatusCode::OK);
}

fn signed(front: SocketAddr, credentials: &Credentials, body: &'static str) -> Request<Full<Bytes>> {
    let url = format!("http://{front}/admin/keys?limit=2");
    let mut request = Request::post(&url).header("host", front.to_string());
    let headers = request.headers_ref().unwrap().clone();
    let now = OffsetDateTime::now_utc();
    let uri = url.parse().unwrap();
    for (name, value) in sign(&Method::POST, &uri, &headers, body.as_bytes(), credentials, now).unwrap() {
        request = request.header(name, value);
    }
    request.body(body.into()).unwrap()
}

#[tokio::test]
async fn an_iam_route_wants_a_good_signature_and_tells_the_function_whose() {
    let front = an_hour().await;
    let (status, answer) = send(signed(front, &Credentials::local(), "{}")).await;
    assert_eq!(status, 200);
    let iam = &answer["event"]["requestContext"]["authorizer"]["iam"];
    assert_eq!(iam["userArn"], "arn:aws:iam::000000000000:user/local");

    let wrong = Credentials { secret_key: "wrong".into(), ..Credentials::local() };
    for refused in [
        signed(front, &wrong, "{}"),
        Request::post(format!("http://{front}/admin/keys")).body("{}".into()).unwrap(),
    ] {
        let (status, body) = send(refused).await;
        assert_eq!((status, &body["message"]), (StatusCode::FORBIDDEN, &"Forbidden".into()));
    }
}

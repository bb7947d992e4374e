use super::answer;
use bakeoff_testkit::event::{Answer, Event, Service};
use serde_json::json;

async fn send(service: &Service, event: &Event) -> Answer {
    service.send(answer, event).await
}

async fn with_claim() -> (Service, Event) {
    Service::with_claim("heartbeat").await
}

#[tokio::test]
async fn a_heartbeat_extends_the_lease() {
    let (service, event) = with_claim().await;
    let extended = send(&service, &event).await.expect(200);
    assert_eq!(extended["directive"], "continue");
    assert!(extended["lease_expires_at"].as_str() > extended["server_time"].as_str(), "{extended}");
}

#[tokio::test]
async fn a_cancelled_run_returns_the_directive_cancel() {
    let (service, event) = with_claim().await;
    service.cancel_run().await;
    assert_eq!(send(&service, &event).await.expect(200)["directive"], "cancel");
}

#[tokio::test]
async fn another_claim_id_is_claim_lost() {
    let (service, event) = with_claim().await;
    let mut body = event.body_json();
    body["claim_id"] = json!("00000000-0000-4000-8000-000000000000");
    send(&service, &event.body(body)).await.problem(409, "claim_lost");
}

#[tokio::test]
async fn a_path_that_is_not_a_run_id_is_run_not_found() {
    let (service, event) = with_claim().await;
    for path in ["x", "", "3f0d3b52-7f6e-4f2b-9a3e-6a6f1f6f0a01\0", "' OR true --", "../../admin/runs"] {
        let event = event.clone().path_parameter("run_id", path);
        send(&service, &event).await.problem(404, "run_not_found");
    }
}

#[tokio::test]
async fn all_field_errors_are_reported_at_once() {
    let (service, event) = with_claim().await;
    let body = json!({ "progress": [], "state": "running" });
    assert_eq!(
        send(&service, &event.clone().body(body)).await.pointers(),
        ["/claim_id", "/progress", "/state"]
    );
    let mut body = event.body_json();
    body["progress"] = json!({ "done": "a".repeat(2048) });
    assert_eq!(send(&service, &event.clone().body(body)).await.pointers(), ["/progress"]);
    let claim_id = event.body_json()["claim_id"].to_string();
    let twice = format!(r#"{{"claim_id":{claim_id},"progress":{{"done":1,"done":2}}}}"#);
    assert_eq!(send(&service, &event.body(twice)).await.pointers(), ["/progress"]);
}

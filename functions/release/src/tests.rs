use super::answer;
use bakeoff_testkit::event::{Answer, Event, Service};
use serde_json::{Value, json};

async fn send(service: &Service, event: &Event) -> Answer {
    service.send(answer, event).await
}

async fn with_claim() -> (Service, Event) {
    Service::with_claim("release").await
}

#[tokio::test]
async fn a_failed_attempt_is_counted_once() {
    let (service, event) = with_claim().await;
    let released = send(&service, &event).await.expect(200);
    assert_eq!((&released["status"], &released["attempt_count"]), (&json!("PENDING"), &json!(1)));
    assert!(released["retry_after"].is_string());
    // The runner repeats the release after a lost response.
    assert_eq!(send(&service, &event).await.expect(200), released);
}

#[tokio::test]
async fn a_release_without_a_failure_counts_no_attempt() {
    let (service, event) = with_claim().await;
    let body = json!({ "claim_id": event.body_json()["claim_id"] });
    let released = send(&service, &event.body(body)).await.expect(200);
    assert_eq!((&released["attempt_count"], &released["retry_after"]), (&json!(0), &Value::Null));
}

#[tokio::test]
async fn another_claim_id_is_claim_lost_and_another_path_is_run_not_found() {
    let (service, event) = with_claim().await;
    let body = json!({ "claim_id": "00000000-0000-4000-8000-000000000000" });
    send(&service, &event.clone().body(body)).await.problem(409, "claim_lost");
    send(&service, &event.path_parameter("run_id", "x")).await.problem(404, "run_not_found");
}

#[tokio::test]
async fn all_field_errors_are_reported_at_once() {
    let (service, event) = with_claim().await;
    let body = json!({ "failure": { "code": "tired", "reason": "" }, "claimid": 1 });
    assert_eq!(
        send(&service, &event.body(body)).await.pointers(),
        ["/claim_id", "/failure/code", "/failure/reason", "/claimid"]
    );
}

use super::answer;
use bakeoff_testkit::event::{Answer, Event, Service, app, members};
use serde_json::json;

async fn send(service: &Service, event: &Event) -> Answer {
    service.send(answer, event).await
}

async fn with_claim() -> (Service, Event) {
    Service::with_claim("submit").await
}

async fn rows(service: &Service, table: &str) -> i64 {
    let count = format!("SELECT count(*) FROM {table}");
    service.database.client().await.query_one(&count, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_signed_result_completes_the_row() {
    let (service, event) = with_claim().await;
    let receipt = send(&service, &event.clone().gzip()).await.expect(201);
    assert_eq!(
        members(&receipt),
        [
            "bound",
            "late",
            "metrics",
            "queue_id",
            "receipt",
            "run_id",
            "sha256",
            "signer",
            "status",
            "submission_id"
        ]
    );
    assert_eq!((&receipt["status"], &receipt["late"]), (&json!("COMPLETE"), &json!(false)));
    assert_eq!(receipt["sha256"], event.body_json()["envelope"]["sig"]["sha256"]);
    let keys = service.app().signing_keys().await.unwrap();
    keys.verify_receipt(receipt["receipt"].as_str().unwrap()).unwrap();
    // The runner repeats the submission and gets the same receipt.
    assert_eq!(send(&service, &event).await.expect(200), receipt);
    assert_eq!(rows(&service, "submissions").await, 1);
}

#[tokio::test]
async fn a_service_that_requires_bound_results_refuses_others() {
    let (service, event) = with_claim().await;
    let demanding = app(&[
        ("PUBLIC_URL", bakeoff_testkit::event::SERVICE),
        ("SIGNING_KEYS_FILE", service.keys_file()),
        ("DATABASE_URL", service.database.url()),
        ("REQUIRE_BOUND_RESULTS", "true"),
    ]);
    bakeoff_testkit::event::serve(&demanding, super::answer, &event).await.problem(422, "binding_invalid");
    assert_eq!(rows(&service, "submissions").await, 0);
    assert_eq!(send(&service, &event).await.expect(201)["bound"], false);
}

#[tokio::test]
async fn a_result_with_one_changed_digit_is_refused_and_audited() {
    let (service, event) = with_claim().await;
    let text = event.body_text().replacen("0.18881159099998968", "0.18881159099998969", 1);
    assert_ne!(text, event.body_text());
    let answer = send(&service, &event.body(text)).await;
    assert!(answer.problem(422, "signature_invalid")["detail"].as_str().unwrap().contains("sha256"));
    assert_eq!(rows(&service, "submissions").await, 0);
    assert_eq!(rows(&service, "audit_log WHERE action = 'submit.signature_invalid'").await, 1);
}

#[tokio::test]
async fn a_result_of_another_run_is_refused() {
    let (service, event) = with_claim().await;
    let event = event.path_parameter("run_id", "00000000-0000-4000-8000-000000000000");
    let answer = send(&service, &event).await;
    let signed = &answer.problem(422, "run_mismatch")["signed_run_id"];
    assert_eq!(signed, "3f0d3b52-7f6e-4f2b-9a3e-6a6f1f6f0a01");
}

#[tokio::test]
async fn an_unknown_claim_id_is_claim_lost() {
    let (service, event) = with_claim().await;
    let text = event.body_text().replacen("7f3c2a90", "00000000", 1);
    send(&service, &event.body(text)).await.problem(409, "claim_lost");
}

#[tokio::test]
async fn a_request_must_have_exactly_one_of_the_two_forms() {
    let (service, event) = with_claim().await;
    let both = json!({ "claim_id": event.body_json()["claim_id"], "envelope": {}, "files": {} });
    assert_eq!(send(&service, &event.clone().body(both)).await.pointers(), [""]);
    let neither = json!({ "claim_id": 1, "envelop": {} });
    assert_eq!(send(&service, &event.clone().body(neither)).await.pointers(), ["/claim_id", "", "/envelop"]);
    let claim_id = event.body_json()["claim_id"].clone();
    let empty = json!({ "claim_id": claim_id, "envelope": { "result": [], "signature": {} } });
    for pointer in send(&service, &event.body(empty)).await.pointers() {
        assert!(pointer.starts_with("/envelope"), "{pointer}");
    }
}

/// The length is checked before the body is parsed.
#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let (service, event) = with_claim().await;
    let answer = send(&service, &event.body("x".repeat(4_500_001))).await;
    assert_eq!(answer.problem(413, "body_too_large")["size"], 4_500_001);
}

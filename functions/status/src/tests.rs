use super::answer;
use bakeoff_testkit::event::{Event, Service};
use serde_json::json;

#[tokio::test]
async fn the_status_of_a_run_includes_its_rows() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    service.enqueue_run().await;
    let event = Event::sample("status").bearer(&token);
    let status = service.send(answer, &event).await.expect(200);
    assert_eq!((&status["status"], &status["rows"][0]["own"]), (&json!("PENDING"), &json!(false)));
    service.claim_job(&token).await;
    let status = service.send(answer, &event).await.expect(200);
    assert_eq!((&status["status"], &status["rows"][0]["own"]), (&json!("CLAIMED"), &json!(true)));
}

#[tokio::test]
async fn an_unknown_run_is_not_found() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    let event = Event::sample("status").bearer(&token);
    service.send(answer, &event).await.problem(404, "run_not_found");
    for path in ["x", "3f0d3b52", "\0"] {
        let event = event.clone().path_parameter("run_id", path);
        service.send(answer, &event).await.problem(404, "run_not_found");
    }
}

#[tokio::test]
async fn the_status_requires_a_runner_token() {
    let service = Service::start().await;
    let event = Event::sample("status");
    service
        .send(answer, &event.clone().without_header("authorization"))
        .await
        .problem(401, "unauthenticated");
    service.send(answer, &event).await.problem(401, "token_invalid");
}

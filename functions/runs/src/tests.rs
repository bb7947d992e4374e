use super::answer;
use bakeoff_testkit::event::{Answer, Event, Service};
use serde_json::{Value, json};

const RUN_ID: &str = "3f0d3b52-7f6e-4f2b-9a3e-6a6f1f6f0a01";

async fn send(service: &Service, event: &Event) -> Answer {
    service.send(answer, event).await
}

fn enqueue() -> Event {
    Event::sample("runs-enqueue")
}

#[tokio::test]
async fn a_run_id_can_be_enqueued_once() {
    let service = Service::start().await;
    let enqueued = send(&service, &enqueue()).await.expect(201);
    assert_eq!(enqueued["run_id"], RUN_ID);
    assert_eq!(enqueued["rows"][0]["quantizations"], json!(["q4_k_m"]));
    send(&service, &enqueue()).await.problem(409, "run_exists");
}

#[tokio::test]
async fn a_request_without_a_run_id_served_twice_creates_one_run() {
    let service = Service::start().await;
    let mut body = enqueue().body_json();
    body.as_object_mut().unwrap().remove("run_id");
    let twice = async |app, request: bakeoff_lambda::Request| {
        answer(app, request.clone()).await?;
        answer(app, request).await
    };
    service.send(twice, &enqueue().body(&body)).await.problem(409, "run_exists");
    send(&service, &enqueue().body(&body)).await.expect(201);
}

#[tokio::test]
async fn runs_are_listed_in_pages() {
    let service = Service::start().await;
    send(&service, &enqueue()).await.expect(201);
    let mut body = enqueue().body_json();
    body["run_id"] = Value::Null;
    send(&service, &enqueue().body(body)).await.expect(201);
    let page = |query: &str| Event::sample("runs-list").query(query);
    let first = send(&service, &page("status=PENDING&limit=1")).await.expect(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let last = send(&service, &page(&format!("limit=1&cursor={cursor}"))).await.expect(200);
    assert_eq!((&last["rows"][0]["run_id"], &last["next_cursor"]), (&json!(RUN_ID), &Value::Null));
    assert_eq!(send(&service, &page("status=FAILED")).await.expect(200)["rows"], json!([]));
    for (query, pointer) in [("cursor=x", "/cursor"), ("limit=all", "/limit"), ("status=pending", "/status")]
    {
        assert_eq!(send(&service, &page(query)).await.pointers(), [pointer]);
    }
}

#[tokio::test]
async fn a_run_can_be_cancelled_and_requeued() {
    let service = Service::start().await;
    send(&service, &Event::sample("runs-cancel")).await.problem(404, "run_not_found");
    send(&service, &Event::sample("runs-requeue")).await.problem(404, "run_not_found");
    send(&service, &enqueue()).await.expect(201);
    let cancelled = send(&service, &Event::sample("runs-cancel")).await.expect(200);
    assert_eq!(cancelled, json!({ "run_id": RUN_ID, "rows_cancelled": 1 }));
    let cancelled = send(&service, &Event::sample("runs-cancel")).await.expect(200);
    assert_eq!(cancelled["rows_cancelled"], 0);
    let requeued = send(&service, &Event::sample("runs-requeue")).await.expect(200);
    assert_eq!(requeued["rows_requeued"], 1);

    let client = service.database.client().await;
    client.batch_execute("UPDATE run_queue SET status = 'COMPLETE', completed_at = now()").await.unwrap();
    send(&service, &Event::sample("runs-cancel")).await.problem(409, "run_finished");
    send(&service, &Event::sample("runs-requeue")).await.problem(409, "run_finished");
}

#[tokio::test]
async fn a_request_without_iam_context_is_not_an_admin() {
    let service = Service::start().await;
    for sample in ["runs-enqueue", "runs-list", "runs-cancel", "runs-requeue"] {
        let forged = Event::sample(sample).without_iam().header("x-amz-user-arn", "arn:aws:iam::1:user/a");
        send(&service, &forged).await.problem(403, "not_an_admin");
    }
}

#[tokio::test]
async fn all_field_errors_are_reported_at_once() {
    let service = Service::start().await;
    let mut body = enqueue().body_json();
    body["priority"] = json!("high");
    body["prio"] = json!(1);
    body["split_by"] = json!("model");
    body["prompts"] = json!([]);
    body["config"] = json!([]);
    assert_eq!(
        send(&service, &enqueue().body(body)).await.pointers(),
        ["/priority", "/prompts", "/config", "/split_by", "/prio"]
    );
    let mut body = enqueue().body_json();
    body["models"][0]["descriptor"]["quantization"] = json!("q4_km");
    let answer = send(&service, &enqueue().body(body)).await;
    assert_eq!(answer.pointers(), ["/models/0/descriptor/quantization"]);
    send(&service, &enqueue().body("")).await.problem(400, "malformed_request");
    send(&service, &enqueue().route("PATCH /api/admin/runs")).await.problem(404, "no_such_route");
}

/// The service passes `config` on unparsed, so every parser must read the same values from it.
#[tokio::test]
async fn duplicate_names_in_the_config_are_refused() {
    let service = Service::start().await;
    let text = enqueue().body_text().replacen(r#""seed":42"#, r#""seed":42,"seed":43"#, 1);
    assert_ne!(text, enqueue().body_text());
    assert_eq!(send(&service, &enqueue().body(text)).await.pointers(), ["/config"]);
}

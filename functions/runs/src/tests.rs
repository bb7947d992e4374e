use crate::command::RunsCommand;
use bakeoff_lambda::admin::answer;
use bakeoff_testkit::event::{Answer, Event, Service};
use serde_json::{Value, json};

const RUN_ID: &str = "3f0d3b52-7f6e-4f2b-9a3e-6a6f1f6f0a01";

async fn send(service: &Service, event: &Event) -> Answer {
    service.send(answer::<RunsCommand>, event).await
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
        answer::<RunsCommand>(app, request.clone()).await?;
        answer::<RunsCommand>(app, request).await
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
    for sample in [
        "runs-enqueue",
        "runs-list",
        "runs-show",
        "runs-file",
        "runs-cancel",
        "runs-requeue",
        "runs-priority",
    ] {
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

#[tokio::test]
async fn a_run_is_shown_with_its_claim_and_put_first() {
    let (service, _) = Service::with_claim("heartbeat").await;
    let run = send(&service, &Event::sample("runs-show")).await.expect(200);
    assert_eq!((&run["run_id"], &run["status"]), (&json!(RUN_ID), &json!("CLAIMED")));
    assert_eq!(run["rows"][0]["claims"][0]["runner_id"], "runner-amd-8060s");
    assert!(run["rows"][0]["claims"][0]["claimed_at"].as_str().unwrap().ends_with('Z'));
    let changed = send(&service, &Event::sample("runs-priority")).await.expect(200);
    assert_eq!(changed, json!({ "run_id": RUN_ID, "priority": 1, "rows_changed": 1 }));
    let wrong = Event::sample("runs-priority").body(json!({ "priority": -1, "prio": 1 }));
    assert_eq!(send(&service, &wrong).await.pointers(), ["/priority", "/prio"]);
    let missing = Event::sample("runs-priority").body("{}");
    assert_eq!(send(&service, &missing).await.pointers(), ["/priority"]);
    let unknown = Event::sample("runs-show").path_parameter("run_id", "x");
    send(&service, &unknown).await.problem(404, "run_not_found");
    let unknown =
        Event::sample("runs-priority").path_parameter("run_id", "3f0d3b52-7f6e-4f2b-9a3e-6a6f1f6f0a02");
    send(&service, &unknown).await.problem(404, "run_not_found");
}

/// The bytes of a file, as they went into the database.
async fn with_evidence(service: &Service, content: &[u8]) {
    let store = "
        WITH made AS (
            INSERT INTO submissions (submission_id, queue_id, run_id, claim_id, runner_id, sha256, signer_kind,
                                     signer, run_status, late, metrics, receipt, submitted_at)
            SELECT gen_random_uuid(), queue_id, run_id, claim_id, claimed_by, sha256('x'), 'envelope', 'x',
                   'complete', false, '[]', 'x', now() FROM run_queue
            RETURNING submission_id)
        INSERT INTO submission_files SELECT submission_id, 'envelope.json', $1 FROM made";
    service.database.client().await.execute(store, &[&content]).await.unwrap();
}

#[tokio::test]
async fn a_file_comes_byte_for_byte_whole_or_in_parts() {
    let (service, _) = Service::with_claim("heartbeat").await;
    let file = Event::sample("runs-file");
    send(&service, &file).await.problem(404, "file_not_found");
    let content: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    with_evidence(&service, &content).await;

    let whole = send(&service, &file).await;
    let problem = whole.problem(422, "range_required");
    assert_eq!((&problem["size"], &problem["limit"]), (&json!(5_000_000), &json!(4_500_000)));
    let mut read = Vec::new();
    for (range, expected) in [
        ("bytes=0-1", "bytes 0-1/5000000"),
        ("bytes=2-", "bytes 2-4500001/5000000"),
        ("bytes=4500002-", "bytes 4500002-4999999/5000000"),
    ] {
        let part = send(&service, &file.clone().header("range", range)).await;
        assert_eq!((part.status, part.header("content-range")), (206, Some(expected)));
        assert_eq!(part.header("content-type"), Some("application/octet-stream"));
        assert_eq!(part.header("x-content-type-options"), Some("nosniff"));
        read.extend(part.bytes);
    }
    assert!(read == content);
    for range in ["bytes=5000000-", "bytes=x", "bytes=-1"] {
        let answer = send(&service, &file.clone().header("range", range)).await;
        answer.problem(416, "range_not_satisfiable");
        assert_eq!(answer.header("content-range"), Some("bytes */5000000"));
    }
    let wrong = file.query("submission_id=x&submision=y");
    assert_eq!(send(&service, &wrong).await.pointers(), ["/submission_id", "/submision"]);
}

#[tokio::test]
async fn several_runs_are_enqueued_in_one_request_that_can_be_sent_again() {
    let service = Service::start().await;
    let mut other = enqueue().body_json();
    other["run_id"] = json!("3f0d3b52-7f6e-4f2b-9a3e-6a6f1f6f0a02");
    let body = json!({ "runs": [enqueue().body_json(), other] });
    let first = send(&service, &enqueue().body(&body)).await.expect(201);
    assert_eq!(first["runs"][0]["run_id"], RUN_ID);
    assert_eq!(send(&service, &enqueue().body(&body)).await.expect(200), first);
    send(&service, &enqueue().body(json!({ "runs": [body["runs"][0]] }))).await.expect(200);
    let mut changed = body.clone();
    changed["runs"][1]["priority"] = json!(7);
    let refused = send(&service, &enqueue().body(&changed)).await;
    assert!(refused.problem(409, "run_exists")["detail"].as_str().unwrap().contains("6f0a02"));
    changed["runs"][0]["priority"] = json!("high");
    assert_eq!(send(&service, &enqueue().body(&changed)).await.pointers(), ["/runs/0/priority"]);
}

#[tokio::test]
async fn invoked_directly_it_answers_the_same() {
    let (service, _) = Service::with_claim("heartbeat").await;
    with_evidence(&service, b"{\"result\":1}").await;
    let invoke = async |sample: &str| {
        service
            .invoke::<RunsCommand>(Event::sample(sample).json())
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    };
    assert_eq!(invoke("runs-direct-enqueue").await["code"], "run_exists");
    assert_eq!(invoke("runs-direct-list").await["rows"], json!([]));
    assert_eq!(invoke("runs-direct-show").await["rows"][0]["status"], "CLAIMED");
    assert_eq!(invoke("runs-direct-file").await, json!({ "content_base64": "eyJyZXN1bHQiOjF9" }));
    assert_eq!(invoke("runs-direct-priority").await["rows_changed"], 1);
    assert_eq!(invoke("runs-direct-cancel").await["rows_cancelled"], 1);
    assert_eq!(invoke("runs-direct-requeue").await["rows_requeued"], 1);

    let wrong = [
        (json!({}), json!([""])),
        (json!({ "show": {} }), json!(["/show/run_id"])),
        (json!({ "show": { "run_id": RUN_ID }, "list": {} }), json!(["/show"])),
        (json!({ "list": { "limit": 0, "state": "x" } }), json!(["/list/limit", "/list/state"])),
        (json!({ "priority": { "run_id": RUN_ID } }), json!(["/priority/priority"])),
        (json!({ "file": { "run_id": RUN_ID, "offset": -1 } }), json!(["/file/name", "/file/offset"])),
        (
            json!({ "enqueue": { "runs": [{}] } }),
            json!([
                "/enqueue/runs/0/publisher_id",
                "/enqueue/runs/0/models",
                "/enqueue/runs/0/prompts",
                "/enqueue/runs/0/tasks",
                "/enqueue/runs/0/config"
            ]),
        ),
    ];
    for (payload, pointers) in wrong {
        let problem = service.invoke::<RunsCommand>(&payload).await.unwrap();
        let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{problem}"));
        let found: Vec<&Value> = errors.iter().map(|error| &error["pointer"]).collect();
        assert_eq!(json!(found), pointers, "{payload}");
    }
}

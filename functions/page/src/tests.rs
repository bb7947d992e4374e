use super::{CachedOverview, answer};
use bakeoff_testkit::event::{Answer, Event, SERVICE, Service, app};
use serde_json::{Value, json};

async fn send(service: &Service, event: &Event) -> Answer {
    let overview = CachedOverview::default();
    service.send(|app, request| answer(app, request, &overview), event).await
}

#[tokio::test]
async fn the_page_allows_its_own_script_and_style_only() {
    let service = Service::start().await;
    let page = send(&service, &Event::sample("page-html")).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let html = String::from_utf8(page.bytes.clone()).unwrap();
    for once in ["<script>", "<style>"] {
        assert_eq!(html.matches(once).count(), 1, "{once}");
    }
    for never in [" style=", " onclick", " onload", "http://", "https://", "innerHTML", "eval("] {
        assert!(!html.replace("http://www.w3.org/2000/svg", "").contains(never), "{never}");
    }
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[tokio::test]
async fn anyone_sees_counts_and_nobody_sees_names() {
    let (service, _) = Service::with_claim("heartbeat").await;
    let progress =
        r#"UPDATE run_queue SET progress = '{"cells_done": 3, "cells_total": 8, "note": "private"}'"#;
    service.database.client().await.batch_execute(progress).await.unwrap();
    let answer = send(&service, &Event::sample("page-queue")).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("max-age=5")));
    let seen = &answer.body;
    assert_eq!((&seen["rows"]["claimed"], &seen["runners_alive"]), (&json!(1), &json!(1)));
    assert_eq!((&seen["live"][0]["cells_done"], &seen["live"][0]["cells_total"]), (&json!(3), &json!(8)));
    assert_eq!((&seen["runners"], &seen["live"][0]["runner_id"]), (&Value::Null, &Value::Null));
    assert_eq!(seen["hours"].as_array().unwrap().len(), 24);
    let text = seen.to_string();
    for private in ["runner-amd", "private", "claim_id", "bench-admin"] {
        assert!(!text.contains(private), "{private}: {text}");
    }
}

#[tokio::test]
async fn runners_are_named_if_the_service_says_so() {
    let (service, _) = Service::with_claim("heartbeat").await;
    let naming = app(&[
        ("PUBLIC_URL", SERVICE),
        ("DATABASE_URL", service.database.url()),
        ("PUBLIC_RUNNER_NAMES", "true"),
    ]);
    let overview = CachedOverview::default();
    let handler = |app, request| answer(app, request, &overview);
    let seen = bakeoff_testkit::event::serve(&naming, handler, &Event::sample("page-queue")).await.body;
    assert_eq!(seen["runners"][0]["runner_id"], "runner-amd-8060s");
    assert_eq!(seen["live"][0]["runner_id"], "runner-amd-8060s");
}

/// Any number of readers costs the database one overview in five seconds.
#[tokio::test]
async fn an_overview_is_served_again() {
    let service = Service::start().await;
    let overview = CachedOverview::default();
    let event = Event::sample("page-queue");
    let first = service.send(|app, request| answer(app, request, &overview), &event).await.body;
    service.enqueue_run().await;
    let again = service.send(|app, request| answer(app, request, &overview), &event).await.body;
    assert_eq!(again, first);
}

#[tokio::test]
async fn another_route_is_not_found() {
    let service = Service::start().await;
    send(&service, &Event::sample("page-html").route("GET /x")).await.problem(404, "no_such_route");
}

/// Every sample event is a request that the description allows.
#[test]
fn every_sample_event_is_as_described() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../events");
    let mut checked = 0;
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let event: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let (Some(route), Some(body)) = (event["routeKey"].as_str(), event["body"].as_str()) else {
            continue;
        };
        let faults = bakeoff_testkit::openapi::check_request(route, &serde_json::from_str(body).unwrap());
        assert!(faults.is_empty(), "{}:{faults}", path.display());
        checked += 1;
    }
    assert!(checked >= 9, "{checked} events have a body");
}

/// Every problem that the service can answer is described somewhere, and no other.
#[test]
fn every_problem_code_is_described() {
    let golden = include_str!("../../../shared/lambda/tests/problems.txt");
    let codes: std::collections::BTreeSet<&str> =
        golden.lines().filter_map(|line| line.rsplit(": ").next()?.split([' ', ',']).nth(1)).collect();
    let described = bakeoff_testkit::openapi::description().to_string();
    for code in &codes {
        // A route that is not there is not described.
        let is_described = described.contains(&format!("`{code}`"));
        assert_eq!(is_described, *code != "no_such_route", "{code}");
    }
    assert!(codes.len() > 20, "{codes:?}");
}

#[tokio::test]
async fn the_description_is_served_whole_with_its_examples() {
    let service = Service::start().await;
    let answer = send(&service, &Event::sample("page-openapi")).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("max-age=300")));
    let mut served = answer.body;
    assert_eq!(served["servers"], json!([{ "url": SERVICE }]));
    let enqueue = &served["paths"]["/api/admin/runs"]["post"]["requestBody"]["content"]["application/json"];
    assert_eq!(enqueue["example"]["publisher_id"], "bastion");
    served.as_object_mut().unwrap().remove("servers");
    let examples = served["paths"]
        .as_object_mut()
        .unwrap()
        .values_mut()
        .flat_map(|path| path.as_object_mut().unwrap().values_mut());
    for operation in examples {
        if let Some(content) = operation.pointer_mut("/requestBody/content/application~1json") {
            content.as_object_mut().unwrap().remove("example");
        }
    }
    assert_eq!(&served, bakeoff_testkit::openapi::description());
}

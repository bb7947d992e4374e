use super::KeysCommand;
use bakeoff_lambda::admin::answer;
use bakeoff_testkit::event::{Answer, Event, Service};
use serde_json::{Value, json};

const KEY_ID: &str = "kRNQ3MdHFRBPPo2qveGN85_slvVv4xPeB1M-Uz4g9Ho";

async fn send(service: &Service, sample: &str) -> Answer {
    service.send(answer::<KeysCommand>, &Event::sample(sample)).await
}

/// Invokes the function directly, as `aws lambda invoke` does.
#[tokio::test]
async fn a_key_can_be_added_listed_and_revoked() {
    let service = Service::start().await;
    let added = send(&service, "keys-add").await.expect(201);
    assert_eq!((&added["key_id"], &added["kind"]), (&json!(KEY_ID), &json!("ed25519")));
    assert_eq!(added["added_by"], "arn:aws:iam::123456789012:user/bench-admin");
    assert_eq!(send(&service, "keys-add").await.expect(200), added);
    assert_eq!(
        send(&service, "keys-list").await.expect(200),
        json!({ "keys": [added], "next_cursor": null })
    );

    let revoked = send(&service, "keys-revoke").await.expect(200);
    assert_eq!((&revoked["key_id"], &revoked["claims_returned"]), (&json!(KEY_ID), &json!(0)));
    assert_eq!(send(&service, "keys-revoke").await.expect(200), revoked);
}

#[tokio::test]
async fn an_active_key_with_other_attributes_is_key_exists() {
    let service = Service::start().await;
    send(&service, "keys-add").await.expect(201);
    let event = Event::sample("keys-add");
    let mut body = event.body_json();
    body["runner_id"] = json!("another");
    service.send(answer::<KeysCommand>, &event.body(body)).await.problem(409, "key_exists");
}

#[tokio::test]
async fn the_cursor_leads_to_the_next_page() {
    let service = Service::start().await;
    send(&service, "keys-add").await.expect(201);
    service.invoke::<KeysCommand>(Event::sample("keys-direct-add").json()).await.unwrap();
    let page = |query: &str| Event::sample("keys-list").query(query);
    let first = service.send(answer::<KeysCommand>, &page("limit=1")).await.expect(200);
    assert_eq!(first["keys"][0]["key_id"], KEY_ID);
    let cursor = first["next_cursor"].as_str().unwrap();
    let last =
        service.send(answer::<KeysCommand>, &page(&format!("limit=1&cursor={cursor}"))).await.expect(200);
    assert_eq!((&last["keys"][0]["kind"], &last["next_cursor"]), (&json!("oidc"), &Value::Null));
    for (query, pointer) in [("cursor=x", "/cursor"), ("limit=ten", "/limit"), ("limit=", "/limit")] {
        assert_eq!(service.send(answer::<KeysCommand>, &page(query)).await.pointers(), [pointer]);
    }
}

/// Only API Gateway's IAM context identifies an admin; a caller's headers cannot.
#[tokio::test]
async fn a_request_without_iam_context_is_not_an_admin() {
    let service = Service::start().await;
    for sample in ["keys-add", "keys-list", "keys-revoke"] {
        let event = Event::sample(sample).without_iam();
        let forged = r#"{"authorizer":{"iam":{"userArn":"arn:aws:iam::123456789012:user/bench-admin"}}}"#;
        let forged = event
            .clone()
            .header("x-amzn-request-context", forged)
            .header("x-amz-user-arn", "arn:aws:iam::123456789012:user/bench-admin")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE");
        let empty = Event::sample(sample).iam_user("");
        for event in [event, forged, empty] {
            service.send(answer::<KeysCommand>, &event).await.problem(403, "not_an_admin");
        }
    }
}

#[tokio::test]
async fn an_unknown_key_id_is_key_not_found() {
    let service = Service::start().await;
    for key_id in ["x", "", "a\0b", "' OR true --", &"k".repeat(10_000)] {
        let event = Event::sample("keys-revoke").path_parameter("key_id", key_id);
        service.send(answer::<KeysCommand>, &event).await.problem(404, "key_not_found");
    }
}

#[tokio::test]
async fn all_field_errors_are_reported_at_once() {
    let service = Service::start().await;
    let event = Event::sample("keys-add");
    let body = json!({ "public_key": "AAAA", "expires_at": "tomorrow", "name": "bench" });
    assert_eq!(
        service.send(answer::<KeysCommand>, &event.clone().body(body)).await.pointers(),
        ["/public_key", "/label", "/expires_at", "/name"]
    );
    let body = json!({ "issuer": "https://issuer.example", "label": "l", "public_key": "AAAA" });
    assert_eq!(
        service.send(answer::<KeysCommand>, &event.body(body)).await.pointers(),
        ["/subject", "/public_key"]
    );
    let event = Event::sample("keys-revoke").body(r#"{"why":"retired"}"#);
    assert_eq!(service.send(answer::<KeysCommand>, &event).await.pointers(), ["/why"]);
    let event = Event::sample("keys-list").route("PUT /api/admin/keys");
    service.send(answer::<KeysCommand>, &event).await.problem(404, "no_such_route");
}

#[tokio::test]
async fn a_direct_invocation_returns_the_bodies_of_the_routes() {
    let service = Service::start().await;
    let added = service.invoke::<KeysCommand>(Event::sample("keys-direct-add").json()).await.unwrap();
    assert_eq!(added["kind"], "oidc");
    assert!(added["added_by"].as_str().unwrap().starts_with("direct invocation "), "{added}");
    send(&service, "keys-add").await.expect(201);
    let listed = service.invoke::<KeysCommand>(Event::sample("keys-direct-list").json()).await.unwrap();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    let revoked = service.invoke::<KeysCommand>(Event::sample("keys-direct-revoke").json()).await.unwrap();
    assert_eq!(revoked["key_id"], KEY_ID);
}

#[tokio::test]
async fn a_direct_invocation_returns_the_problems_of_the_routes() {
    let service = Service::start().await;
    let wrong = [
        (json!({}), json!([""])),
        (json!("list"), json!([""])),
        (json!({ "list": {}, "revoke": {} }), json!(["/revoke"])),
        (json!({ "list": { "limit": 0, "page": 2 } }), json!(["/list/limit", "/list/page"])),
        (json!({ "add": { "public_key": "AAAA" } }), json!(["/add/public_key", "/add/label"])),
        (json!({ "revoke": { "key": "x" } }), json!(["/revoke/key_id", "/revoke/key"])),
    ];
    for (payload, pointers) in wrong {
        let problem = service.invoke::<KeysCommand>(&payload).await.unwrap();
        assert_eq!((&problem["status"], &problem["code"]), (&json!(422), &json!("invalid_request")));
        let errors = problem["errors"].as_array().unwrap();
        let found: Vec<&Value> = errors.iter().map(|field_error| &field_error["pointer"]).collect();
        assert_eq!(json!(found), pointers, "{payload}");
    }
    let unknown = json!({ "revoke": { "key_id": "x" } });
    assert_eq!(service.invoke::<KeysCommand>(&unknown).await.unwrap()["code"], "key_not_found");
}

#[tokio::test]
async fn an_http_event_gets_a_response_in_payload_format_2() {
    let service = Service::start().await;
    let response = service.invoke::<KeysCommand>(Event::sample("keys-list").json()).await.unwrap();
    assert_eq!((&response["statusCode"], &response["isBase64Encoded"]), (&json!(200), &json!(false)));
    assert_eq!(response["headers"]["content-type"], "application/json");
    let body: Value = serde_json::from_str(response["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["keys"], json!([]));
    let response =
        service.invoke::<KeysCommand>(Event::sample("keys-list").without_iam().json()).await.unwrap();
    assert_eq!(response["statusCode"], 403);
}

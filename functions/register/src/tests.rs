use super::answer;
use bakeoff_testkit::event::{Answer, Event, SERVICE, Service, app, members, proof, proof_claims, serve};
use serde_json::{Value, json};

/// Returns the sample event with a fresh proof.
fn event() -> Event {
    Event::sample("register").header("dpop", &proof(&proof_claims()))
}

fn with_claim(name: &str, value: Value) -> Event {
    let mut claims = proof_claims();
    claims[name] = value;
    Event::sample("register").header("dpop", &proof(&claims))
}

async fn send(service: &Service, event: &Event) -> Answer {
    service.send(answer, event).await
}

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").unwrap()
}

#[tokio::test]
async fn an_allowed_runner_gets_a_token() {
    let service = Service::start().await;
    service.allow_runner().await;
    let registered = send(&service, &event()).await.expect(200);
    let keys = service.app().signing_keys().await.unwrap();
    let runner = keys.authenticate(SERVICE, registered["token"].as_str().unwrap()).unwrap();
    assert_eq!(runner.runner_id(), "runner-amd-8060s");
    assert_eq!(
        members(&registered),
        [
            "expires_at",
            "heartbeat_interval_s",
            "lease_ttl_s",
            "max_body_bytes",
            "poll_after_s",
            "runner_id",
            "server_time",
            "token",
            "token_type"
        ]
    );
    assert_eq!(registered["token_type"], "Bearer");
    assert_eq!((&registered["heartbeat_interval_s"], &registered["lease_ttl_s"]), (&json!(60), &json!(300)));
    for time in ["expires_at", "server_time"] {
        assert!(registered[time].as_str().unwrap().ends_with('Z'), "{registered}");
    }
    send(&service, &event()).await.expect(200);
}

/// Without `PUBLIC_URL`, the domain name that API Gateway writes into the event names the API. The caller
/// writes `Host` and similar headers, so they must have no effect.
#[tokio::test]
async fn a_forged_host_header_does_not_change_the_public_url() {
    const GATEWAY: &str = "https://a1b2c3d4e5.execute-api.us-east-1.amazonaws.com";
    let service = Service::start().await;
    service.allow_runner().await;
    let unnamed =
        app(&[("DATABASE_URL", service.database.url()), ("SIGNING_KEYS_FILE", service.keys_file())]);
    let registration_for = |url: &str| {
        let mut claims = proof_claims();
        claims["htu"] = format!("{url}/api/runners/register").into();
        Event::sample("register").header("dpop", &proof(&claims))
    };
    let forged = |event: Event| {
        let names = ["host", "x-forwarded-host", "forwarded", "x-original-host"];
        names.iter().fold(event, |event, name| event.header(name, "evil.example"))
    };

    let relayed = serve(&unnamed, answer, &forged(registration_for("https://evil.example"))).await;
    relayed.problem(401, "proof_invalid");
    let registered = serve(&unnamed, answer, &forged(registration_for(GATEWAY))).await.expect(200);
    let keys = unnamed.signing_keys().await.unwrap();
    let token = registered["token"].as_str().unwrap();
    assert!(keys.authenticate(GATEWAY, token).is_ok());
    assert!(keys.authenticate("https://evil.example", token).is_err());
    // A configured URL takes precedence over the event's domain name.
    let named = app(&[("PUBLIC_URL", "https://queue.example.org"), ("DATABASE_URL", service.database.url())]);
    serve(&named, answer, &registration_for(GATEWAY)).await.problem(401, "proof_invalid");
}

#[tokio::test]
async fn a_runner_without_a_runner_id_gets_its_key_id() {
    let service = Service::start().await;
    let entry = json!({ "public_key": event().body_json()["public_key"], "label": "any name" });
    service.allow(&entry).await;
    let mut body = event().body_json();
    body.as_object_mut().unwrap().remove("runner_id");
    body["capabilities"]["quantizations"] = json!(["q4_k_m", "q4_km"]);
    let registered = send(&service, &event().body(body)).await.expect(200);
    assert_eq!(registered["runner_id"], "kRNQ3MdHFRBPPo2qveGN85_slvVv4xPeB1M-Uz4g9Ho");
    assert_eq!(registered["unknown_quantizations"], json!(["q4_km"]));
}

#[tokio::test]
async fn a_missing_or_invalid_proof_gets_a_dpop_challenge() {
    let service = Service::start().await;
    let answer = send(&service, &event().without_header("dpop")).await;
    answer.problem(401, "unauthenticated");
    assert_eq!(challenge(&answer), "DPoP algs=\"EdDSA\"");

    let wrong = [
        event().header("dpop", "not.a.jwt"),
        event().header("dpop", &format!("{},{}", proof(&proof_claims()), proof(&proof_claims()))),
        with_claim("htm", json!("GET")),
        with_claim("htu", json!("https://elsewhere.example/api/runners/register")),
        with_claim("jti", json!("")),
    ];
    for event in wrong {
        let answer = send(&service, &event).await;
        answer.problem(401, "proof_invalid");
        assert_eq!(challenge(&answer), "DPoP error=\"invalid_dpop_proof\", algs=\"EdDSA\"");
    }
}

/// A proof must be for the configured URL; otherwise the sender could choose it with the `Host` header.
#[tokio::test]
async fn the_host_header_does_not_change_the_expected_url() {
    let service = Service::start().await;
    let event = with_claim("htu", json!("https://evil.example/api/runners/register"));
    send(&service, &event.header("host", "evil.example")).await.problem(401, "proof_invalid");
}

#[tokio::test]
async fn a_stale_proof_is_answered_with_the_server_time() {
    let service = Service::start().await;
    service.allow_runner().await;
    let answer = send(&service, &with_claim("iat", json!(1_795_341_600_i64))).await;
    assert!(answer.problem(401, "proof_stale")["server_time"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn a_proof_can_be_used_once() {
    let service = Service::start().await;
    service.allow_runner().await;
    let event = event();
    send(&service, &event).await.expect(200);
    send(&service, &event).await.problem(401, "proof_replayed");
}

#[tokio::test]
async fn a_proof_by_another_key_is_refused() {
    let service = Service::start().await;
    service.allow_runner().await;
    let mut body = event().body_json();
    body["public_key"] = json!("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    send(&service, &event().body(body)).await.problem(401, "proof_invalid");
}

#[tokio::test]
async fn a_key_outside_the_allowlist_is_refused() {
    let service = Service::start().await;
    send(&service, &event()).await.problem(403, "key_not_allowed");
}

#[tokio::test]
async fn all_field_errors_are_reported_at_once() {
    let service = Service::start().await;
    let body = json!({
        "runner_id": "", "hostname": "a".repeat(256), "process_id": -1, "descripton": "a typo",
        "capabilities": { "vram_gb": -1, "quantizations": "q4_k_m", "vram": 8, "labels": [] },
    });
    assert_eq!(
        send(&service, &event().body(body)).await.pointers(),
        [
            "/public_key",
            "/runner_id",
            "/capabilities/vram_gb",
            "/capabilities/quantizations",
            "/capabilities/labels",
            "/capabilities/vram",
            "/hostname",
            "/process_id",
            "/descripton"
        ]
    );
    let text = event().body_text().replacen('{', "{\"hostname\":\"a\",", 1);
    assert_eq!(send(&service, &event().body(text)).await.pointers(), [""]);
    send(&service, &event().body("{")).await.problem(400, "malformed_request");
    send(&service, &event().body("[".repeat(100_000))).await.problem(400, "malformed_request");
}

//! Admin routes without an admin's signature, or by another way to the same function.

use bakeoff_local::api_gateway::sigv4::Credentials;
use bakeoff_testkit::event::Event;
use bytes::Bytes;
use serde_json::{Value, json};
use time::Duration;

use crate::request::{Attempt, Signer, attempt, get, post};
use crate::target::{Target, target};

/// Every admin route, with a body that would do something.
fn routes() -> Vec<Attempt> {
    let run = "/api/admin/runs/00000000-0000-4000-8000-000000000000";
    vec![
        get("/api/admin/keys"),
        post("/api/admin/keys").json(&Event::sample("keys-add").body_json()),
        attempt("DELETE", "/api/admin/keys/kRNQ3MdHFRBPPo2qveGN85_slvVv4xPeB1M-Uz4g9Ho"),
        get("/api/admin/runs"),
        post("/api/admin/runs").json(&Event::sample("runs-enqueue").body_json()),
        post(&format!("{run}/cancel")).json(&json!({})),
        post(&format!("{run}/requeue")).json(&json!({})),
    ]
}

async fn nothing_was_done(target: &Target) {
    assert_eq!(target.count("allowlist WHERE label LIKE '%amd-8060s%'").await, 0);
    assert_eq!(target.count("runs WHERE run_id = '3f0d3b52-7f6e-4f2b-9a3e-6a6f1f6f0a01'").await, 0);
}

#[tokio::test]
async fn an_admin_route_without_a_signature() {
    let target = target().await;
    let (_, token) = target.runner("admin-runner").await;
    for route in routes() {
        let claims =
            json!({ "requestContext": { "authorizer": { "iam": { "userArn": "arn:aws:iam::1:root" }}}});
        for unsigned in [
            route.clone(),
            route.clone().bearer(&token),
            route.clone().header("authorization", "Basic YWRtaW46YWRtaW4="),
            route.clone().header("authorization", "AWS4-HMAC-SHA256"),
            route.clone().header("authorization", "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/execute-api/aws4_request, SignedHeaders=host, Signature=00"),
            route.clone().header("x-amzn-request-context", &claims.to_string()),
            route.clone().header("x-amzn-iam-user-arn", "arn:aws:iam::1:root"),
            route.clone().header("x-forwarded-for", "127.0.0.1"),
            route.clone().json(&claims),
        ] {
            let why = format!("{unsigned:?}");
            unsigned.send(&target).await.refused_somehow(&why);
        }
    }
    nothing_was_done(&target).await;
}

#[tokio::test]
async fn a_signature_by_another_key_or_for_another_request() {
    let target = target().await;
    let with = |change: fn(&mut Signer)| {
        let mut signer = Signer::admin();
        change(&mut signer);
        signer
    };
    let credentials = |change: fn(&mut Credentials)| {
        let mut signer = Signer::admin();
        change(&mut signer.credentials);
        signer
    };
    let bent = [
        credentials(|them| them.secret_key = "guessed".into()),
        credentials(|them| them.secret_key = String::new()),
        credentials(|them| them.access_key = "AKIAIOSFODNN7EXAMPLE".into()),
        credentials(|them| them.region = "eu-central-1".into()),
        credentials(|them| them.service = "lambda".into()),
        with(|signer| signer.at -= Duration::minutes(6)),
        with(|signer| signer.at += Duration::minutes(6)),
        with(|signer| signer.method = Some("PUT".parse().unwrap())),
        with(|signer| signer.path = Some("/api/jwks.json".into())),
        with(|signer| signer.path = Some("/api/admin/keys?limit=1".into())),
        with(|signer| signer.body = Some("another body")),
    ];
    for route in routes() {
        for (n, signer) in bent.iter().enumerate() {
            let answer = route.clone().signed(signer.clone()).send(&target).await;
            assert_eq!(answer.status, 403, "signer {n}: {}", answer.text);
        }
    }
    nothing_was_done(&target).await;
    get("/api/admin/keys").admin().send(&target).await.success(200);
}

/// None of these may reach a function that takes the missing signature for granted.
#[tokio::test]
async fn an_admin_route_under_another_spelling_of_its_path() {
    let target = target().await;
    for path in [
        "/api/admin/keys/",
        "//api/admin/keys",
        "/api//admin/keys",
        "/api/admin//keys",
        "/api/./admin/keys",
        "/api/queue/../admin/keys",
        "/api/queue/%2e%2e/admin/keys",
        "/api/queue/..%2fadmin%2fkeys",
        "/api/queue/x/..;/../admin/keys",
        "/api/admin%2fkeys",
        "/api%2fadmin%2fkeys",
        "/api/%61dmin/keys",
        "/api/admin/%6beys",
        "/API/ADMIN/KEYS",
        "/api/admin/keys;a=b",
        "/api/admin/keys%00",
        "/api/admin/keys%20",
        "/api/admin/keys%0a",
        "/api/admin/keys.json",
        "/api/admin/keys%23",
        "/admin/keys",
        "/prod/api/admin/keys",
        "/$default/api/admin/keys",
        "/api/jwks.json/../admin/keys",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let attempt = attempt(method, path).json(&Event::sample("keys-add").body_json());
            attempt.send(&target).await.refused_somehow(path);
        }
    }
    nothing_was_done(&target).await;
}

#[tokio::test]
async fn an_admin_route_by_another_method() {
    let target = target().await;
    for path in ["/api/admin/keys", "/api/admin/runs", "/api/queue/claim", "/api/runners/register"] {
        for method in ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "GETX", "DELETE"] {
            attempt(method, path).send(&target).await.refused_somehow(method);
        }
        for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
            let overridden = attempt("OPTIONS", path).header(name, "POST");
            overridden.send(&target).await.refused_somehow(name);
        }
    }
}

/// Past the gateway: what the function itself says to an event in which no IAM authorizer named an admin.
#[tokio::test]
async fn an_event_without_the_gateways_iam_identity() {
    let target = target().await;
    let samples =
        ["keys-list", "keys-add", "keys-revoke", "runs-list", "runs-enqueue", "runs-cancel", "runs-requeue"];
    for sample in samples {
        let event = Event::sample(sample).json().clone();
        let authorizer = |authorizer: Value| {
            let mut event = event.clone();
            event["requestContext"]["authorizer"] = authorizer;
            event
        };
        let arn = "arn:aws:iam::123456789012:user/bench-admin";
        let events = [
            authorizer(json!(null)),
            authorizer(json!({})),
            authorizer(json!({ "iam": null })),
            authorizer(json!({ "iam": {} })),
            authorizer(json!({ "iam": { "userArn": "" } })),
            authorizer(json!({ "iam": { "userArn": null, "accessKey": "AKIA" } })),
            authorizer(json!({ "lambda": { "userArn": arn } })),
            authorizer(json!({ "jwt": { "claims": { "userArn": arn }, "scopes": [] } })),
            authorizer(json!({ "userArn": arn })),
        ];
        for event in events {
            let answer = invoke(&target, sample, &event).await;
            assert_eq!(answer["statusCode"], 403, "{event}: {answer}");
        }
        // Payload format 1.0, and an event of a load balancer: other places for an identity.
        let mut format_1 = event.clone();
        format_1["version"] = json!("1.0");
        format_1["httpMethod"] = json!("GET");
        format_1["path"] = event["rawPath"].clone();
        format_1["resource"] = event["rawPath"].clone();
        format_1["requestContext"] =
            json!({ "identity": { "userArn": arn }, "httpMethod": "GET", "resourcePath": "/api/admin/keys" });
        let mut balancer = format_1.clone();
        balancer["requestContext"] = json!({ "elb": { "targetGroupArn": arn } });
        for event in [format_1, balancer] {
            let answer = invoke(&target, sample, &event).await;
            assert_ne!(answer["statusCode"], 200, "{event}: {answer}");
            assert_ne!(answer["statusCode"], 201, "{event}: {answer}");
        }
    }
    nothing_was_done(&target).await;
}

/// What the function makes of an event; null where it reports a failed invocation.
async fn invoke(target: &Target, sample: &str, event: &Value) -> Value {
    let function = sample.split('-').next().unwrap();
    let invoked = target.stack().functions[function].invoke(Bytes::from(event.to_string())).await;
    invoked.ok().and_then(|answer| serde_json::from_slice(&answer).ok()).unwrap_or_default()
}

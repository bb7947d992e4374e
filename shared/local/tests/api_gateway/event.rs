//! Payload format 2.0 in both directions, compared with the API Gateway Developer Guide.

use bakeoff_local::api_gateway::event::{ReceivedRequest, http_event, http_response, scheduled_event};
use bakeoff_local::api_gateway::route::{Route, find};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http::request::{Builder, Parts};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::uuid;

const AT: OffsetDateTime = datetime!(2020-03-12 19:03:58.390 UTC);

fn routes() -> Vec<Route> {
    vec![
        Route::new("POST", "/api/queue/claim", "claim", false).unwrap(),
        Route::new("POST", "/api/queue/{run_id}/submit", "submit", false).unwrap(),
        Route::new("DELETE", "/api/admin/keys/{key_id}", "keys", true).unwrap(),
    ]
}

fn event(request: Builder, body: &[u8], access_key: Option<&str>) -> Value {
    let (parts, ()): (Parts, ()) = request.body(()).unwrap().into_parts();
    let routes = routes();
    let route_match = find(&routes, parts.method.as_str(), parts.uri.path()).unwrap();
    let received = ReceivedRequest {
        parts: &parts,
        body,
        peer: "127.0.0.1:50000".parse().unwrap(),
        at: AT,
        request_id: uuid!("6a1f0a35-0e1c-4a4b-8f56-0d3b1f0e9c11"),
    };
    http_event(&received, &route_match, access_key)
}

#[test]
fn the_event_is_the_documented_one() {
    let request =
        Request::post("/api/queue/r%201/submit?parameter1=value1&parameter1=value2&parameter2=a%2Bb")
            .header("Host", "id.execute-api.us-east-1.amazonaws.com:443")
            .header("Content-Type", "application/json")
            .header("User-Agent", "agent")
            .header("Cookie", "cookie1; cookie2")
            .header("Header1", "value1")
            .header("Header1", "value2");
    assert_eq!(
        event(request, br#"{"a": 1}"#, None),
        json!({
            "version": "2.0",
            "routeKey": "POST /api/queue/{run_id}/submit",
            "rawPath": "/api/queue/r%201/submit",
            "rawQueryString": "parameter1=value1&parameter1=value2&parameter2=a%2Bb",
            "cookies": ["cookie1", "cookie2"],
            "headers": {
                "content-type": "application/json",
                "header1": "value1,value2",
                "host": "id.execute-api.us-east-1.amazonaws.com:443",
                "user-agent": "agent",
            },
            "queryStringParameters": {"parameter1": "value1,value2", "parameter2": "a+b"},
            "pathParameters": {"run_id": "r 1"},
            "requestContext": {
                "accountId": "000000000000",
                "apiId": "local",
                "domainName": "id.execute-api.us-east-1.amazonaws.com",
                "domainPrefix": "id",
                "http": {
                    "method": "POST",
                    "path": "/api/queue/r%201/submit",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "127.0.0.1",
                    "userAgent": "agent",
                },
                "requestId": "6a1f0a35-0e1c-4a4b-8f56-0d3b1f0e9c11",
                "routeKey": "POST /api/queue/{run_id}/submit",
                "stage": "$default",
                "time": "12/Mar/2020:19:03:58 +0000",
                "timeEpoch": 1_584_039_838_390_i64,
            },
            "body": r#"{"a": 1}"#,
            "isBase64Encoded": false,
        })
    );
}

#[test]
fn empty_fields_are_omitted() {
    let event = event(Request::post("/api/queue/claim"), b"", None);
    for absent in ["cookies", "queryStringParameters", "pathParameters", "body"] {
        assert_eq!(event.get(absent), None, "{absent}");
    }
    assert_eq!(event["rawQueryString"], "");
    assert_eq!(event["requestContext"].get("authorizer"), None);
}

#[test]
fn the_event_of_an_iam_route_contains_the_caller() {
    let event = event(Request::delete("/api/admin/keys/abc"), b"", Some("local"));
    let iam = &event["requestContext"]["authorizer"]["iam"];
    assert_eq!(iam["accessKey"], "local");
    assert_eq!(iam["userArn"], "arn:aws:iam::000000000000:user/local");
    assert_eq!(iam["accountId"], "000000000000");
}

#[test]
fn uncompressed_text_stays_text_and_other_bodies_are_base64() {
    let post = || Request::post("/api/queue/claim");
    let body_of = |request, body| {
        let event = event(request, body, None);
        (event["body"].as_str().unwrap().to_owned(), event["isBase64Encoded"] == true)
    };
    let text = br#"{"name": "caf\u00e9"}"#;
    let plain = (String::from_utf8(text.to_vec()).unwrap(), false);
    let encoded = (STANDARD.encode(text), true);
    assert_eq!(body_of(post(), text), plain);
    assert_eq!(body_of(post().header("content-type", "application/json; charset=utf-8"), text), plain);
    assert_eq!(body_of(post().header("content-type", "application/problem+json"), text), plain);
    assert_eq!(body_of(post().header("content-type", "application/octet-stream"), text), encoded);
    let gzip = post().header("content-type", "application/json").header("content-encoding", "gzip");
    assert_eq!(body_of(gzip, text), encoded);
    assert_eq!(body_of(post().header("content-type", "application/json"), b"\xff"), ("/w==".into(), true));
}

#[test]
fn the_scheduled_event_has_the_form_of_eventbridge() {
    let event = scheduled_event("reaper", AT);
    assert_eq!(event["source"], "aws.events");
    assert_eq!(event["detail-type"], "Scheduled Event");
    assert_eq!(event["time"], "2020-03-12T19:03:58Z");
    assert_eq!(event["resources"][0], "arn:aws:events:us-east-1:000000000000:rule/reaper");
}

#[test]
fn a_result_with_a_status_code_becomes_that_response() {
    let response = http_response(
        br#"{"statusCode": 201, "headers": {"Content-Type": "application/problem+json", "x-n": 5},
             "multiValueHeaders": {"x-many": ["a", "b"]}, "cookies": ["c1=1", "c2=2"],
             "body": "eyJhIjoxfQ==", "isBase64Encoded": true}"#,
    )
    .unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.body().as_ref(), br#"{"a":1}"#);
    let values = |name| -> Vec<&str> {
        response.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    };
    assert_eq!(values("content-type"), ["application/problem+json"]);
    assert_eq!(values("x-n"), ["5"]);
    assert_eq!(values("x-many"), ["a", "b"]);
    assert_eq!(values("set-cookie"), ["c1=1", "c2=2"]);
}

#[test]
fn a_result_without_a_status_code_becomes_a_200() {
    let response = http_response(br#"{"reaped": 2}"#).unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.body().as_ref(), br#"{"reaped": 2}"#);
}

#[test]
fn an_invalid_result_has_no_response() {
    for invalid in [
        &b"not json"[..],
        br#"{"statusCode": 99}"#,
        br#"{"statusCode": 200, "headers": {"bad name": "x"}}"#,
        br#"{"statusCode": 200, "body": "%", "isBase64Encoded": true}"#,
    ] {
        assert!(http_response(invalid).is_none(), "{}", String::from_utf8_lossy(invalid));
    }
}

//! Request bodies: encodings, size limits and gzip bombs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_lambda::request::{INFLATED_MAX, RECEIVED_MAX};
use bakeoff_lambda::{App, Reply, Request, Result};
use bakeoff_testkit::event::{Answer, Event, app, gzip, serve};
use serde_json::{Value, json};

async fn length(_: &App, request: Request) -> Result {
    Reply::json(200, &json!({ "length": request.body()?.len() }))
}

async fn send(event: &Event) -> Answer {
    serve(&app(&[]), length, event).await
}

fn event() -> Event {
    Event::outside_the_api()
}

#[tokio::test]
async fn text_base64_and_gzip_give_the_same_body() {
    let text = event().body_text().to_owned();
    let encoded = [
        event(),
        event().bytes(text.as_bytes()),
        event().gzip(),
        event().gzip().header("content-encoding", " GZIP "),
        event().header("content-encoding", "identity"),
    ];
    for event in encoded {
        assert_eq!(send(&event).await.expect(200)["length"], text.len(), "{:?}", event.json());
    }
}

#[tokio::test]
async fn every_member_of_a_gzip_body_is_read() {
    let members = [gzip(b"one "), gzip(b"two")].concat();
    let event = event().bytes(&members).header("content-encoding", "gzip");
    assert_eq!(send(&event).await.expect(200)["length"], "one two".len());
}

#[tokio::test]
async fn a_body_that_does_not_match_its_encoding_is_refused() {
    let whole = gzip(b"{}");
    let not_gzip: [&[u8]; 4] = [b"{}", &whole[..whole.len() - 1], &[&whole[..], b"{}"].concat(), b""];
    for bytes in not_gzip {
        let event = event().bytes(bytes).header("content-encoding", "gzip");
        send(&event).await.problem(400, "malformed_request");
    }
    send(&event().bytes(&[0xff, 0xfe])).await.problem(400, "malformed_request");
}

#[tokio::test]
async fn other_encodings_are_refused() {
    for encoding in ["br", "deflate", "gzip, gzip", "gzip,br", "gzip\u{e9}"] {
        let answer = send(&event().header("content-encoding", encoding)).await;
        // A header value that is not visible ASCII is ignored, so the body counts as unencoded.
        if encoding.is_ascii() {
            answer.problem(415, "encoding_unsupported");
        } else {
            answer.expect(200);
        }
    }
}

#[tokio::test]
async fn the_limit_on_received_bytes_is_exact() {
    let largest = "a".repeat(RECEIVED_MAX);
    assert_eq!(send(&event().body(&largest)).await.expect(200)["length"], RECEIVED_MAX);
    let answer = send(&event().bytes(format!("{largest}a").as_bytes())).await;
    let problem = answer.problem(413, "body_too_large");
    assert_eq!((&problem["size"], &problem["limit"]), (&json!(RECEIVED_MAX + 1), &json!(RECEIVED_MAX)));
}

#[tokio::test]
async fn the_limit_on_inflated_bytes_is_exact() {
    let compressed = |length| event().bytes(&gzip(&vec![b'a'; length])).header("content-encoding", "gzip");
    assert_eq!(send(&compressed(INFLATED_MAX)).await.expect(200)["length"], INFLATED_MAX);
    let answer = send(&compressed(INFLATED_MAX + 1)).await;
    let problem = answer.problem(413, "body_too_large");
    assert_eq!((&problem["size"], &problem["limit"]), (&Value::Null, &json!(INFLATED_MAX)));
}

/// The bomb ends in invalid data: inflating all of it would return `malformed_request` instead of
/// `body_too_large`.
#[tokio::test]
async fn inflation_of_a_gzip_bomb_stops_at_the_limit() {
    let member = gzip(&vec![0; INFLATED_MAX / 4]);
    let mut bomb = member.repeat(RECEIVED_MAX / member.len() - 1);
    bomb.extend(b"this is not gzip");
    let event = event().bytes(&bomb).header("content-encoding", "gzip");
    send(&event).await.problem(413, "body_too_large");
}

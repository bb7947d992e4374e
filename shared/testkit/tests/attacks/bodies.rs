//! Bodies that cost more to read than to send, or that two readers read differently.

use std::io::Write as _;

use bakeoff_testkit::event::gzip;
use bakeoff_testkit::fixture::envelope;
use serde_json::json;
use uuid::Uuid;

use crate::request::{Answer, post};
use crate::target::{Target, target};

const RECEIVED_MAX: usize = 4_500_000;
const INFLATED_MAX: usize = 32_000_000;

/// Every route of a runner that takes a body.
fn paths() -> [String; 4] {
    let run_id = Uuid::new_v4();
    let path = |action: &str| format!("/api/queue/{run_id}/{action}");
    ["/api/queue/claim".to_owned(), path("heartbeat"), path("release"), path("submit")]
}

async fn send(target: &Target, path: &str, token: &str, body: impl Into<bytes::Bytes>) -> Answer {
    post(path).bearer(token).body(body).send(target).await
}

async fn send_gzip(target: &Target, path: &str, token: &str, body: Vec<u8>) -> Answer {
    post(path).bearer(token).header("content-encoding", "gzip").body(body).send(target).await
}

#[tokio::test]
async fn a_body_that_inflates_without_end() {
    let target = target().await;
    let (_, token) = target.runner("bodies-bomb").await;
    let mut smallest = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    smallest.write_all(&vec![b' '; INFLATED_MAX + 1]).unwrap();
    let zeros = smallest.finish().unwrap();
    let twice = gzip(&zeros);
    let members: Vec<u8> = std::iter::repeat_n(gzip(&vec![b' '; 8_000_000]), 5).flatten().collect();
    let hundreds: Vec<u8> = std::iter::repeat_n(zeros.clone(), 100).flatten().collect();
    assert!(zeros.len() < 200_000 && hundreds.len() < RECEIVED_MAX);
    for path in paths() {
        for (why, bomb) in [("one member", &zeros), ("five", &members), ("hundreds", &hundreds)] {
            send_gzip(&target, &path, &token, bomb.clone()).await.refused(413, "body_too_large", why);
        }
        // Inflated once, it is gzip and no text.
        send_gzip(&target, &path, &token, twice.clone()).await.refused(400, "malformed_request", "twice");
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_its_encoding_says() {
    let target = target().await;
    let (_, token) = target.runner("bodies-encoding").await;
    let good = gzip(b"{}");
    let mut trailing = good.clone();
    trailing.extend_from_slice(b"{\"claim_id\":1}");
    let mut wrong_sum = good.clone();
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    let broken = [good[..good.len() - 1].to_vec(), good[..10].to_vec(), trailing, wrong_sum, b"{}".to_vec()];
    for (n, body) in broken.into_iter().enumerate() {
        let answer = send_gzip(&target, "/api/queue/claim", &token, body).await;
        answer.refused(400, "malformed_request", &n.to_string());
    }
    for encoding in ["deflate", "br", "zstd", "compress", "x-gzip", "gzip, gzip", "gzip,br", "chunked", "*"] {
        let attempt = post("/api/queue/claim").bearer(&token).header("content-encoding", encoding);
        attempt.body(good.clone()).send(&target).await.refused(415, "encoding_unsupported", encoding);
    }
}

#[tokio::test]
async fn a_body_over_the_limit() {
    let target = target().await;
    let (_, token) = target.runner("bodies-large").await;
    for path in paths() {
        let answer = send(&target, &path, &token, vec![b' '; RECEIVED_MAX + 1]).await;
        answer.refused(413, "body_too_large", &path);
        send(&target, &path, &token, vec![b' '; 7_000_000]).await.refused_somehow("over the event's limit");
        send(&target, &path, &token, vec![b' '; 11_000_000]).await.refused_somehow("over the gateway's");
    }
}

#[tokio::test]
async fn a_body_nested_without_end() {
    let target = target().await;
    let (_, token) = target.runner("bodies-deep").await;
    let deep = |open: &str, close: &str, levels: usize| open.repeat(levels) + "1" + &close.repeat(levels);
    for path in paths() {
        for levels in [200, 1_000_000] {
            let array = deep("[", "]", levels);
            let object = deep("{\"a\":", "}", levels);
            for nested in [&array, &object, &array[..levels]] {
                for body in [
                    nested.to_string(),
                    format!(r#"{{"claim_id":{nested}}}"#),
                    format!(r#"{{"progress":{{"a":{nested}}}}}"#),
                    format!(r#"{{"capabilities":{{"labels":{{"a":{nested}}}}}}}"#),
                    format!(r#"{{"envelope":{{"result":{nested},"sig":{nested}}}}}"#),
                    format!(r#"{{"files":{nested}}}"#),
                ] {
                    let answer = send_gzip(&target, &path, &token, gzip(body.as_bytes())).await;
                    answer.refused_somehow(&format!("{levels} levels"));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_says_something_twice() {
    let target = target().await;
    let (_, token) = target.runner("bodies-twice").await;
    let [claim, heartbeat, release, submit] = paths();
    let id = Uuid::new_v4();
    for (path, body) in [
        (&claim, format!(r#"{{"claim_id":"{id}","claim_id":"{id}"}}"#)),
        (&claim, format!(r#"{{"claim_id":"{id}","claim\u005fid":"{id}"}}"#)),
        (&claim, r#"{"capabilities":{"vram_gb":1,"vram_gb":2,"quantizations":[]}}"#.to_owned()),
        (
            &claim,
            r#"{"capabilities":{"vram_gb":1,"quantizations":[],"labels":{"a":{"b":1,"b":2}}}}"#.to_owned(),
        ),
        (&heartbeat, format!(r#"{{"claim_id":"{id}","progress":{{"a":[{{"b":1,"b":1}}]}}}}"#)),
        (&release, format!(r#"{{"claim_id":"{id}","failure":{{"code":"oom","code":"timeout"}}}}"#)),
        (&submit, format!(r#"{{"claim_id":"{id}","envelope":{{"result":{{}},"result":{{}},"sig":{{}}}}}}"#)),
        (&submit, format!(r#"{{"claim_id":"{id}","files":{{"result.json":"e30=","result.json":"e30="}}}}"#)),
        (&submit, format!(r#"{{"claim_id":"{id}","files":{{"a":"e30="}},"files":{{"b":"e30="}}}}"#)),
    ] {
        let answer = send(&target, path, &token, body.clone()).await;
        answer.refused(422, "invalid_request", &body);
        let told = answer.text.contains("twice") || answer.text.contains("duplicate");
        assert!(told, "{body} is refused, but for another reason: {}", answer.text);
    }
}

#[tokio::test]
async fn a_body_that_is_no_unicode_or_no_json() {
    let target = target().await;
    let (_, token) = target.runner("bodies-text").await;
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bodies: [(&str, Vec<u8>); 14] = [
        ("UTF-16", utf16),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec()),
        ("overlong", b"{\"claim_id\":\"\xc0\xa7\"}".to_vec()),
        ("a surrogate in UTF-8", b"{\"claim_id\":\"\xed\xa0\x80\"}".to_vec()),
        ("a lone surrogate", br#"{"progress":{"a":"\ud800"}}"#.to_vec()),
        ("reversed surrogates", br#"{"progress":{"a":"\udc00\ud800"}}"#.to_vec()),
        ("NaN", br#"{"progress":{"a":NaN}}"#.to_vec()),
        ("Infinity", br#"{"progress":{"a":-Infinity}}"#.to_vec()),
        ("a number past a double", br#"{"progress":{"a":1e400}}"#.to_vec()),
        ("a comment", b"{/**/}".to_vec()),
        ("a trailing comma", br#"{"progress":{},}"#.to_vec()),
        ("single quotes", b"{'progress':{}}".to_vec()),
        ("two documents", b"{}{}".to_vec()),
        ("a raw control character", b"{\"claim_id\":\"\x01\"}".to_vec()),
    ];
    for path in paths() {
        for (why, body) in &bodies {
            send(&target, &path, &token, body.clone()).await.refused_somehow(why);
        }
    }
}

/// The answer to a large body must not be one: over 6 MB, Lambda turns a refusal into a failure.
#[tokio::test]
async fn a_body_that_wants_itself_repeated() {
    let target = target().await;
    let (_, token) = target.runner("bodies-echo").await;
    let long = "x".repeat(7_000_000);
    let unknown: String = (0..300_000).map(|n| format!(r#""{n:090}":0,"#)).collect();
    for path in paths() {
        for body in [
            format!(r#"{{"{long}":0}}"#),
            format!(r#"{{"{long}":0,"{long}":0}}"#),
            format!(r#"{{{unknown}"end":0}}"#),
            format!(r#"{{"claim_id":"{long}"}}"#),
            format!(r#"{{"claim_id":["{long}"]}}"#),
            format!(r#"{{"capabilities":{{"vram_gb":"{long}","quantizations":"{long}","{long}":1}}}}"#),
            format!(r#"{{"progress":{{"{long}":1,"{long}":1}}}}"#),
            format!(r#"{{"failure":{{"code":"{long}","detail":"{long}"}}}}"#),
            format!(r#"{{"files":{{"{long}":"{long}"}}}}"#),
            format!(
                r#"{{"envelope":{{"{long}":1,"result":{{"{long}":1,"{long}":1}},"sig":{{"{long}":"{long}"}}}}}}"#
            ),
        ] {
            send_gzip(&target, &path, &token, gzip(body.as_bytes())).await.refused_somehow(&body[..40]);
        }
    }
}

/// 1.1 million numbers just above half of the smallest double, which took a minute of CPU to convert.
#[tokio::test]
async fn a_body_of_numbers_that_are_slow_to_convert() {
    let target = target().await;
    let (_, token) = target.runner("bodies-numbers").await;
    let numbers = vec!["2.47032822920623272082e-324"; 1_100_000].join(",");
    let [_, heartbeat, _, submit] = paths();
    let sig = format!(
        r#"{{"sha256":"{}","signature":"{}==","runner_id":"r","signed_at":"t"}}"#,
        "0".repeat(64),
        "A".repeat(86)
    );
    for (path, body) in [
        (
            submit,
            format!(
                r#"{{"claim_id":"{}","envelope":{{"result":{{"a":[{numbers}]}},"sig":{sig}}}}}"#,
                Uuid::new_v4()
            ),
        ),
        (heartbeat, format!(r#"{{"claim_id":"{}","progress":{{"a":[{numbers}]}}}}"#, Uuid::new_v4())),
    ] {
        let answer = send_gzip(&target, &path, &token, gzip(body.as_bytes())).await;
        assert_eq!(answer.status, 422, "{}", answer.text);
    }
}

/// A signer policy comes from a repository that others can send changes to.
#[tokio::test]
async fn a_signer_policy_that_grows_without_end() {
    let target = target().await;
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        laughs += &format!("a{n}: &a{n} [{aliases}]\n");
    }
    let deep = |open: &str| open.repeat(1_000_000);
    for policy in [laughs, deep("["), deep("{a: "), deep("- "), deep("? "), "a".repeat(3_000_000)] {
        let attempt = post("/api/admin/keys").admin().json(&json!({ "signer_policy": policy }));
        attempt.send(&target).await.refused(422, "invalid_request", &policy[..20]);
    }
}

/// Signed by the runner itself, so that it is read at all.
#[tokio::test]
async fn a_signed_run_id_that_wants_itself_repeated() {
    let target = target().await;
    let (machine, token) = target.runner("bodies-run-id").await;
    let envelope = envelope(&machine, &json!({ "run_id": "x".repeat(7_000_000) }));
    let body = format!(r#"{{"claim_id":"{}","envelope":{envelope}}}"#, Uuid::new_v4());
    let path = format!("/api/queue/{}/submit", Uuid::new_v4());
    let answer = send_gzip(&target, &path, &token, gzip(body.as_bytes())).await;
    answer.refused(422, "run_mismatch", "a run_id of 7 MB");
    let large = "audit_log WHERE length(detail::text) > 1000";
    assert_eq!(target.count(large).await, 0, "nor does the audit log repeat it");
}

/// A registration is read before anyone knows whose it is.
#[tokio::test]
async fn a_registration_as_large_and_odd_as_they_come() {
    let target = target().await;
    let machine = target.allowed("bodies-register").await;
    let long = "x".repeat(4_000_000);
    let mut labels = machine.registration();
    labels["capabilities"]["labels"] = json!({ "a": long });
    let mut names = machine.registration();
    names["capabilities"]["quantizations"] = json!(vec!["q"; 200_000]);
    for body in [labels.to_string(), names.to_string(), format!(r#"{{"{long}":1}}"#), "[".repeat(4_000_000)] {
        let proof = machine.proof(&target.proof_claims(&machine));
        let attempt = post("/api/runners/register").header("dpop", &proof).body(body);
        attempt.send(&target).await.refused_somehow("a large registration");
    }
    let bomb = gzip(&vec![b' '; INFLATED_MAX + 1]);
    let proof = machine.proof(&target.proof_claims(&machine));
    let attempt = post("/api/runners/register").header("dpop", &proof).header("content-encoding", "gzip");
    attempt.body(bomb).send(&target).await.refused(413, "body_too_large", "a bomb");
}

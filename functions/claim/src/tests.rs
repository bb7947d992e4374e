use super::answer;
use bakeoff_lambda::{App, Request, Result};
use bakeoff_testkit::event::{Answer, Event, Service, members};
use serde_json::{Value, json};

fn event(token: &str) -> Event {
    Event::sample("claim").bearer(token)
}

async fn send(service: &Service, event: &Event) -> Answer {
    service.send(answer, event).await
}

#[tokio::test]
async fn a_claim_returns_the_job() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    service.enqueue_run().await;
    let job = send(&service, &event(&token)).await.expect(200);
    assert_eq!(
        members(&job),
        [
            "attempt",
            "claim_id",
            "config",
            "heartbeat_interval_s",
            "lease_expires_at",
            "max_attempts",
            "model",
            "models",
            "nonce",
            "priority",
            "prompts",
            "queue_id",
            "run_id",
            "server_time",
            "tasks"
        ]
    );
    assert_eq!(job["claim_id"], event(&token).body_json()["claim_id"]);
    let enqueued = Event::sample("runs-enqueue").body_json();
    for member in ["run_id", "tasks", "config", "priority", "max_attempts"] {
        assert_eq!(job[member], enqueued[member], "{member}");
    }
    assert_eq!(job["model"]["quantization"], "q4_k_m");
    assert_eq!(job["prompts"][0]["id"], "plain");

    // The runner repeats the claim after a lost response.
    assert_eq!(send(&service, &event(&token)).await.expect(200)["queue_id"], job["queue_id"]);
}

#[tokio::test]
async fn a_claim_without_an_eligible_job_returns_204_with_retry_after() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    for body in [event(&token).body_text(), "{}"] {
        let answer = send(&service, &event(&token).body(body)).await;
        let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((50..=70).contains(&seconds));
        assert_eq!(answer.expect(204), Value::Null);
    }
}

#[tokio::test]
async fn claims_of_a_runner_that_fails_every_job_pause() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    service.enqueue_run().await;
    let pause = "UPDATE runners SET failures_in_a_row = 5, claims_paused_until = now() + interval '1 minute'";
    service.database.client().await.execute(pause, &[]).await.unwrap();
    let answer = send(&service, &event(&token)).await;
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((59..=75).contains(&seconds), "{seconds}");
    assert_eq!(answer.expect(204), Value::Null);
    let explained = send(&service, &event(&token).query("explain=true")).await.expect(200);
    assert_eq!((&explained["failures_in_a_row"], &explained["eligible"]), (&json!(5), &json!(1)));
    assert!(explained["paused_until"].is_string());
}

#[tokio::test]
async fn explain_counts_the_jobs_that_fail_each_requirement() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    service.enqueue_run().await;
    let explain = |body: Value| event(&token).query("explain=true").body(body);
    let too_small = json!({ "capabilities": { "vram_gb": 1, "quantizations": ["q4_k_m"] } });
    let explanation = send(&service, &explain(too_small)).await.expect(200);
    assert_eq!(
        explanation,
        json!({
            "vram": 1, "quantization": 0, "label": 0, "deferred": 0, "held_by_others": 0, "eligible": 0,
            "failures_in_a_row": 0, "paused_until": null,
            "nearest_miss": {
                "required_vram_gb": 6, "quantizations": ["q4_k_m"], "labels": {},
                "lacks_vram_gb": 5.0, "lacks_quantizations": [], "lacks_labels": {},
                "detail": "the nearest job needs 6 GB with q4_k_m; this runner has 1 GB",
            },
        })
    );

    // With an eligible job, `explain=true` claims it as usual.
    let job = send(&service, &explain(json!({}))).await.expect(200);
    assert_eq!(job["attempt"], 1);
}

#[tokio::test]
async fn a_request_served_twice_claims_one_job() {
    async fn twice(app: &App, request: Request) -> Result {
        answer(app, request.clone()).await?;
        answer(app, request).await
    }
    let service = Service::start().await;
    let token = service.register_runner().await;
    service.enqueue_run().await;
    service.send(twice, &event(&token).body("{}")).await.expect(200);
}

#[tokio::test]
async fn a_cancelled_claim_is_not_returned_again() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    service.enqueue_run().await;
    send(&service, &event(&token)).await.expect(200);
    service.cancel_run().await;
    send(&service, &event(&token)).await.problem(409, "claim_lost");
}

#[tokio::test]
async fn all_field_errors_are_reported_at_once() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    let body = json!({
        "claim_id": "not-a-uuid", "claimid": 1, "capabilities": { "quantizations": ["q4_k_m"], "gb": 1 },
    });
    assert_eq!(
        send(&service, &event(&token).body(body)).await.pointers(),
        ["/claim_id", "/capabilities/vram_gb", "/capabilities/gb", "/claimid"]
    );
    for wrong in ["[]", "null", "\"claim\"", r#"{"claim_id":null,"claim_id":null}"#] {
        assert_eq!(send(&service, &event(&token).body(wrong)).await.pointers(), [""], "{wrong}");
    }
    for wrong in ["", "{", "{}{}", "nonsense", "{\"claim_id\": NaN}"] {
        send(&service, &event(&token).body(wrong)).await.problem(400, "malformed_request");
    }
}

/// With a duplicate name, one parser would read the first value and another the last.
#[tokio::test]
async fn duplicate_member_names_are_refused() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    let body = r#"{"capabilities":{"vram_gb":1,"quantizations":[],"labels":{"a":1,"a":2}}}"#;
    let answer = send(&service, &event(&token).body(body)).await;
    assert_eq!(answer.pointers(), ["/capabilities/labels"]);
}

mod token {
    use super::{Answer, Event, Service, event, send};
    use bakeoff_lambda::{App, Request, Result};
    use bakeoff_testkit::event::app;
    use time::Duration;

    fn challenge(answer: &Answer) -> &str {
        answer.header("www-authenticate").unwrap()
    }

    #[tokio::test]
    async fn a_request_without_a_token_is_challenged() {
        let service = Service::start().await;
        let event = Event::sample("claim");
        let events = [
            event.clone().without_header("authorization"),
            event.clone().header("authorization", "Basic cnVubmVyOnNlY3JldA=="),
            event.clone().header("authorization", "Bearer "),
            event.header("authorization", "Bearer"),
        ];
        for event in events {
            let answer = send(&service, &event).await;
            answer.problem(401, "unauthenticated");
            assert_eq!(challenge(&answer), "Bearer");
        }
    }

    #[tokio::test]
    async fn expired_and_invalid_tokens_have_different_codes() {
        let service = Service::start().await;
        let token = service.register_runner().await;
        let expired = service.token_of("runner-amd-8060s", -Duration::hours(1)).await;
        let answer = send(&service, &event(&expired)).await;
        answer.problem(401, "token_expired");
        assert_eq!(challenge(&answer), r#"Bearer error="invalid_token", error_description="token_expired""#);

        let altered = token.replace('.', "A.");
        // The key that signed the sample's token no longer exists.
        let sample = Event::sample("claim").json()["headers"]["authorization"].clone();
        let sample = sample.as_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        for token in [altered.as_str(), "nonsense", &sample, &format!("{token},{token}")] {
            let answer = send(&service, &event(token)).await;
            answer.problem(401, "token_invalid");
            let expected = r#"Bearer error="invalid_token", error_description="token_invalid""#;
            assert_eq!(challenge(&answer), expected);
        }
        send(&service, &event(&token)).await.expect(204);
        let lower_case = Event::sample("claim").header("authorization", &format!("bearer {token}"));
        send(&service, &lower_case).await.expect(204);
    }

    #[tokio::test]
    async fn a_revoked_key_is_refused_immediately() {
        let service = Service::start().await;
        let token = service.register_runner().await;
        let client = service.database.client().await;
        client
            .batch_execute("UPDATE allowlist SET revoked_at = now(), revoked_by = 'an admin'")
            .await
            .unwrap();
        send(&service, &event(&token)).await.problem(403, "key_not_allowed");
    }

    /// A caller without a token learns neither the database's state nor the body's errors.
    #[tokio::test]
    async fn the_token_is_checked_before_the_database_and_the_body() {
        async fn answer(app: &App, request: Request) -> Result {
            super::answer(app, request).await
        }
        let service = Service::start().await;
        let keys = service.keys_file();
        let without_database = app(&[
            ("PUBLIC_URL", bakeoff_testkit::event::SERVICE),
            ("SIGNING_KEYS_FILE", keys),
            ("DATABASE_URL", "postgres://bakeoff@127.0.0.1:1/bakeoff"),
        ]);
        let event = event("nonsense").body("{");
        bakeoff_testkit::event::serve(&without_database, answer, &event).await.problem(401, "token_invalid");
    }
}

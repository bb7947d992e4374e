//! What happens to a request when its connection is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_lambda::serve::twice;
use bakeoff_lambda::{App, Refusal, Reply, Request, Result};
use bakeoff_testkit::event::{Event, Service, app, serve};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DIE: &str = "SELECT pg_terminate_backend(pg_backend_pid())";

/// Runs a statement, and answers which backend served it.
async fn run(app: &App, sql: &str) -> Result<i32> {
    let client = app.database().await?;
    client.batch_execute(sql).await.map_err(Error::Database)?;
    Ok(client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(Error::Database)?.get(0))
}

fn answered(backend: i32) -> Result {
    Reply::json(200, &json!({ "backend": backend }))
}

/// Serves one request whose first try runs `first`, and whose second `second`.
async fn served(service: &Service, first: &str, second: &str) -> (bakeoff_testkit::event::Answer, u32) {
    let tries = AtomicU32::new(0);
    let handler = |app, _: Request| {
        let sql = if tries.fetch_add(1, Ordering::Relaxed) == 0 { first } else { second };
        async move { answered(run(app, sql).await?) }
    };
    let answer = service.send(handler, &Event::sample("claim")).await;
    (answer, tries.load(Ordering::Relaxed))
}

#[tokio::test]
async fn one_connection_serves_until_it_is_lost() {
    let service = Service::start().await;
    let backend = served(&service, "", "").await.0.expect(200)["backend"].clone();
    assert_eq!(served(&service, "", "").await.0.expect(200)["backend"], backend);

    // While nobody uses it, as in a frozen environment.
    let admin = service.database.client().await;
    let pid = i32::try_from(backend.as_i64().unwrap()).unwrap();
    admin.query("SELECT pg_terminate_backend($1, 10000)", &[&pid]).await.unwrap();
    assert_ne!(served(&service, "", "").await.0.expect(200)["backend"], backend);
}

#[tokio::test]
async fn a_request_is_served_again_on_a_new_connection() {
    let service = Service::start().await;
    let (answer, tries) = served(&service, DIE, "").await;
    answer.expect(200);
    assert_eq!(tries, 2);
}

#[tokio::test]
async fn a_primary_that_has_become_a_standby_is_left() {
    let service = Service::start().await;
    let write = "CREATE TABLE written ()";
    let on_standby = format!("SET default_transaction_read_only = on; {write}");
    served(&service, &on_standby, write).await.0.expect(200);
}

#[tokio::test]
async fn the_second_try_is_the_last() {
    let service = Service::start().await;
    let (answer, tries) = served(&service, DIE, DIE).await;
    answer.problem(503, "unavailable");
    assert_eq!(tries, 2);
    served(&service, "", "").await.0.expect(200);
}

#[tokio::test]
async fn what_would_fail_again_is_not_tried_again() {
    let service = Service::start().await;
    let (answer, tries) = served(&service, "SELECT 1 / 0", "").await;
    assert_eq!(tries, 1);
    // Nothing of the cause is told.
    assert!(!answer.problem(500, "internal").to_string().contains("zero"));
}

/// A proof spent, a run made: then the first try did it, or another's request. Nobody can tell.
#[tokio::test]
async fn what_the_first_try_may_have_done_is_no_refusal() {
    let service = Service::start().await;
    let refusals: [fn() -> Error; 2] = [|| Error::ProofReplayed, || Error::RunExists];
    for refusal in refusals {
        let tries = AtomicU32::new(0);
        let handler = |app, _: Request| {
            let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
            async move { if first { answered(run(app, DIE).await?) } else { Err(refusal().into()) } }
        };
        service.send(handler, &Event::sample("register")).await.problem(503, "unavailable");
    }
}

#[tokio::test]
async fn both_tries_choose_the_same_id() {
    let service = Service::start().await;
    let ids = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..2 {
        let handler = |app, request: Request| {
            ids.lock().unwrap().push(request.fresh_id());
            async move { answered(run(app, DIE).await?) }
        };
        service.send(handler, &Event::sample("claim")).await.problem(503, "unavailable");
    }
    let ids = ids.lock().unwrap();
    assert_eq!((ids[0], ids[2]), (ids[1], ids[3]));
    assert_ne!(ids[0], ids[2]);
}

#[tokio::test]
async fn time_is_limited_and_the_busy_connection_left() {
    let service = Service::start().await;
    let before = run(service.app(), "").await.unwrap();
    let limit = Duration::from_millis(50);
    let outcome = twice(service.app(), limit, || run(service.app(), "SELECT pg_sleep(600)")).await;
    assert!(matches!(outcome, Err(Refusal::TimedOut)), "{outcome:?}");
    assert_ne!(run(service.app(), "").await.unwrap(), before);
}

#[tokio::test]
async fn without_a_database_the_service_is_unavailable() {
    let handler = async |app, _: Request| answered(run(app, "").await?);
    // Port 1 is never served.
    let away = app(&[("DATABASE_URL", "postgres://bakeoff:s3cret@127.0.0.1:1/bakeoff")]);
    let answer = serve(&away, handler, &Event::sample("claim")).await;
    let problem = answer.problem(503, "unavailable");
    assert!(!problem.to_string().contains("127.0.0.1"), "{problem}");

    let answer = serve(&app(&[]), handler, &Event::sample("claim")).await;
    assert_eq!(answer.problem(500, "internal")["errors"], Value::Null);
}

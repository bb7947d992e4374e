//! Requests whose database connection is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_core::session::Session as _;
use bakeoff_lambda::config::DatabaseSource;
use bakeoff_lambda::database::Database;
use bakeoff_lambda::secrets::Secrets;
use bakeoff_lambda::serve::with_retry;
use bakeoff_lambda::tls::Roots;
use bakeoff_lambda::{App, Refusal, Reply, Request, Result};
use bakeoff_testkit::event::{Event, Service, app, serve};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_postgres::types::Type;

const TERMINATE_BACKEND: &str = "SELECT pg_terminate_backend(pg_backend_pid())";

/// Runs a statement and returns the process id of its backend.
async fn run(app: &App, sql: &str) -> Result<i32> {
    let client = app.database().await?;
    client.batch_execute(sql).await.map_err(Error::Database)?;
    Ok(client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(Error::Database)?.get(0))
}

fn backend_reply(backend: i32) -> Result {
    Reply::json(200, &json!({ "backend": backend }))
}

/// Serves one request whose first attempt runs `first` and whose second runs `second`. Returns the number of
/// attempts too.
async fn serve_statements(
    service: &Service,
    first: &str,
    second: &str,
) -> (bakeoff_testkit::event::Answer, u32) {
    let attempts = AtomicU32::new(0);
    let handler = |app, _: Request| {
        let sql = if attempts.fetch_add(1, Ordering::Relaxed) == 0 { first } else { second };
        async move { backend_reply(run(app, sql).await?) }
    };
    let answer = service.send(handler, &Event::outside_the_api()).await;
    (answer, attempts.load(Ordering::Relaxed))
}

#[tokio::test]
async fn one_connection_serves_until_it_is_lost() {
    let service = Service::start().await;
    let backend = serve_statements(&service, "", "").await.0.expect(200)["backend"].clone();
    assert_eq!(serve_statements(&service, "", "").await.0.expect(200)["backend"], backend);

    // The connection breaks while idle, as in a frozen environment.
    let admin = service.database.client().await;
    let pid = i32::try_from(backend.as_i64().unwrap()).unwrap();
    admin.query("SELECT pg_terminate_backend($1, 10000)", &[&pid]).await.unwrap();
    assert_ne!(serve_statements(&service, "", "").await.0.expect(200)["backend"], backend);
}

#[tokio::test]
async fn a_request_is_served_again_on_a_new_connection() {
    let service = Service::start().await;
    let (answer, attempts) = serve_statements(&service, TERMINATE_BACKEND, "").await;
    answer.expect(200);
    assert_eq!(attempts, 2);
}

#[tokio::test]
async fn a_request_to_a_former_primary_is_served_on_a_new_connection() {
    let service = Service::start().await;
    let write = "INSERT INTO audit_log (actor, action) VALUES ('x', 'x')";
    let on_standby = format!("SET default_transaction_read_only = on; {write}");
    serve_statements(&service, &on_standby, write).await.0.expect(200);
}

#[tokio::test]
async fn a_request_is_retried_once() {
    let service = Service::start().await;
    let (answer, attempts) = serve_statements(&service, TERMINATE_BACKEND, TERMINATE_BACKEND).await;
    answer.problem(503, "unavailable");
    assert_eq!(attempts, 2);
    serve_statements(&service, "", "").await.0.expect(200);
}

#[tokio::test]
async fn an_error_that_would_repeat_is_not_retried() {
    let service = Service::start().await;
    let (answer, attempts) = serve_statements(&service, "SELECT 1 / 0", "").await;
    assert_eq!(attempts, 1);
    // The problem document does not contain the cause.
    assert!(!answer.problem(500, "internal").to_string().contains("zero"));
}

/// After a lost reply, `proof_replayed` and `run_exists` can come from the request's own first attempt.
#[tokio::test]
async fn a_refusal_that_the_first_attempt_may_have_caused_is_unavailable() {
    let service = Service::start().await;
    let refusals: [fn() -> Error; 2] = [|| Error::ProofReplayed, || Error::RunExists];
    for refusal in refusals {
        let attempts = AtomicU32::new(0);
        let handler = |app, _: Request| {
            let first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if first { backend_reply(run(app, TERMINATE_BACKEND).await?) } else { Err(refusal().into()) }
            }
        };
        service.send(handler, &Event::sample("register")).await.problem(503, "unavailable");
    }
}

#[tokio::test]
async fn both_attempts_use_the_same_generated_id() {
    let service = Service::start().await;
    let ids = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..2 {
        let handler = |app, request: Request| {
            ids.lock().unwrap().push(request.generated_id());
            async move { backend_reply(run(app, TERMINATE_BACKEND).await?) }
        };
        service.send(handler, &Event::outside_the_api()).await.problem(503, "unavailable");
    }
    let ids = ids.lock().unwrap();
    assert_eq!((ids[0], ids[2]), (ids[1], ids[3]));
    assert_ne!(ids[0], ids[2]);
}

#[tokio::test]
async fn a_timeout_stops_the_work_and_drops_the_connection() {
    let service = Service::start().await;
    let before = run(service.app(), "").await.unwrap();
    let limit = Duration::from_millis(50);
    let outcome = with_retry(service.app(), limit, || run(service.app(), "SELECT pg_sleep(600)")).await;
    assert!(matches!(outcome, Err(Refusal::TimedOut)), "{outcome:?}");
    assert_ne!(run(service.app(), "").await.unwrap(), before);
}

#[tokio::test]
async fn without_a_database_the_service_is_unavailable() {
    let handler = async |app, _: Request| backend_reply(run(app, "").await?);
    // No server listens on port 1.
    let without_database = app(&[("DATABASE_URL", "postgres://bakeoff:s3cret@127.0.0.1:1/bakeoff")]);
    let answer = serve(&without_database, handler, &Event::outside_the_api()).await;
    let problem = answer.problem(503, "unavailable");
    assert!(!problem.to_string().contains("127.0.0.1"), "{problem}");

    let answer = serve(&app(&[]), handler, &Event::outside_the_api()).await;
    assert_eq!(answer.problem(500, "internal")["errors"], Value::Null);
}

/// Prepared statements are kept only where the configuration says that the connection may have them: behind a
/// multiplexing proxy they would pin a server session or be missing from it.
#[tokio::test]
async fn statements_are_prepared_once_and_only_if_configured() {
    let database = bakeoff_testkit::Database::create().await;
    for (prepared_statements, expected) in [(false, 0), (true, 1)] {
        let source = DatabaseSource::Url(database.url().to_owned());
        let session = Database::new(source, Roots::Aws)
            .with_prepared_statements(prepared_statements)
            .client(&Secrets::default())
            .await
            .unwrap();
        for n in 0..3 {
            let row = session.query_row("SELECT $1 + 1", &[(&n, Type::INT4)]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), n + 1);
        }
        let kept = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1 + 1'";
        let kept = session.query_typed(kept, &[]).await.unwrap();
        assert_eq!(kept[0].get::<_, i64>(0), expected);
    }
}

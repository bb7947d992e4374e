//! From an event to a handler and back.

use crate::app::App;
use crate::config::Config;
use crate::problem::Refusal;
use crate::request::Request;
use crate::response::Reply;
use crate::telemetry::publish;
use lambda_http::{Body, RequestExt, Response, service_fn};
use std::time::{Duration, Instant};

/// How long a handler may work: less than the function's own timeout, so that the caller gets an answer.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves HTTP events with `handler` for as long as the environment lives.
///
/// A refusal is a reply. Only what no handler could answer is an error of the invocation.
pub async fn serve<H, F>(handler: H) -> Result<(), lambda_http::Error>
where
    H: Fn(&'static App, Request) -> F + Send + Sync,
    F: Future<Output = crate::Result> + Send,
{
    let app = start()?;
    let handler = &handler;
    lambda_http::run(service_fn(|request: lambda_http::Request| async move {
        respond(app, handler, request).await
    }))
    .await
}

/// Sets up logging and reads the settings. One app a process, for as long as it lives: the runtime's
/// futures must not borrow from anything shorter.
pub fn start() -> Result<&'static App, lambda_http::Error> {
    lambda_http::tracing::init_default_subscriber();
    Ok(Box::leak(Box::new(App::new(Config::from_env()?))))
}

/// Serves one event: handler, time limit, one more try on a fresh connection, log, metrics.
pub async fn respond<A, H, F>(
    app: A,
    handler: H,
    request: lambda_http::Request,
) -> Result<Response<Body>, lambda_http::Error>
where
    A: std::ops::Deref<Target = App> + Copy,
    H: Fn(A, Request) -> F,
    F: Future<Output = crate::Result>,
{
    let started = Instant::now();
    let request_id =
        request.lambda_context_ref().map(|context| context.request_id.clone()).unwrap_or_default();
    let request = Request::from(request);
    let mut outcome = within_time(handler(app, request.clone())).await;
    if outcome.as_ref().is_err_and(Refusal::connection_is_lost) {
        // The database was restarted, or failed over: every operation may be sent again, so it is.
        app.disconnect().await;
        outcome = within_time(handler(app, request.clone())).await;
    }
    if matches!(outcome, Err(Refusal::TimedOut)) {
        // The abandoned statement still runs on the connection.
        app.disconnect().await;
    }
    let reply = outcome.unwrap_or_else(Refusal::into_reply);
    log(&request, &request_id, &reply, started.elapsed());
    publish(&reply.metrics);
    reply.into_http(&request_id)
}

async fn within_time(work: impl Future<Output = crate::Result>) -> crate::Result {
    tokio::time::timeout(HANDLER_TIMEOUT, work).await.unwrap_or(Err(Refusal::TimedOut))
}

/// One line a request. Never a token, a key or a body.
fn log(request: &Request, request_id: &str, reply: &Reply, took: Duration) {
    tracing::info!(
        route = request.route(),
        request_id,
        status = reply.status.as_u16(),
        code = reply.code,
        caller = reply.caller,
        took_ms = took.as_secs_f64() * 1e3,
        "served"
    );
}

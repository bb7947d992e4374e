//! The Lambda entry point: turns events into calls of a handler, and its outcomes into responses.

use crate::app::App;
use crate::config::Config;
use crate::problem::Refusal;
use crate::request::Request;
use crate::response::Reply;
use crate::telemetry::{log_to_stdout, publish};
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::lambda_runtime::{self, LambdaEvent};
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, Context, RequestExt, Response, Service, service_fn};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::timeout_at;

/// Time reserved for the response when a handler is stopped.
const RESERVE: Duration = Duration::from_secs(1);
/// Time limit of a handler outside Lambda, where the event has no deadline.
const WITHOUT_DEADLINE: Duration = Duration::from_secs(20);

/// Serves HTTP events with `handler` until the execution environment ends.
///
/// A refusal becomes a reply. The invocation itself fails only if no reply can be built.
pub async fn serve<H, F>(handler: H) -> Result<(), lambda_http::Error>
where
    H: Fn(&'static App, Request) -> F + Send + Sync,
    F: Future<Output = crate::Result> + Send,
{
    let app = start()?;
    let handler = &handler;
    let adapter = Adapter::from(service_fn(|request: lambda_http::Request| async move {
        respond(app, handler, request).await
    }));
    // Parses the event once, as the only kind this API sends. `lambda_http::run` copies it first, to try several.
    lambda_runtime::run(service_fn(|event: LambdaEvent<ApiGatewayV2httpRequest>| {
        let request = LambdaRequest::ApiGatewayV2(event.payload);
        adapter.clone().call(LambdaEvent::new(request, event.context))
    }))
    .await
}

/// Sets up logging and reads the configuration. Leaks the app, because the runtime's futures need a `'static`
/// reference; each process calls this once.
pub fn start() -> Result<&'static App, lambda_http::Error> {
    log_to_stdout();
    Ok(Box::leak(Box::new(App::new(Config::from_env()?))))
}

/// Serves one event: runs the handler within the time limit, retries it once on a new connection, logs the
/// request and publishes the metrics.
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
    let context = request.lambda_context_ref();
    let request_id = context.map(|context| context.request_id.clone()).unwrap_or_default();
    let time = context.map_or(WITHOUT_DEADLINE, time_left);
    let request = Request::from(request);
    let outcome = with_retry(&app, time, || handler(app, request.clone())).await;
    let reply = outcome.unwrap_or_else(Refusal::into_reply);
    log(&request, &request_id, &reply, started.elapsed());
    publish(&reply.metrics);
    reply.into_http(&request_id)
}

/// Returns the time left for a handler before the invocation's deadline.
pub fn time_left(context: &Context) -> Duration {
    context.deadline().duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(RESERVE)
}

/// Runs `work` within `time`. Retries it once on a new connection if the database restarted or failed over.
/// All operations are idempotent, so the retry has no second effect.
pub async fn with_retry<T, F>(app: &App, time: Duration, work: impl Fn() -> F) -> crate::Result<T>
where
    F: Future<Output = crate::Result<T>>,
{
    let end = tokio::time::Instant::now() + time;
    let within_time = async || timeout_at(end, work()).await.unwrap_or(Err(Refusal::TimedOut));
    let mut outcome = within_time().await;
    if outcome.as_ref().is_err_and(Refusal::is_retryable) {
        app.disconnect().await;
        outcome = match within_time().await {
            // The first attempt may have succeeded and only its reply was lost, so this refusal could be
            // wrong.
            Err(refusal) if refusal.may_result_from_first_attempt() => outcome,
            second => second,
        };
    }
    if matches!(outcome, Err(Refusal::TimedOut)) {
        // The cancelled future's statement is still running on the connection.
        app.disconnect().await;
    }
    outcome
}

/// Logs one line per request, without tokens, keys or bodies.
fn log(request: &Request, request_id: &str, reply: &Reply, took: Duration) {
    tracing::info!(
        route = request.route(),
        request_id,
        status = reply.status.as_u16(),
        code = reply.code,
        caller = reply.caller,
        took_ms = took.as_secs_f64() * 1e3,
        "request served"
    );
}

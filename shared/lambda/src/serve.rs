//! From an event to a handler and back.

use crate::app::App;
use crate::config::Config;
use crate::problem::Refusal;
use crate::request::Request;
use crate::response::Reply;
use crate::telemetry::{log_to_stdout, publish};
use lambda_http::{Body, Context, RequestExt, Response, service_fn};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::timeout_at;

/// Left of the function's time when a handler is stopped, so that the caller still gets an answer.
const RESERVE: Duration = Duration::from_secs(1);
/// How long a handler may work where no deadline is known: outside Lambda.
const WITHOUT_DEADLINE: Duration = Duration::from_secs(20);

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
    log_to_stdout();
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
    let context = request.lambda_context_ref();
    let request_id = context.map(|context| context.request_id.clone()).unwrap_or_default();
    let time = context.map_or(WITHOUT_DEADLINE, time_left);
    let request = Request::from(request);
    let outcome = twice(&app, time, || handler(app, request.clone())).await;
    let reply = outcome.unwrap_or_else(Refusal::into_reply);
    log(&request, &request_id, &reply, started.elapsed());
    publish(&reply.metrics);
    reply.into_http(&request_id)
}

/// How long an invocation may still work.
pub fn time_left(context: &Context) -> Duration {
    context.deadline().duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(RESERVE)
}

/// Does `work` within `time`; once more, on a new connection, when the database was restarted or failed
/// over in between. Every operation may be repeated: none does its work twice.
pub async fn twice<T, F>(app: &App, time: Duration, work: impl Fn() -> F) -> crate::Result<T>
where
    F: Future<Output = crate::Result<T>>,
{
    let end = tokio::time::Instant::now() + time;
    let within_time = async || timeout_at(end, work()).await.unwrap_or(Err(Refusal::TimedOut));
    let mut outcome = within_time().await;
    if outcome.as_ref().is_err_and(Refusal::is_worth_another_try) {
        app.disconnect().await;
        outcome = match within_time().await {
            // Perhaps our own first try did that, and only its answer was lost. We cannot know.
            Err(refusal) if refusal.may_be_own_doing() => outcome,
            second => second,
        };
    }
    if matches!(outcome, Err(Refusal::TimedOut)) {
        // The abandoned statement still runs on the connection.
        app.disconnect().await;
    }
    outcome
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

//! What anyone may see of the queue: a page for people, the numbers behind it, and the API's description.
//!
//! `GET /`: `200` the page · `GET /api/queue`: `200` the public overview · `GET /api/openapi.json`: `200` the OpenAPI
//! description of the API
//!
//! No authentication. Runners are named only with `PUBLIC_RUNNER_NAMES` set to `true`.

mod html;
mod openapi;
#[cfg(test)]
mod tests;

use bakeoff_core::queue::public_overview::public_overview;
use bakeoff_lambda::{App, Refusal, Reply, Request, Result, serve};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long an overview is served again without asking the database: any number of readers costs one overview in
/// this time, per execution environment.
const OVERVIEW_TTL: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    let overview = &*Box::leak(Box::new(CachedOverview::default()));
    serve(move |app, request| answer(app, request, overview)).await
}

async fn answer(app: &App, request: Request, overview: &CachedOverview) -> Result {
    match request.route().as_str() {
        "GET /" => Ok(html::reply()),
        "GET /api/queue" => Ok(Reply::text(200, "application/json", overview.read(app).await?)
            .header("cache-control", "max-age=5")),
        "GET /api/openapi.json" => {
            Ok(Reply::text(200, "application/json", openapi::document(&app.public_url(&request)?)?)
                .header("cache-control", "max-age=300"))
        }
        _ => Err(Refusal::NoSuchRoute),
    }
}

/// The last overview and its time.
#[derive(Default)]
struct CachedOverview(Mutex<Option<(Instant, String)>>);

impl CachedOverview {
    async fn read(&self, app: &App) -> Result<String> {
        let mut cached = self.0.lock().await;
        if let Some((read_at, json)) = cached.as_ref()
            && read_at.elapsed() < OVERVIEW_TTL
        {
            return Ok(json.clone());
        }
        let seen = public_overview(&*app.database().await?, app.config().public_runner_names).await?;
        let json = serde_json::to_string(&seen)
            .map_err(|error| bakeoff_core::Error::Internal(format!("serializing an overview: {error}")))?;
        *cached = Some((Instant::now(), json.clone()));
        Ok(json)
    }
}

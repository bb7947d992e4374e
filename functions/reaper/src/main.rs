//! The reaper: every minute, returns expired claims to the queue and publishes the queue's metrics.
//!
//! Returns the counts as JSON. Two reapers may run at the same time.

#[cfg(test)]
mod tests;

use bakeoff_core::queue::reap::{Reaped, reap};
use bakeoff_lambda::serve::{time_left, with_retry};
use bakeoff_lambda::telemetry::{Metric, publish};
use bakeoff_lambda::{App, Refusal};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde::de::IgnoredAny;
use std::time::Duration;

/// Time reserved for the last batch and the metrics.
const RESERVE: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let app = bakeoff_lambda::serve::start()?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<IgnoredAny>| async move {
        run(app, time_left(&event.context)).await
    }))
    .await
}

async fn run(app: &App, time: Duration) -> Result<Reaped, Error> {
    // A failure fails the invocation, which triggers the schedule's alarm and dead-letter queue.
    let reaped = with_retry(app, time, || reap_once(app, time.saturating_sub(RESERVE))).await?;
    publish(&metrics(&reaped));
    tracing::info!(reaped = %serde_json::to_string(&reaped)?, "reaped expired claims");
    Ok(reaped)
}

async fn reap_once(app: &App, budget: Duration) -> Result<Reaped, Refusal> {
    let client = app.database().await?;
    Ok(reap(&client, app.config().lease, budget).await?)
}

#[allow(clippy::cast_precision_loss)]
fn metrics(reaped: &Reaped) -> Vec<Metric> {
    let queue = &reaped.queue;
    vec![
        Metric::gauge("Reaped", (reaped.returned + reaped.failed) as f64, "Count"),
        Metric::gauge("Depth", queue.depth as f64, "Count"),
        Metric::gauge("OldestEligibleAgeSeconds", queue.oldest_eligible_age_s, "Seconds"),
        Metric::gauge("UnsatisfiableJobs", queue.unsatisfiable as f64, "Count"),
        Metric::gauge("FailingRunners", queue.failing_runners as f64, "Count"),
    ]
}

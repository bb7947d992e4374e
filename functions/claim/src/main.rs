//! `POST /api/queue/claim`: claims the next eligible job.
//!
//! `200` the job · `204` no eligible job; retry after `Retry-After` · `403 key_not_allowed` ·
//! `409 claim_lost`, `claim_id_taken` · `422` all field errors of the body
//!
//! With `?explain=true`, a claim that finds no job returns `200` with the number of waiting jobs that fail
//! each requirement, and whether the runner's claims are paused because it failed several jobs in a row.

#[cfg(test)]
mod tests;

use bakeoff_core::queue::claim::{ClaimOutcome, ClaimRequest, claim};
use bakeoff_core::queue::explain::explain;
use bakeoff_core::queue::next_chance::{NextChance, next_chance};
use bakeoff_lambda::app::parse_body;
use bakeoff_lambda::problem::jittered_retry_after;
use bakeoff_lambda::telemetry::Metric;
use bakeoff_lambda::{App, Reply, Request, Result, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    serve(answer).await
}

async fn answer(app: &App, request: Request) -> Result {
    let (runner, client) = app.runner(&request).await?;
    let body = request.body()?;
    let mut claim_request = parse_body(&body, ClaimRequest::parse)?;
    // Without an id, the retry after a lost database reply would claim a second job.
    claim_request.claim_id.get_or_insert(request.generated_id());
    let (retry_after, metric) = match claim(&client, &runner, app.config().lease, &claim_request).await? {
        ClaimOutcome::Claimed(job) => {
            let reply = Reply::json(200, &job)?.metric(Metric::count("Claims"));
            return Ok(reply.caller(runner.runner_id()));
        }
        ClaimOutcome::NoJob => {
            let (from, to) = match next_chance(&client, &runner, &claim_request).await? {
                NextChance::Deferred(seconds) => {
                    (u64::from(seconds.min(60)) + 1, u64::from(seconds.min(60)) + 5)
                }
                NextChance::HeldByOthers => (10, 20),
                NextChance::Nothing => (50, 70),
            };
            (jittered_retry_after(from, to), "EmptyClaims")
        }
        ClaimOutcome::Paused { retry_after_s } => {
            (jittered_retry_after(retry_after_s, retry_after_s + retry_after_s / 4), "PausedClaims")
        }
    };
    let reply = match request.query("explain").as_deref() {
        Some("true") => Reply::json(200, &explain(&client, &runner, &claim_request).await?)?,
        _ => Reply::empty(204).header("retry-after", retry_after),
    };
    let reply = reply.metric(Metric::count(metric));
    Ok(reply.caller(runner.runner_id()))
}

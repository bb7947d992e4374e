//! `POST /api/queue/claim`: claims the next eligible job.
//!
//! `200` the job · `204` no eligible job; retry after `Retry-After` · `403 key_not_allowed` ·
//! `409 claim_lost`, `claim_id_taken` · `422` all field errors of the body
//!
//! With `?explain=true`, a claim that finds no job returns `200` with the number of waiting jobs that fail
//! each requirement.

#[cfg(test)]
mod tests;

use bakeoff_core::queue::claim::{ClaimRequest, claim};
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
    let reply = match claim(&client, &runner, app.config().lease, &claim_request).await? {
        Some(job) => Reply::json(200, &job)?.metric(Metric::count("Claims")),
        None if request.query("explain").as_deref() == Some("true") => {
            Reply::json(200, &explain(&client, &runner, &claim_request).await?)?
                .metric(Metric::count("EmptyClaims"))
        }
        None => {
            let (from, to) = match next_chance(&client, &runner, &claim_request).await? {
                NextChance::Deferred(seconds) => {
                    (u64::from(seconds.min(60)) + 1, u64::from(seconds.min(60)) + 5)
                }
                NextChance::HeldByOthers => (10, 20),
                NextChance::Nothing => (50, 70),
            };
            Reply::empty(204)
                .header("retry-after", jittered_retry_after(from, to))
                .metric(Metric::count("EmptyClaims"))
        }
    };
    Ok(reply.caller(runner.runner_id()))
}

//! `POST /api/queue/claim`: the next eligible job.
//!
//! `200` the job · `204` nothing is eligible, come back after `Retry-After` · `403 key_not_allowed` ·
//! `409 claim_lost`, `claim_id_taken` · `422` every fault of the body
//!
//! With `?explain=true` a claim that finds nothing is a `200` that says why: how many waiting jobs fail each
//! requirement.

#[cfg(test)]
mod tests;

use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::queue::explain::explain;
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
    let mut wanted = parse_body(&body, ClaimRequest::parse)?;
    // Without one, a second try after a lost answer would claim a second job.
    wanted.claim_id.get_or_insert(request.fresh_id());
    let reply = match claim(&client, &runner, app.config().lease, &wanted).await? {
        Some(job) => Reply::json(200, &job)?.metric(Metric::count("Claims")),
        None if request.query("explain").as_deref() == Some("true") => {
            Reply::json(200, &explain(&client, &runner, &wanted).await?)?.metric(Metric::count("EmptyClaims"))
        }
        None => Reply::empty(204)
            .header("retry-after", jittered_retry_after(10, 20))
            .metric(Metric::count("EmptyClaims")),
    };
    Ok(reply.caller(runner.runner_id()))
}

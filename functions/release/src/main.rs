//! `POST /api/queue/{run_id}/release`: returns the job to the queue, or reports a failed attempt.
//!
//! `200` the row's new state · `403 key_not_allowed` · `409 claim_lost` · `422` all field errors of the body

#[cfg(test)]
mod tests;

use bakeoff_core::queue::release::{ReleaseRequest, release};
use bakeoff_lambda::app::parse_body;
use bakeoff_lambda::{App, Reply, Request, Result, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    serve(answer).await
}

async fn answer(app: &App, request: Request) -> Result {
    let (runner, client) = app.runner(&request).await?;
    let run_id = request.run_id()?;
    let body = request.body()?;
    let release_request = parse_body(&body, ReleaseRequest::parse)?;
    let released = release(&client, &runner, run_id, &release_request).await?;
    Ok(Reply::json(200, &released)?.caller(runner.runner_id()))
}

//! `GET /api/queue/{run_id}`: returns the run's state and the receipt of the caller's own submission.
//!
//! `200` the run and its rows · `403 key_not_allowed` · `404 run_not_found`

#[cfg(test)]
mod tests;

use bakeoff_core::runs::status::status;
use bakeoff_lambda::{App, Reply, Request, Result, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    serve(answer).await
}

async fn answer(app: &App, request: Request) -> Result {
    let (runner, client) = app.runner(&request).await?;
    let status = status(&client, &runner, request.run_id()?).await?;
    Ok(Reply::json(200, &status)?.caller(runner.runner_id()))
}

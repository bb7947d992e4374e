//! `POST /api/queue/{run_id}/heartbeat`: extends the lease and reports a cancel.
//!
//! `200` the lease's new expiry, and `continue` or `cancel` · `403 key_not_allowed` · `409 claim_lost` ·
//! `422` all field errors of the body

#[cfg(test)]
mod tests;

use bakeoff_core::queue::heartbeat::{HeartbeatRequest, heartbeat};
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
    let heartbeat_request = parse_body(&body, HeartbeatRequest::parse)?;
    let extended = heartbeat(&client, &runner, app.config().lease, run_id, &heartbeat_request).await?;
    Ok(Reply::json(200, &extended)?.caller(runner.runner_id()))
}

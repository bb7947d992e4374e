//! Runs for admins: enqueue, list, cancel and requeue.
//!
//! `POST /api/admin/runs`: `201` the rows · `409 run_exists` · `422` all field errors of the body
//! `GET /api/admin/runs?status=&cursor=&limit=`: `200` a page of rows
//! `POST /api/admin/runs/{run_id}/cancel`, `…/requeue`: `200` · `404 run_not_found` · `409 run_finished`
//!
//! All routes require IAM: without API Gateway's IAM context they return `403 not_an_admin`.

#[cfg(test)]
mod tests;

use bakeoff_core::runners::revoke::parse_reason;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::enqueue::{NewRun, enqueue};
use bakeoff_core::runs::listing::{self, list};
use bakeoff_core::runs::requeue::requeue;
use bakeoff_lambda::app::parse_body;
use bakeoff_lambda::{App, Refusal, Reply, Request, Result, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    serve(answer).await
}

async fn answer(app: &App, request: Request) -> Result {
    let admin = app.admin(&request)?;
    let reply = match request.route().as_str() {
        "POST /api/admin/runs" => {
            let run = parse_body(&request.body()?, NewRun::parse)?.with_default_id(request.generated_id());
            Reply::json(201, &enqueue(&*app.database().await?, &admin, &run).await?)
        }
        "GET /api/admin/runs" => {
            let limit = request.limit()?;
            let (status, cursor) = (request.query("status"), request.query("cursor"));
            let client = app.database().await?;
            let page =
                list(&client, status.as_deref(), cursor.as_deref(), limit.unwrap_or(listing::PAGE_MAX));
            Reply::json(200, &page.await?)
        }
        "POST /api/admin/runs/{run_id}/cancel" => {
            let reason = parse_body(&request.body()?, parse_reason)?;
            let client = app.database().await?;
            Reply::json(200, &cancel(&client, &admin, request.run_id()?, reason.as_deref()).await?)
        }
        "POST /api/admin/runs/{run_id}/requeue" => {
            let reason = parse_body(&request.body()?, parse_reason)?;
            let client = app.database().await?;
            Reply::json(200, &requeue(&client, &admin, request.run_id()?, reason.as_deref()).await?)
        }
        _ => Err(Refusal::NoSuchRoute),
    };
    Ok(reply?.caller(admin.principal()))
}

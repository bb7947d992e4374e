//! Runs for admins: enqueue, list, show, cancel, requeue and re-prioritize; and the evidence of their results.
//!
//! `POST /api/admin/runs`: `201` the rows · `409 run_exists` · `422` all field errors of the body
//!   with `{"runs": [ … ]}`: all of them or none; `200` if this very request was served before
//! `GET /api/admin/runs?status=&model=&runner_id=&publisher_id=&newer_than_s=&older_than_s=&cursor=&limit=`: `200` a
//!   page of rows
//! `GET /api/admin/runs/{run_id}`: `200` the run · `404 run_not_found`
//! `GET /api/admin/runs/{run_id}/files/{name}?submission_id=`: `200`, or `206` for a `Range`, the bytes received ·
//!   `404 file_not_found` · `416 range_not_satisfiable` · `422 range_required`
//! `POST /api/admin/runs/{run_id}/cancel`, `…/requeue`, `…/priority`: `200` · `404 run_not_found` ·
//!   `409 run_finished`
//!
//! All routes require IAM: without API Gateway's IAM context they return `403 not_an_admin`. A direct
//! invocation (`aws lambda invoke`), which IAM authorizes too, has the payload `{"enqueue": {…}}`, `{"list": {…}}`,
//! `{"show": {"run_id"}}`, `{"file": {"run_id", "name", "submission_id"?, "offset"?, "length"?}}`,
//! `{"cancel": {"run_id", "reason"?}}`, `{"requeue": {"run_id", "reason"?}}` or
//! `{"priority": {"run_id", "priority"}}`, and returns the body of the corresponding route; a file as
//! `{"content_base64"}`.

mod command;
mod file;
#[cfg(test)]
mod tests;

use bakeoff_lambda::admin::serve;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_runtime::Error> {
    serve::<command::RunsCommand>().await
}

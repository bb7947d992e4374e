//! `POST /api/queue/{run_id}/submit`: accepts a signed result, completes the row and returns a receipt.
//!
//! `201` the receipt · `200` the same receipt, if the result was accepted before · `403 key_not_allowed`,
//! `signer_not_allowed` · `409 claim_lost`, `run_finished` · `413 body_too_large` · `422 signature_invalid`,
//! `run_mismatch`, `binding_invalid`, or all field errors of the body

mod publication;
#[cfg(test)]
mod tests;
mod trusted_root;

use bakeoff_core::audit::record_refused_submission;
use bakeoff_core::results::submit::{Accepted, Form, SubmitRequest, SubmitTerms, submit, verify_envelope};
use bakeoff_core::runners::allowlist::check_runner;
use bakeoff_core::runners::runner::AuthenticatedRunner;
use bakeoff_lambda::app::parse_body;
use bakeoff_lambda::database::Session;
use bakeoff_lambda::telemetry::Metric;
use bakeoff_lambda::{App, Refusal, Reply, Request, Result, serve};
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    serve(answer).await
}

async fn answer(app: &App, request: Request) -> Result {
    let (runner, client) = app.runner(&request).await?;
    // A body may take a second to verify and a refusal is written to the audit log: neither for a revoked key.
    check_runner(&client, &runner).await?;
    let run_id = request.run_id()?;
    let body = request.body()?;
    let submitted = parse_body(&body, SubmitRequest::parse)?;
    let service = app.public_url(&request)?;
    let outcome = accept(app, &service, &client, &runner, run_id, &submitted).await;
    if let Err(Refusal::Operation(error)) = &outcome {
        record_refused_submission(&client, &runner, run_id, error).await?;
    }
    let accepted = outcome?;
    let status = if accepted.new { 201 } else { 200 };
    Ok(Reply::json(status, &accepted)?
        .metric(Metric::count("Submits").by("Form", accepted.signer.kind.clone()))
        .caller(runner.runner_id()))
}

/// Verifies the signature, then the signer, then the content, so that no unsigned content is processed.
async fn accept(
    app: &App,
    service: &str,
    client: &Session,
    runner: &AuthenticatedRunner,
    run_id: Uuid,
    submitted: &SubmitRequest<'_>,
) -> Result<Accepted> {
    let bundle;
    let verified = match &submitted.form {
        Form::Envelope(envelope) => verify_envelope(runner, envelope)?,
        Form::Files(files) => {
            bundle = publication::parse(files)?;
            publication::verify(app, client, runner, &bundle).await?
        }
    };
    let keys = app.signing_keys().await?;
    let require_bound = app.config().require_bound_results;
    let terms = SubmitTerms { keys: &keys, service, require_bound };
    Ok(submit(client, terms, runner, run_id, submitted.claim_id, &verified).await?)
}

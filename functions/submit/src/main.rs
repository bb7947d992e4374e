//! `POST /api/queue/{run_id}/submit`: accepts a signed result, completes the row and returns a receipt.
//!
//! `201` the receipt · `200` the same receipt, if the result was accepted before · `403 key_not_allowed`,
//! `signer_not_allowed` · `409 claim_lost`, `run_finished` · `413 body_too_large` · `422 signature_invalid`,
//! `run_mismatch`, `binding_invalid`, or all field errors of the body
//!
//! A direct invocation (`aws lambda invoke`), which IAM authorizes, has the payload
//! `{"verify_evidence": {"cursor"?, "limit"?}}`: it verifies stored submissions again and returns
//! `{"verified", "discrepancies", "next_cursor"}`.

#[cfg(test)]
mod evidence_tests;
mod publication;
#[cfg(test)]
mod tests;
mod trusted_root;
mod verify_evidence;

use bakeoff_core::audit::record_refused_submission;
use bakeoff_core::results::submission::{Form, SubmitRequest, verify_envelope};
use bakeoff_core::results::submit::{Accepted, SubmitTerms, submit};
use bakeoff_core::runners::allowlist::check_runner;
use bakeoff_core::runners::runner::AuthenticatedRunner;
use bakeoff_lambda::app::parse_body;
use bakeoff_lambda::database::Session;
use bakeoff_lambda::direct::{direct_outcome, serve_http};
use bakeoff_lambda::serve::{start, time_left, with_retry};
use bakeoff_lambda::telemetry::Metric;
use bakeoff_lambda::{App, Refusal, Reply, Request, Result};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use tokio::task::yield_now;
use uuid::Uuid;
use verify_evidence::VerifyEvidence;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Error> {
    let app = start()?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| async move { dispatch(app, event).await }))
        .await
}

/// Serves one event. As a [`Value`] it is read once, and its body of up to 6 MB is moved into the request.
async fn dispatch(app: &App, event: LambdaEvent<Value>) -> std::result::Result<Value, Error> {
    let LambdaEvent { payload, context } = event;
    if payload.get("requestContext").is_some() {
        return serve_http(app, answer, serde_json::from_value(payload)?, context).await;
    }
    let time = time_left(&context);
    direct_outcome(match VerifyEvidence::parse(&payload.to_string()) {
        Ok(command) => with_retry(app, time, || command.execute(app, time)).await,
        Err(errors) => Err(Refusal::Operation(errors.into())),
    })
}

async fn answer(app: &App, request: Request) -> Result {
    let (runner, client) = app.runner(&request).await?;
    let body = request.body()?;
    // A body may take a second to verify and a refusal is written to the audit log: neither for a revoked key.
    // Parsing takes about as long as this check. It starts once the connection has sent that.
    let (allowed, submitted) = tokio::join!(check_runner(&client, &runner), async {
        yield_now().await;
        parse_body(&body, SubmitRequest::parse)
    });
    allowed?;
    let run_id = request.run_id()?;
    let submitted = submitted?;
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

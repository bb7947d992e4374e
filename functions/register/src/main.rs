//! `POST /api/runners/register`: exchanges a DPoP proof for a short-lived token.
//!
//! `200` the token · `401` if the proof is missing, invalid, stale or replayed · `403 key_not_allowed` ·
//! `409 runner_id_taken` · `422` all field errors of the body

#[cfg(test)]
mod tests;

use bakeoff_core::runners::register::{Registration, register};
use bakeoff_lambda::app::parse_body;
use bakeoff_lambda::request::RECEIVED_MAX;
use bakeoff_lambda::{App, Reply, Request, Result, serve};
use serde_json::json;
use time::format_description::well_known::Rfc3339;

/// Seconds that a runner waits after a claim that found no job.
const POLL_AFTER_S: u32 = 15;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    serve(answer).await
}

async fn answer(app: &App, request: Request) -> Result {
    let proven_key = app.proven_key(&request)?;
    let service = app.public_url(&request)?;
    let body = request.body()?;
    let registration = parse_body(&body, Registration::parse)?;
    let (keys, client) = tokio::try_join!(app.signing_keys(), app.database())?;
    let config = app.config();
    let registered = register(&client, &keys, &service, config.token_ttl, &proven_key, &registration).await?;
    let mut reply = json!({
        "runner_id": registered.runner_id,
        "token": registered.token,
        "token_type": "Bearer",
        "expires_at": registered.expires_at.format(&Rfc3339).unwrap_or_default(),
        "heartbeat_interval_s": config.lease.heartbeat_interval_s,
        "lease_ttl_s": config.lease.ttl_s,
        "poll_after_s": POLL_AFTER_S,
        "max_body_bytes": RECEIVED_MAX,
        "server_time": registered.server_time.format(&Rfc3339).unwrap_or_default(),
    });
    if !registered.unknown_quantizations.is_empty() {
        reply["unknown_quantizations"] = json!(registered.unknown_quantizations);
    }
    Ok(Reply::json(200, &reply)?.caller(&registered.runner_id))
}

//! The audit log: refusals that matter. Changes by admins write their line in their own statement.

use crate::error::Error;
use crate::runners::runner::AuthenticatedRunner;
use serde_json::json;
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

/// Notes that a runner's submission was refused for a reason that says something about the runner: a
/// signature that does not verify, a signer that is not allowed, another run's result.
pub async fn submission_refused(
    client: &Client,
    runner: &AuthenticatedRunner,
    run_id: Uuid,
    why: &Error,
) -> Result<(), Error> {
    let action = match why {
        Error::SignatureInvalid(_) => "submit.signature_invalid",
        Error::SignerNotAllowed(_) => "submit.signer_not_allowed",
        Error::RunMismatch { .. } => "submit.run_mismatch",
        _ => return Ok(()),
    };
    client
        .execute_typed(
            "INSERT INTO audit_log (actor, action, subject, detail) VALUES ($1, $2, $3, $4)",
            &[
                (&runner.runner_id(), Type::TEXT),
                (&action, Type::TEXT),
                (&run_id.to_string(), Type::TEXT),
                (&Json(json!({ "why": why.to_string() })), Type::JSONB),
            ],
        )
        .await?;
    Ok(())
}

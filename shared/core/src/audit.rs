//! The audit log of refused submissions. An admin's change writes its audit entry in its own SQL statement.

use crate::error::Error;
use crate::runners::runner::AuthenticatedRunner;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const RECORD_REFUSED: &str = include_str!("audit_refused.sql");

/// Writes an audit entry if a submission was refused for a reason that may indicate an attack: an invalid
/// signature, a signer not on the allowlist, another run's result, or another claim's. Other errors write nothing.
/// At most 20 entries an hour for each key and reason.
pub async fn record_refused_submission(
    client: &Client,
    runner: &AuthenticatedRunner,
    run_id: Uuid,
    error: &Error,
) -> Result<(), Error> {
    let action = match error {
        Error::SignatureInvalid(_) => "submit.signature_invalid",
        Error::SignerNotAllowed(_) => "submit.signer_not_allowed",
        Error::RunMismatch { .. } => "submit.run_mismatch",
        Error::BindingInvalid(_) => "submit.binding_invalid",
        _ => return Ok(()),
    };
    client
        .execute_typed(
            RECORD_REFUSED,
            &[
                (&runner.runner_id(), Type::TEXT),
                (&action, Type::TEXT),
                (&run_id.to_string(), Type::TEXT),
                (&error.to_string(), Type::TEXT),
                (&runner.key().key_id().as_str(), Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}

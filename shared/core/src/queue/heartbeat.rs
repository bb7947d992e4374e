//! Heartbeats: renew a claim's lease, and tell its runner of a cancel.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::queue::lease::LeaseTerms;
use crate::runners::runner::AuthenticatedRunner;
use crate::session::Session;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

const HEARTBEAT: &str = "SELECT * FROM queue_heartbeat($1, $2, $3, $4, $5, $6)";
/// Maximum size of `progress`, in bytes. It is stored in the queue row, which claims must scan.
const PROGRESS_MAX: usize = 2048;

/// A heartbeat request.
#[derive(Clone, Debug)]
pub struct HeartbeatRequest {
    /// Id of the claim to renew.
    pub claim_id: Uuid,
    /// Free-form JSON object, shown in the run's status; absent: keep the previous one.
    pub progress: Option<serde_json::Value>,
}

/// Outcome of [`heartbeat`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Heartbeat {
    /// When the lease expires without another heartbeat; null if the claim has ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_expires_at: Option<OffsetDateTime>,
    /// Whether to continue the job.
    pub directive: Directive,
    /// The database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub server_time: OffsetDateTime,
}

/// Instruction to the runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// Continue the job.
    Continue,
    /// Stop: the run was cancelled, or another runner's late result completed the row.
    Cancel,
}

impl HeartbeatRequest {
    /// Parses the request's body and reports every invalid field.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let request = Object::parse(body, "", &mut errors).and_then(|mut object| {
            let claim_id = object.required_uuid("claim_id", &mut errors);
            let progress = object.free_form("progress", PROGRESS_MAX, &mut errors);
            object.finish(&mut errors);
            Some(Self { claim_id: claim_id?, progress })
        });
        errors.finish(request)
    }
}

/// Renews a claim's lease. For a claim that a cancel ended, returns [`Directive::Cancel`].
///
/// # Errors
///
/// [`Error::KeyNotAllowed`]; [`Error::ClaimLost`] if the claim has ended for any reason other than a cancel or
/// another runner's result.
pub async fn heartbeat(
    client: &impl Session,
    runner: &AuthenticatedRunner,
    terms: LeaseTerms,
    run_id: Uuid,
    request: &HeartbeatRequest,
) -> Result<Heartbeat, Error> {
    let row = client
        .query_row(
            HEARTBEAT,
            &[
                (&run_id, Type::UUID),
                (&request.claim_id, Type::UUID),
                (&runner.key().key_id().as_str(), Type::TEXT),
                (&runner.runner_id(), Type::TEXT),
                (&terms.ttl_s, Type::INT4),
                (&request.progress.as_ref().map(Json), Type::JSONB),
            ],
        )
        .await?;
    let directive = match row.try_get("outcome")? {
        "continue" => Directive::Continue,
        "cancel" => Directive::Cancel,
        "claim_lost" => return Err(Error::ClaimLost),
        "key_not_allowed" => return Err(Error::KeyNotAllowed),
        other => return Err(Error::Internal(format!("queue_heartbeat returned {other:?}"))),
    };
    Ok(Heartbeat {
        lease_expires_at: row.try_get("lease_expires_at")?,
        directive,
        server_time: row.try_get("server_time")?,
    })
}

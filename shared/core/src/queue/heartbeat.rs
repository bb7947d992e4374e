//! A heartbeat: the lease extended, and word of a cancel.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::queue::lease::LeaseTerms;
use crate::runners::runner::AuthenticatedRunner;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

const HEARTBEAT: &str = "SELECT * FROM queue_heartbeat($1, $2, $3, $4, $5, $6)";
/// The most bytes of `progress`: it is kept on the row that every claim steps over.
const PROGRESS_MAX: usize = 2048;

/// A sign of life under a claim.
#[derive(Clone, Debug)]
pub struct HeartbeatRequest {
    /// The claim.
    pub claim_id: Uuid,
    /// Whatever the runner says of its progress, as JSON.
    pub progress: Option<serde_json::Value>,
}

/// What the runner learns.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Heartbeat {
    /// When the claim lapses unless another comes; null once there is no lease to keep.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_expires_at: Option<OffsetDateTime>,
    /// Go on, or stop.
    pub directive: Directive,
    /// The database's time.
    #[serde(with = "time::serde::rfc3339")]
    pub server_time: OffsetDateTime,
}

/// What to do with the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// Go on.
    Continue,
    /// Stop: the run was cancelled, or another's late result completed it.
    Cancel,
}

impl HeartbeatRequest {
    /// Reads the request's body; every fault is listed.
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

/// Extends the lease. Refused: [`Error::KeyNotAllowed`], and [`Error::ClaimLost`] when the claim is not
/// live and nobody wants its runner to stop in particular.
pub async fn heartbeat(
    client: &Client,
    runner: &AuthenticatedRunner,
    terms: LeaseTerms,
    run_id: Uuid,
    request: &HeartbeatRequest,
) -> Result<Heartbeat, Error> {
    let row = client
        .query_typed_one(
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
        other => return Err(Error::Internal(format!("queue_heartbeat answered {other:?}"))),
    };
    Ok(Heartbeat {
        lease_expires_at: row.try_get("lease_expires_at")?,
        directive,
        server_time: row.try_get("server_time")?,
    })
}

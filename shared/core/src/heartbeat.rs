//! A heartbeat: the lease extended, and word of a cancel.

use crate::document::Object;
use crate::error::Error;
use crate::fault::{Fault, Faults};
use crate::lease::LeaseTerms;
use crate::runner::AuthenticatedRunner;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

const HEARTBEAT: &str = include_str!("heartbeat.sql");
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
    pub fn parse(body: &str) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let request = Object::parse(body, "", &mut faults).and_then(|mut object| {
            let claim_id = object.required("claim_id", &mut faults);
            let progress = object.raw("progress").and_then(|value| {
                let text = value.get();
                let progress = (text.len() <= PROGRESS_MAX && !text.contains("\\u0000"))
                    .then(|| serde_json::from_str::<serde_json::Value>(text).ok())
                    .flatten();
                if !progress.as_ref().is_some_and(serde_json::Value::is_object) {
                    faults.push("/progress", format!("is not an object of at most {PROGRESS_MAX} bytes"));
                }
                progress
            });
            object.finish(&mut faults);
            Some(Self { claim_id: claim_id?, progress })
        });
        faults.finish(request)
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
    match beat(client, runner, terms, run_id, request).await {
        // A cancel or a late result may have been under way: the statement waited for it and found the
        // row changed, but sees why only when it looks anew.
        Err(Error::ClaimLost) => beat(client, runner, terms, run_id, request).await,
        answer => answer,
    }
}

async fn beat(
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
    if !row.get::<_, bool>("allowed") {
        return Err(Error::KeyNotAllowed);
    }
    let lease_expires_at: Option<OffsetDateTime> = row.get("lease_expires_at");
    let directive = match lease_expires_at {
        Some(_) => Directive::Continue,
        None if row.get("cancelled") => Directive::Cancel,
        None => return Err(Error::ClaimLost),
    };
    Ok(Heartbeat { lease_expires_at, directive, server_time: row.get("server_time") })
}

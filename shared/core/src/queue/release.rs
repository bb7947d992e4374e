//! A release: the job handed back, or reported as failed.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::results::run_result::FailureCode;
use crate::runners::runner::AuthenticatedRunner;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const RELEASE: &str = include_str!("release.sql");
/// The end of a claim without a result.
#[derive(Clone, Debug)]
pub struct ReleaseRequest {
    /// The claim.
    pub claim_id: Uuid,
    /// Why the attempt failed; absent: the job is just handed back.
    pub failure: Option<Failure>,
}

/// Why an attempt failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind of failure.
    pub code: FailureCode,
    /// For a person.
    pub detail: Option<String>,
}

/// Where the row stands now.
#[derive(Clone, Debug, Serialize)]
pub struct Released {
    /// The run.
    pub run_id: Uuid,
    /// The row.
    pub queue_id: Uuid,
    /// `PENDING`, or `FAILED` when its attempts are spent.
    pub status: String,
    /// How many attempts have failed.
    pub attempt_count: i32,
    /// When it may be claimed again; null: at once.
    #[serde(with = "time::serde::rfc3339::option")]
    pub retry_after: Option<OffsetDateTime>,
}

impl ReleaseRequest {
    /// Reads the request's body; every fault is listed.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let request = Object::parse(body, "", &mut errors).and_then(|mut object| {
            let claim_id = object.required_uuid("claim_id", &mut errors);
            let failed = object.has("failure");
            let failure =
                object.object("failure", &mut errors).and_then(|inner| Failure::read(inner, &mut errors));
            object.finish(&mut errors);
            // A failure that did not parse must not turn into a plain release.
            (!failed || failure.is_some()).then_some(Self { claim_id: claim_id?, failure })
        });
        errors.finish(request)
    }
}

impl Failure {
    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let code = object.required_text("code", 1..=64, errors).and_then(|text| {
            let code = FailureCode::ALL.into_iter().find(|code| code.as_str() == text);
            if code.is_none() {
                let known = FailureCode::ALL.map(FailureCode::as_str).join(", ");
                errors.push(object.pointer("code"), format!("is not one of {known}"));
            }
            code
        });
        let detail = object.text("detail", 0..=4000, errors);
        object.finish(errors);
        Some(Self { code: code?, detail })
    }
}

/// Ends the claim. Sent again after a lost reply it answers the same. Refused: [`Error::KeyNotAllowed`],
/// [`Error::ClaimLost`].
pub async fn release(
    client: &Client,
    runner: &AuthenticatedRunner,
    run_id: Uuid,
    request: &ReleaseRequest,
) -> Result<Released, Error> {
    match end(client, runner, run_id, request).await {
        // The same release may have been under way: this one waited for it, and sees that it was the
        // same only when it looks anew.
        Err(Error::ClaimLost) => end(client, runner, run_id, request).await,
        answer => answer,
    }
}

async fn end(
    client: &Client,
    runner: &AuthenticatedRunner,
    run_id: Uuid,
    request: &ReleaseRequest,
) -> Result<Released, Error> {
    let failure = request.failure.as_ref();
    let row = client
        .query_typed_one(
            RELEASE,
            &[
                (&run_id, Type::UUID),
                (&request.claim_id, Type::UUID),
                (&runner.key().key_id().as_str(), Type::TEXT),
                (&runner.runner_id(), Type::TEXT),
                (&failure.map(|failure| failure.code.as_str()), Type::TEXT),
                (&failure.and_then(|failure| failure.detail.as_ref()), Type::TEXT),
            ],
        )
        .await?;
    if !row.get::<_, bool>("allowed") {
        return Err(Error::KeyNotAllowed);
    }
    let queue_id: Option<Uuid> = row.get("queue_id");
    Ok(Released {
        run_id,
        queue_id: queue_id.ok_or(Error::ClaimLost)?,
        status: row.get("status"),
        attempt_count: row.get("attempt_count"),
        retry_after: row.get("retry_after"),
    })
}

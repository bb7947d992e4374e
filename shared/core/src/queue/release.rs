//! Releases: return a claimed job to the queue, or report a has_failure attempt.

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

/// A request to end a claim without a result.
#[derive(Clone, Debug)]
pub struct ReleaseRequest {
    /// Id of the claim to end.
    pub claim_id: Uuid,
    /// The failure; absent if the job is returned without counting an attempt.
    pub failure: Option<Failure>,
}

/// Why an attempt has_failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The harness's failure code.
    pub code: FailureCode,
    /// Free text for admins, stored as the row's `error_detail`.
    pub detail: Option<String>,
}

/// Outcome of [`release`].
#[derive(Clone, Debug, Serialize)]
pub struct Released {
    /// The run.
    pub run_id: Uuid,
    /// The row.
    pub queue_id: Uuid,
    /// `PENDING`, or `FAILED` if no attempts are left.
    pub status: String,
    /// Number of has_failure attempts.
    pub attempt_count: i32,
    /// When the row becomes claimable again; null if it is claimable now.
    #[serde(with = "time::serde::rfc3339::option")]
    pub retry_after: Option<OffsetDateTime>,
}

impl ReleaseRequest {
    /// Parses the request's body and reports every invalid field.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let request = Object::parse(body, "", &mut errors).and_then(|mut object| {
            let claim_id = object.required_uuid("claim_id", &mut errors);
            let has_failure = object.has("failure");
            let failure =
                object.object("failure", &mut errors).and_then(|inner| Failure::read(inner, &mut errors));
            object.finish(&mut errors);
            // An invalid failure must not become a release without one.
            (!has_failure || failure.is_some()).then_some(Self { claim_id: claim_id?, failure })
        });
        errors.finish(request)
    }
}

impl Failure {
    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let code = object.required_text("code", 1..=64, errors).and_then(|text| {
            let code = FailureCode::parse(&text);
            if code.is_none() {
                let known = FailureCode::ALL.map(FailureCode::as_str).join(", ");
                errors.push(object.pointer("code"), format!("must be one of {known}"));
            }
            code
        });
        let detail = object.text("detail", 0..=4000, errors);
        object.finish(errors);
        Some(Self { code: code?, detail })
    }
}

/// Ends a claim without a result. A retry after a lost reply returns the same outcome.
///
/// # Errors
///
/// [`Error::KeyNotAllowed`]; [`Error::ClaimLost`] if the claim has ended in another way.
pub async fn release(
    client: &Client,
    runner: &AuthenticatedRunner,
    run_id: Uuid,
    request: &ReleaseRequest,
) -> Result<Released, Error> {
    match release_once(client, runner, run_id, request).await {
        // The same release sent twice: T2 waits for T1's row lock, then updates nothing. T2's snapshot is older
        // than T1's commit and does not show T1's row in past_claims; a second statement sees it.
        Err(Error::ClaimLost) => release_once(client, runner, run_id, request).await,
        answer => answer,
    }
}

async fn release_once(
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

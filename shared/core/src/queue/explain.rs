//! Explains why a claim found no job.

use crate::error::Error;
use crate::queue::claim::ClaimRequest;
use crate::runners::runner::AuthenticatedRunner;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

const EXPLAIN: &str = include_str!("explain.sql");

/// Number of rows excluded by each requirement. A row that fails both VRAM and quantization is counted in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Ready rows that require more VRAM than the runner has.
    pub vram: i64,
    /// Ready rows that require a quantization the runner does not serve.
    pub quantization: i64,
    /// Rows the runner could serve whose `retry_after` is set.
    pub deferred: i64,
    /// Rows the runner could serve that other runners hold.
    pub held_by_others: i64,
    /// Ready rows the runner could claim now; they may have become ready after the claim found none.
    pub eligible: i64,
    /// The runner's failed releases since its last accepted result or registration.
    pub failures_in_a_row: i32,
    /// Until when the runner's claims get no job because of them; null if they are not paused.
    #[serde(with = "time::serde::rfc3339::option")]
    pub paused_until: Option<OffsetDateTime>,
}

/// Counts the rows that the runner cannot claim, by reason. Uses the capabilities of the request, or those
/// registered if it has none.
///
/// Counts all ready rows, so it is meant for diagnosis and not for every poll.
///
/// # Errors
///
/// [`Error::KeyNotAllowed`].
pub async fn explain(
    client: &Client,
    runner: &AuthenticatedRunner,
    request: &ClaimRequest,
) -> Result<Explanation, Error> {
    let capabilities = request.capabilities.as_ref();
    let row = client
        .query_typed_one(
            EXPLAIN,
            &[
                (&runner.key().key_id().as_str(), Type::TEXT),
                (&runner.runner_id(), Type::TEXT),
                (&capabilities.map(|capabilities| capabilities.vram_gb), Type::FLOAT8),
                (&capabilities.map(|capabilities| &capabilities.quantizations), Type::TEXT_ARRAY),
            ],
        )
        .await?;
    if !row.try_get::<_, bool>("allowed")? {
        return Err(Error::KeyNotAllowed);
    }
    Ok(Explanation {
        vram: row.try_get("vram")?,
        quantization: row.try_get("quantization")?,
        deferred: row.try_get("deferred")?,
        held_by_others: row.try_get("held_by_others")?,
        eligible: row.try_get("eligible")?,
        failures_in_a_row: row.try_get("failures_in_a_row")?,
        paused_until: row.try_get("paused_until")?,
    })
}

//! Why a claim found nothing.

use crate::error::Error;
use crate::queue::claim::ClaimRequest;
use crate::runners::runner::AuthenticatedRunner;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

const EXPLAIN: &str = include_str!("explain.sql");

/// How many rows each requirement keeps from the runner. A row that asks for too much in two ways is
/// counted in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Ready rows that need more VRAM than the runner has.
    pub vram: i64,
    /// Ready rows that need a quantization the runner does not serve.
    pub quantization: i64,
    /// Rows the runner could serve that wait for their `retry_after`.
    pub deferred: i64,
    /// Rows the runner could serve that others are at work on.
    pub held_by_others: i64,
    /// Ready rows the runner could claim now: some may have come in since the claim found nothing.
    pub eligible: i64,
}

/// Counts what keeps the queue's rows from the runner, with the capabilities of the request or else those
/// it registered. Reads all ready rows, so it is for people who wonder, not for every poll.
///
/// Refused: [`Error::KeyNotAllowed`].
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
    })
}

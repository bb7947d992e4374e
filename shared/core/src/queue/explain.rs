//! Explains why a claim found no job.

use crate::error::Error;
use crate::queue::claim::ClaimRequest;
use crate::queue::requirement::{Ability, MissedJob, Requirement};
use crate::runners::runner::AuthenticatedRunner;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};

const EXPLAIN: &str = include_str!("explain.sql");
const LANES: &str = include_str!("explain_lanes.sql");

/// Number of rows excluded by each requirement. A row that fails two is counted in both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Ready rows that require more VRAM than the runner has.
    pub vram: i64,
    /// Ready rows that require a quantization the runner does not serve.
    pub quantization: i64,
    /// Ready rows that require a label the runner does not have.
    pub label: i64,
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
    /// The ready job that the runner comes nearest to, if it can take none.
    pub nearest_miss: Option<MissedJob>,
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
        label: row.try_get("label")?,
        deferred: row.try_get("deferred")?,
        held_by_others: row.try_get("held_by_others")?,
        eligible: row.try_get("eligible")?,
        failures_in_a_row: row.try_get("failures_in_a_row")?,
        paused_until: row.try_get("paused_until")?,
        nearest_miss: nearest_miss(client, runner, request).await?,
    })
}

/// Finds the requirement of a ready job that the runner lacks least for; `None` if it can take one, or none is ready.
async fn nearest_miss(
    client: &Client,
    runner: &AuthenticatedRunner,
    request: &ClaimRequest,
) -> Result<Option<MissedJob>, Error> {
    let capabilities = request.capabilities.as_ref();
    let lanes = client
        .query_typed(
            LANES,
            &[
                (&runner.runner_id(), Type::TEXT),
                (&capabilities.map(|capabilities| capabilities.vram_gb), Type::FLOAT8),
                (&capabilities.map(|capabilities| &capabilities.quantizations), Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let Some(first) = lanes.first() else { return Ok(None) };
    let supported: Vec<String> = first.try_get("supported")?;
    let runner_labels: Option<Json<Value>> = first.try_get("runner_labels")?;
    let runner_labels = runner_labels.map(|Json(labels)| labels);
    let ability = Ability {
        runner_id: runner.runner_id(),
        vram_gb: first.try_get("vram_gb")?,
        quantizations: &supported,
        labels: runner_labels.as_ref(),
    };
    let requirements = lanes.iter().map(Requirement::from_row).collect::<Result<Vec<_>, _>>()?;
    Ok(ability.nearest_miss(requirements))
}

//! When a runner that found nothing should ask again.

use crate::error::Error;
use crate::queue::claim::ClaimRequest;
use crate::runners::runner::AuthenticatedRunner;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

const NEXT_CHANCE: &str = include_str!("next_chance.sql");

/// What a runner may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextChance {
    /// A job's back-off ends in so many seconds.
    Deferred(u32),
    /// Others hold jobs that the runner could take, and may give one back.
    HeldByOthers,
    /// The queue has nothing for the runner: only a new job can come.
    Nothing,
}

/// Says what the runner may wait for, with the capabilities of the request or else those it registered.
pub async fn next_chance(
    client: &Client,
    runner: &AuthenticatedRunner,
    request: &ClaimRequest,
) -> Result<NextChance, Error> {
    let capabilities = request.capabilities.as_ref();
    let row = client
        .query_typed_one(
            NEXT_CHANCE,
            &[
                (&runner.runner_id(), Type::TEXT),
                (&capabilities.map(|capabilities| capabilities.vram_gb), Type::FLOAT8),
                (&capabilities.map(|capabilities| &capabilities.quantizations), Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let deferred_for_s: Option<i32> = row.try_get("deferred_for_s")?;
    let held_by_others: bool = row.try_get("held_by_others")?;
    Ok(match deferred_for_s {
        Some(seconds) => NextChance::Deferred(u32::try_from(seconds).unwrap_or(0)),
        None if held_by_others => NextChance::HeldByOthers,
        None => NextChance::Nothing,
    })
}

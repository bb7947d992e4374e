//! The queue as anyone may see it: counts and requirements, no errors, no audit, names of runners only on request.

use crate::error::Error;
use crate::queue::overview::{Overview, RequirementDepth, RowCounts, overview};
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

const HOURS: &str = include_str!("public_hours.sql");
const RESULTS: &str = include_str!("public_results.sql");
/// Maximum number of live jobs listed.
const LIVE_MAX: usize = 50;
/// Maximum number of results listed.
const RESULTS_MAX: i64 = 10;
/// What stands for a runner's name in a requirement, unless the service names runners.
const NAME_HIDDEN: &str = "not shown";

/// The queue at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct PublicOverview {
    /// The database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub server_time: OffsetDateTime,
    /// Rows by state.
    pub rows: RowCounts,
    /// Age of the oldest ready row in seconds; null if none is ready.
    pub oldest_ready_s: Option<i64>,
    /// Waiting and live rows by what they require of a runner.
    pub requirements: Vec<RequirementDepth>,
    /// Jobs that runners are working on, the oldest claim first; at most 50.
    pub live: Vec<PublicClaim>,
    /// Results of each of the last 24 hours, the oldest first.
    pub hours: Vec<Hour>,
    /// The last results, the newest first; at most 10.
    pub results: Vec<PublicResult>,
    /// Number of allowed runners that are not silent.
    pub runners_alive: usize,
    /// Number of those that get no job for a while because they failed several in a row.
    pub runners_failing: usize,
    /// The runners that are not silent; null unless the service is configured to name them.
    pub runners: Option<Vec<PublicRunner>>,
}

/// A live job.
#[derive(Clone, Debug, Serialize)]
pub struct PublicClaim {
    /// Ids of its models.
    pub models: Vec<String>,
    /// Ids of its prompts.
    pub prompts: Vec<String>,
    /// Cells done, if the runner said so.
    pub cells_done: Option<u64>,
    /// Cells in all, if the runner said so.
    pub cells_total: Option<u64>,
    /// Age of the claim in seconds.
    pub held_s: Option<i64>,
    /// The runner, if the service names runners.
    pub runner_id: Option<String>,
}

/// Results of an hour.
#[derive(Clone, Debug, Serialize)]
pub struct Hour {
    /// Start of the hour.
    #[serde(with = "time::serde::rfc3339")]
    pub began_at: OffsetDateTime,
    /// Number of results accepted.
    pub completed: i64,
}

/// An accepted result.
#[derive(Clone, Debug, Serialize)]
pub struct PublicResult {
    /// The run.
    pub run_id: Uuid,
    /// Ids of its models.
    pub models: Vec<String>,
    /// `complete`, `incomplete` or `failed`.
    pub run_status: String,
    /// Mean score over its models and prompts, 0 to 1.
    pub score: Option<f64>,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub submitted_at: OffsetDateTime,
    /// The runner, if the service names runners.
    pub runner_id: Option<String>,
}

/// A runner.
#[derive(Clone, Debug, Serialize)]
pub struct PublicRunner {
    /// The runner.
    pub runner_id: String,
    /// GPU memory in GB.
    pub vram_gb: Option<f64>,
    /// Quantizations it supports.
    pub quantizations: Vec<String>,
    /// Number of jobs it holds.
    pub holds: i64,
    /// Number of its results accepted within a day.
    pub completed_24h: i64,
}

/// Reads the public overview; `with_names` includes the names of runners.
pub async fn public_overview(client: &Client, with_names: bool) -> Result<PublicOverview, Error> {
    let Overview { server_time, rows, oldest_ready_s, mut requirements, live_claims, runners, .. } =
        overview(client).await?;
    // A job may ask for a runner by its name.
    let names = requirements.iter_mut().filter_map(|depth| depth.requirement.labels.get_mut("runner_id"));
    for name in names.filter(|_| !with_names) {
        NAME_HIDDEN.clone_into(name);
    }
    let hours = client.query_typed(HOURS, &[]).await?;
    let results = client.query_typed(RESULTS, &[(&RESULTS_MAX, Type::INT8)]).await?;
    let mut alive = runners;
    alive.retain(|runner| runner.allowed && runner.status != "DEAD");
    let runners_failing = alive.iter().filter(|runner| runner.paused_until.is_some()).count();
    let alive: Vec<PublicRunner> = alive
        .into_iter()
        .map(|runner| PublicRunner {
            runner_id: runner.runner_id,
            vram_gb: runner.vram_gb,
            quantizations: runner.quantizations,
            holds: runner.holds,
            completed_24h: runner.completed_24h,
        })
        .collect();
    let live = live_claims.into_iter().take(LIVE_MAX).map(|claim| PublicClaim {
        models: claim.models,
        prompts: claim.prompts,
        // The rest of what a runner says of its progress is free text, which is not for everyone.
        cells_done: claim.progress.as_ref().and_then(|progress| progress["cells_done"].as_u64()),
        cells_total: claim.progress.as_ref().and_then(|progress| progress["cells_total"].as_u64()),
        held_s: claim.held_s,
        runner_id: with_names.then_some(claim.runner_id),
    });
    Ok(PublicOverview {
        server_time,
        rows,
        oldest_ready_s,
        requirements,
        live: live.collect(),
        hours: hours.iter().map(Hour::from_row).collect::<Result<_, _>>()?,
        results: results
            .iter()
            .map(|row| PublicResult::from_row(row, with_names))
            .collect::<Result<_, _>>()?,
        runners_alive: alive.len(),
        runners_failing,
        runners: with_names.then_some(alive),
    })
}

impl Hour {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self { began_at: row.try_get("began_at")?, completed: row.try_get("completed")? })
    }
}

impl PublicResult {
    fn from_row(row: &Row, with_names: bool) -> Result<Self, Error> {
        let runner_id: String = row.try_get("runner_id")?;
        Ok(Self {
            run_id: row.try_get("run_id")?,
            models: row.try_get("models")?,
            run_status: row.try_get("run_status")?,
            score: row.try_get("score")?,
            submitted_at: row.try_get("submitted_at")?,
            runner_id: with_names.then_some(runner_id),
        })
    }
}

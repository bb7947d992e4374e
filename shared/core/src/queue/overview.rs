//! The queue as an admin sees it: how deep it is, who works on what, what nobody can take.

use crate::error::Error;
use crate::queue::requirement::{Ability, NearestMiss, Requirement};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::types::{Json, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

const LANES: &str = "SELECT *, now() AS server_time FROM queue_overview_lanes()";
const CLAIMS: &str = include_str!("overview_claims.sql");
const RUNNERS: &str = include_str!("overview_runners.sql");

/// The most live claims that an overview lists.
pub const CLAIMS_MAX: i64 = 200;
/// The most runners that an overview lists, and that are held against what jobs require.
pub const RUNNERS_MAX: i64 = 1000;

/// The queue at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// The database's time.
    #[serde(with = "time::serde::rfc3339")]
    pub server_time: OffsetDateTime,
    /// Rows by state.
    pub rows: RowCounts,
    /// How long the oldest ready row has waited, in seconds; null if none is ready.
    pub oldest_ready_s: Option<i64>,
    /// What waits or is being worked on, by what it requires of a runner.
    pub requirements: Vec<RequirementDepth>,
    /// Waiting jobs that no allowed runner seen within a week can take.
    pub unsatisfiable: Vec<Unsatisfiable>,
    /// Live claims, the oldest first: at most [`CLAIMS_MAX`]; `rows` counts them all.
    pub live_claims: Vec<LiveClaim>,
    /// Runners seen within a week, the last seen first: at most [`RUNNERS_MAX`].
    pub runners: Vec<RunnerActivity>,
}

/// How many rows are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    /// PENDING and claimable now.
    pub ready: i64,
    /// PENDING and waiting for its `retry_after`.
    pub deferred: i64,
    /// CLAIMED.
    pub claimed: i64,
    /// IN_PROGRESS.
    pub in_progress: i64,
    /// COMPLETE.
    pub complete: i64,
    /// FAILED.
    pub failed: i64,
    /// CANCELLED.
    pub cancelled: i64,
}

/// Rows that require the same of a runner.
#[derive(Clone, Debug, Serialize)]
pub struct RequirementDepth {
    /// What they require.
    #[serde(flatten)]
    pub requirement: Requirement,
    /// How many they are.
    pub rows: RowCounts,
    /// How long the oldest ready one has waited, in seconds.
    pub oldest_ready_s: Option<i64>,
    /// How many of the listed runners can take them.
    pub capable_runners: usize,
}

/// Waiting jobs that no runner can take.
#[derive(Clone, Debug, Serialize)]
pub struct Unsatisfiable {
    /// What they require.
    #[serde(flatten)]
    pub requirement: Requirement,
    /// How many they are.
    pub jobs: i64,
    /// The runner that lacks least.
    pub nearest_miss: NearestMiss,
}

/// A job that is being worked on.
#[derive(Clone, Debug, Serialize)]
pub struct LiveClaim {
    /// The run.
    pub run_id: Uuid,
    /// The row.
    pub queue_id: Uuid,
    /// The claim.
    pub claim_id: Option<Uuid>,
    /// Who holds it.
    pub runner_id: String,
    /// CLAIMED, or IN_PROGRESS after the first heartbeat.
    pub status: String,
    /// Lower comes first.
    pub priority: i32,
    /// Which try this is, from 1.
    pub attempt: i32,
    /// Since when it is held.
    #[serde(with = "time::serde::rfc3339::option")]
    pub claimed_at: Option<OffsetDateTime>,
    /// For how long, in seconds.
    pub held_s: Option<i64>,
    /// When the claim lapses unless a heartbeat comes.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_expires_at: Option<OffsetDateTime>,
    /// What the runner last said of its progress.
    pub progress: Option<Value>,
    /// The models, by the ids that config and records use.
    pub models: Vec<String>,
    /// The prompts, likewise.
    pub prompts: Vec<String>,
}

/// What a runner can do, and does.
#[derive(Clone, Debug, Serialize)]
pub struct RunnerActivity {
    /// The runner.
    pub runner_id: String,
    /// As it registered.
    pub hostname: Option<String>,
    /// ACTIVE, IDLE or DEAD.
    pub status: String,
    /// Whether its key is on the allowlist.
    pub allowed: bool,
    /// When it last registered, asked for work, or sent a heartbeat.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen: OffsetDateTime,
    /// GPU memory, in GB.
    pub vram_gb: Option<f64>,
    /// Quantizations it supports.
    pub quantizations: Vec<String>,
    /// As it registered.
    pub labels: Option<Value>,
    /// Jobs that it holds.
    pub holds: i64,
    /// Results accepted within a day.
    pub completed_24h: i64,
    /// Claims that it gave back as failed within a day.
    pub failed_24h: i64,
    /// Claims whose lease ran out within a day.
    pub lapsed_24h: i64,
    /// Until when its claims get no job because it failed several in a row; null if they are not paused.
    #[serde(with = "time::serde::rfc3339::option")]
    pub paused_until: Option<OffsetDateTime>,
}

/// Reads the overview. It reads counts that triggers maintain, so its cost does not grow with the rows that wait or
/// have ended.
pub async fn overview(client: &Client) -> Result<Overview, Error> {
    let runners = runners(client).await?;
    let abilities = abilities(&runners);
    let lanes = client.query_typed(LANES, &[]).await?;
    let claims = client.query_typed(CLAIMS, &[(&CLAIMS_MAX, Type::INT8)]).await?;

    let mut overview = Overview {
        server_time: client.query_typed_one("SELECT now()", &[]).await?.try_get(0)?,
        rows: RowCounts::default(),
        oldest_ready_s: None,
        requirements: Vec::new(),
        unsatisfiable: Vec::new(),
        live_claims: claims.iter().map(LiveClaim::from_row).collect::<Result<_, _>>()?,
        runners: Vec::new(),
    };
    for lane in &lanes {
        overview.add(lane, &abilities)?;
    }
    overview.runners = runners;
    Ok(overview)
}

/// Reads the runners seen within a week.
pub(crate) async fn runners(client: &Client) -> Result<Vec<RunnerActivity>, Error> {
    let rows = client.query_typed(RUNNERS, &[(&RUNNERS_MAX, Type::INT8)]).await?;
    rows.iter().map(RunnerActivity::from_row).collect()
}

/// What the allowed ones of these runners can do.
pub(crate) fn abilities(runners: &[RunnerActivity]) -> Vec<Ability<'_>> {
    let allowed = runners.iter().filter(|runner| runner.allowed);
    allowed.map(RunnerActivity::ability).collect()
}

impl Overview {
    fn add(&mut self, lane: &Row, abilities: &[Ability]) -> Result<(), Error> {
        let rows = RowCounts {
            ready: lane.try_get("ready")?,
            deferred: lane.try_get("deferred")?,
            claimed: lane.try_get("claimed")?,
            in_progress: lane.try_get("in_progress")?,
            complete: lane.try_get("complete")?,
            failed: lane.try_get("failed")?,
            cancelled: lane.try_get("cancelled")?,
        };
        self.rows.add(rows);
        let waiting = rows.ready + rows.deferred;
        if waiting + rows.claimed + rows.in_progress == 0 {
            return Ok(());
        }
        let oldest: Option<OffsetDateTime> = lane.try_get("oldest_ready_at")?;
        let server_time: OffsetDateTime = lane.try_get("server_time")?;
        let oldest_ready_s = oldest.map(|oldest| (server_time - oldest).whole_seconds());
        self.oldest_ready_s = self.oldest_ready_s.max(oldest_ready_s);
        let requirement = Requirement::from_row(lane)?;
        let capable_runners = abilities.iter().filter(|ability| requirement.admits(ability)).count();
        if waiting > 0
            && capable_runners == 0
            && let Some(nearest_miss) = requirement.nearest_miss(abilities)
        {
            let requirement = requirement.clone();
            self.unsatisfiable.push(Unsatisfiable { requirement, jobs: waiting, nearest_miss });
        }
        self.requirements.push(RequirementDepth { requirement, rows, oldest_ready_s, capable_runners });
        Ok(())
    }
}

impl RowCounts {
    fn add(&mut self, other: Self) {
        self.ready += other.ready;
        self.deferred += other.deferred;
        self.claimed += other.claimed;
        self.in_progress += other.in_progress;
        self.complete += other.complete;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
    }
}

impl LiveClaim {
    fn from_row(row: &Row) -> Result<Self, Error> {
        let claimed_at: Option<OffsetDateTime> = row.try_get("claimed_at")?;
        let server_time: OffsetDateTime = row.try_get("server_time")?;
        let progress: Option<Json<Value>> = row.try_get("progress")?;
        Ok(Self {
            run_id: row.try_get("run_id")?,
            queue_id: row.try_get("queue_id")?,
            claim_id: row.try_get("claim_id")?,
            runner_id: row.try_get("runner_id")?,
            status: row.try_get("status")?,
            priority: row.try_get("priority")?,
            attempt: row.try_get("attempt")?,
            claimed_at,
            held_s: claimed_at.map(|claimed_at| (server_time - claimed_at).whole_seconds()),
            lease_expires_at: row.try_get("lease_expires_at")?,
            progress: progress.map(|Json(progress)| progress),
            models: row.try_get("models")?,
            prompts: row.try_get("prompts")?,
        })
    }
}

impl RunnerActivity {
    fn from_row(row: &Row) -> Result<Self, Error> {
        let labels: Option<Json<Value>> = row.try_get("labels")?;
        let quantizations: Option<Vec<String>> = row.try_get("quantizations")?;
        Ok(Self {
            runner_id: row.try_get("runner_id")?,
            hostname: row.try_get("hostname")?,
            status: row.try_get("status")?,
            allowed: row.try_get("allowed")?,
            last_seen: row.try_get("last_heartbeat")?,
            vram_gb: row.try_get("vram_gb")?,
            quantizations: quantizations.unwrap_or_default(),
            labels: labels.map(|Json(labels)| labels),
            holds: row.try_get("holds")?,
            completed_24h: row.try_get("completed")?,
            failed_24h: row.try_get("failed")?,
            lapsed_24h: row.try_get("lapsed")?,
            paused_until: row.try_get("paused_until")?,
        })
    }

    fn ability(&self) -> Ability<'_> {
        Ability {
            runner_id: &self.runner_id,
            vram_gb: self.vram_gb,
            quantizations: &self.quantizations,
            labels: self.labels.as_ref(),
        }
    }
}

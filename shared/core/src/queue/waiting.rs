//! Why a run waits.

use crate::error::Error;
use crate::queue::overview::{abilities, runners};
use crate::queue::requirement::{NearestMiss, Requirement};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const WAITING: &str = include_str!("waiting.sql");
/// The most jobs before a run that are counted (`waiting.sql`).
const JOBS_BEFORE_MAX: i64 = 10_000;
/// The most capable runners that are named.
const NAMED_MAX: usize = 20;

/// Why a run waits: told of its row that is the next to be claimed.
#[derive(Clone, Debug, Serialize)]
pub struct Waiting {
    /// The cause that must end first.
    pub cause: Cause,
    /// The same in a sentence.
    pub detail: String,
    /// What the row requires of a runner.
    pub requirement: Requirement,
    /// Ready rows before it in the claim order; 10,000 stands for that many or more.
    pub jobs_before: i64,
    /// How many allowed runners, seen within a week, can take it.
    pub capable_runners: usize,
    /// Their names, at most 20, the last seen first.
    pub capable_runner_ids: Vec<String>,
    /// How many of them hold no job now.
    pub idle_capable_runners: usize,
    /// When it may be claimed again, after a failed attempt.
    #[serde(with = "time::serde::rfc3339::option")]
    pub retry_after: Option<OffsetDateTime>,
    /// What the nearest runner lacks, if none can take it.
    pub nearest_miss: Option<NearestMiss>,
}

/// What keeps a run waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No runner seen within a week can take it.
    NoCapableRunner,
    /// An attempt failed, and the next one waits for its time.
    Deferred,
    /// Every runner that can take it is at work.
    RunnersBusy,
    /// Jobs before it come first.
    JobsBefore,
    /// The next claim of a capable runner takes it.
    Next,
}

/// Says why the run waits; `None` if no row of it is PENDING.
pub async fn waiting(client: &Client, run_id: Uuid) -> Result<Option<Waiting>, Error> {
    let Some(row) = client.query_typed_opt(WAITING, &[(&run_id, Type::UUID)]).await? else {
        return Ok(None);
    };
    let requirement = Requirement::from_row(&row)?;
    let jobs_before: i64 = row.try_get("jobs_before")?;
    let deferred: Option<bool> = row.try_get("deferred")?;
    let retry_after: Option<OffsetDateTime> = row.try_get("retry_after")?;
    let error_detail: Option<String> = row.try_get("error_detail")?;

    let runners = runners(client).await?;
    let abilities = abilities(&runners);
    let capable: Vec<&str> = abilities
        .iter()
        .filter(|ability| requirement.admits(ability))
        .map(|ability| ability.runner_id)
        .collect();
    let idle = runners
        .iter()
        .filter(|runner| runner.holds == 0 && runner.status != "DEAD")
        .filter(|runner| capable.contains(&runner.runner_id.as_str()))
        .count();
    let nearest_miss = requirement.nearest_miss(&abilities);

    let before = if jobs_before == JOBS_BEFORE_MAX {
        format!("{jobs_before} jobs or more stand")
    } else if jobs_before == 1 {
        "1 job stands".to_owned()
    } else {
        format!("{jobs_before} jobs stand")
    };
    let (cause, detail) = if let Some(miss) = &nearest_miss {
        (Cause::NoCapableRunner, miss.detail.clone())
    } else if deferred == Some(true) {
        let until = retry_after.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
        let why = error_detail.map(|detail| format!(": {detail}")).unwrap_or_default();
        (Cause::Deferred, format!("the last attempt failed{why}. It may be claimed again from {until} on"))
    } else if idle == 0 {
        let text = format!(
            "all {} runners that can take it are at work or silent; {before} before it",
            capable.len()
        );
        (Cause::RunnersBusy, text)
    } else if jobs_before > 0 {
        (Cause::JobsBefore, format!("{before} before it; {idle} runners that can take it hold no job"))
    } else {
        (Cause::Next, format!("it is the next job; {idle} runners that can take it hold no job"))
    };
    Ok(Some(Waiting {
        cause,
        detail,
        jobs_before,
        capable_runners: capable.len(),
        capable_runner_ids: capable.iter().take(NAMED_MAX).map(ToString::to_string).collect(),
        idle_capable_runners: idle,
        retry_after,
        nearest_miss,
        requirement,
    }))
}

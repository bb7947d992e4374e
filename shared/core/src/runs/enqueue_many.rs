//! Enqueueing several runs in one request: all or none, and safe to send again.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::runners::runner::Admin;
use crate::runs::enqueue::{Enqueued, EnqueuedRow, NewRun, to_field_error};
use crate::runs::known_names::KnownNames;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

const ENQUEUE_MANY: &str = "SELECT * FROM queue_enqueue_many($1, $2, $3, $4, $5)";
/// The most runs of one request.
const RUNS_MAX: usize = 1000;

/// Runs to enqueue, each with an id of its sender's.
#[derive(Clone, Debug)]
pub struct NewRuns(Vec<IdentifiedRun>);

#[derive(Clone, Debug)]
struct IdentifiedRun {
    run_id: Uuid,
    run: NewRun,
    /// SHA-256 of the run as received.
    sha256: [u8; 32],
}

/// Enqueued runs.
#[derive(Clone, Debug, Serialize)]
pub struct EnqueuedMany {
    /// The runs, in the order of the request.
    pub runs: Vec<Enqueued>,
    /// False if the same request was served before.
    #[serde(skip)]
    pub created: bool,
}

impl NewRuns {
    /// Reads the request's body, `{"runs": [ … ]}`; every invalid field is listed.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let runs = Object::parse(body, "", &mut errors).and_then(|object| Self::read(object, &mut errors));
        errors.finish(runs)
    }

    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let elements = object.list("runs", errors);
        object.finish(errors);
        if elements.is_empty() || elements.len() > RUNS_MAX {
            errors.push("/runs", format!("has {} runs; allowed are 1 to {RUNS_MAX}", elements.len()));
            return None;
        }
        let mut ids = BTreeSet::new();
        let mut runs = Vec::with_capacity(elements.len());
        for (pointer, text) in elements {
            let run = match NewRun::parse(text.get()) {
                Ok(run) => run.with_pointer_prefix(&pointer),
                Err(found) => {
                    errors.extend_with_prefix(&pointer, found);
                    continue;
                }
            };
            let Some(run_id) = run.run_id else {
                let detail = "is missing: without it the request could not be sent again after a lost reply";
                errors.push(format!("{pointer}/run_id"), detail);
                continue;
            };
            if !ids.insert(run_id) {
                errors.push(format!("{pointer}/run_id"), "is also the run_id of a run before it");
            }
            runs.push(IdentifiedRun { run_id, run, sha256: Sha256::digest(text.get()).into() });
        }
        Some(Self(runs))
    }
}

/// Enqueues the runs, all or none. The same request again returns what it returned the first time.
///
/// # Errors
/// [`Error::AnotherRunExists`] if one of them exists and was not part of this very request; [`Error::Invalid`] as
/// [`crate::runs::enqueue::enqueue`].
pub async fn enqueue_many(client: &Client, admin: &Admin, runs: &NewRuns) -> Result<EnqueuedMany, Error> {
    match enqueue_all(client, admin, runs).await {
        // The same request may have been under way: the statement waited for it, and sees what it made only when it
        // looks again.
        Err(Error::AnotherRunExists(_)) => enqueue_all(client, admin, runs).await,
        outcome => outcome,
    }
}

async fn enqueue_all(client: &Client, admin: &Admin, NewRuns(runs): &NewRuns) -> Result<EnqueuedMany, Error> {
    let known = KnownNames::read(client).await?;
    let errors: Vec<FieldError> = runs.iter().flat_map(|run| known.unknown_names(&run.run)).collect();
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let specs: Vec<Json<Value>> = runs.iter().map(|run| Json(run.run.spec(run.run_id))).collect();
    let tasks: Vec<_> = runs.iter().map(|run| Json(&run.run.tasks)).collect();
    let configs = runs.iter().map(|run| run.run.row_configs().map(Json)).collect::<Result<Vec<_>, _>>()?;
    let digests: Vec<&[u8]> = runs.iter().map(|run| run.sha256.as_slice()).collect();
    let rows = client
        .query_typed(
            ENQUEUE_MANY,
            &[
                (&admin.principal(), Type::TEXT),
                (&specs, Type::JSONB_ARRAY),
                (&tasks, Type::JSON_ARRAY),
                (&configs, Type::JSON_ARRAY),
                (&digests, Type::BYTEA_ARRAY),
            ],
        )
        .await
        .map_err(|error| why_refused(runs, error))?;
    let mut enqueued = EnqueuedMany {
        runs: runs.iter().map(|run| Enqueued { run_id: run.run_id, rows: Vec::new() }).collect(),
        created: false,
    };
    for row in &rows {
        enqueued.created |= row.try_get::<_, bool>("created")?;
        let number: i32 = row.try_get("run_number")?;
        let run = usize::try_from(number - 1).ok().and_then(|index| enqueued.runs.get_mut(index));
        let run = run.ok_or_else(|| Error::Internal(format!("queue_enqueue_many named run {number}")))?;
        run.rows.push(EnqueuedRow {
            queue_id: row.try_get("new_queue_id")?,
            prompt_id: row.try_get("first_prompt_id")?,
            required_vram_gb: row.try_get("needed_vram_gb")?,
            quantizations: row.try_get("needed_quantizations")?,
        });
    }
    Ok(enqueued)
}

/// Says which run the database refused, and why.
fn why_refused(runs: &[IdentifiedRun], error: tokio_postgres::Error) -> Error {
    let number: Option<usize> =
        error.as_db_error().and_then(|error| error.hint()).and_then(|hint| hint.parse().ok());
    let Some(run) = number.and_then(|number| runs.get(number.checked_sub(1)?)) else {
        return Error::Database(error);
    };
    if error.as_db_error().is_some_and(|error| error.message() == "run_exists") {
        return Error::AnotherRunExists(run.run_id);
    }
    to_field_error(&run.run, error)
}

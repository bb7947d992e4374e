//! Changing a run's priority.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::runners::runner::Admin;
use serde::Serialize;
use std::ops::RangeInclusive;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const PRIORITY: &str = include_str!("priority.sql");
/// What a priority may be. Lower comes first.
pub const PRIORITIES: RangeInclusive<i32> = 0..=1_000_000;

/// A run with another priority.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reprioritized {
    /// The run.
    pub run_id: Uuid,
    /// Its priority now.
    pub priority: i32,
    /// How many of its rows had another one.
    pub rows_changed: i64,
}

/// Reads the request's body, `{"priority": 1}`; every invalid field is listed.
pub fn parse_priority(body: &str) -> Result<i32, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    let priority = Object::parse(body, "", &mut errors).and_then(|mut object| {
        let priority = read_priority(&mut object, &mut errors);
        object.finish(&mut errors);
        priority
    });
    errors.finish(priority)
}

/// Takes the field `priority`.
pub fn read_priority(object: &mut Object, errors: &mut FieldErrors) -> Option<i32> {
    object.check_present("priority", errors).then(|| object.integer("priority", PRIORITIES, errors)).flatten()
}

/// Gives every row of the run that has not ended another priority; a repetition changes nothing.
///
/// # Errors
/// [`Error::RunNotFound`]; [`Error::RunFinished`] if every row has ended.
pub async fn set_priority(
    client: &Client,
    admin: &Admin,
    run_id: Uuid,
    priority: i32,
) -> Result<Reprioritized, Error> {
    let row = client
        .query_typed_one(
            PRIORITY,
            &[(&run_id, Type::UUID), (&admin.principal(), Type::TEXT), (&priority, Type::INT4)],
        )
        .await?;
    if !row.try_get::<_, bool>("known")? {
        return Err(Error::RunNotFound);
    }
    if row.try_get::<_, i64>("unended")? == 0 {
        return Err(Error::RunFinished("every row of it has ended"));
    }
    Ok(Reprioritized { run_id, priority, rows_changed: row.try_get("changed")? })
}

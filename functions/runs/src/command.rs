//! An admin's commands on runs.

use crate::file::Range;
use bakeoff_core::document::Object;
use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::runners::revoke::parse_reason;
use bakeoff_core::runners::runner::Admin;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::enqueue::{NewRun, enqueue};
use bakeoff_core::runs::enqueue_many::{NewRuns, enqueue_many};
use bakeoff_core::runs::evidence::{Part, evidence};
use bakeoff_core::runs::listing::{self, Filter, list};
use bakeoff_core::runs::priority::{parse_priority, read_priority, set_priority};
use bakeoff_core::runs::requeue::requeue;
use bakeoff_core::runs::show::show;
use bakeoff_lambda::admin::{Command, parse_payload};
use bakeoff_lambda::app::parse_body;
use bakeoff_lambda::{App, Refusal, Reply, Request, Result};
use uuid::Uuid;

/// An admin's request.
pub(crate) enum RunsCommand {
    Enqueue(Box<NewRun>),
    EnqueueMany(NewRuns),
    List { filter: Filter, cursor: Option<String>, limit: Option<i32> },
    Show { run_id: Uuid },
    File { run_id: Uuid, name: String, submission_id: Option<Uuid>, range: Range },
    Cancel { run_id: Uuid, reason: Option<String> },
    Requeue { run_id: Uuid, reason: Option<String> },
    SetPriority { run_id: Uuid, priority: i32 },
}

impl RunsCommand {
    /// Parses the body of an enqueue: one run, or several as `{"runs": [ … ]}`. A run without an id gets
    /// `default_id`.
    fn parse_enqueue(body: &str, default_id: Uuid) -> std::result::Result<Self, Vec<FieldError>> {
        let several =
            Object::parse(body, "", &mut FieldErrors::default()).is_some_and(|object| object.has("runs"));
        if several {
            return NewRuns::parse(body).map(Self::EnqueueMany);
        }
        NewRun::parse(body).map(|run| Self::Enqueue(Box::new(run.with_default_id(default_id))))
    }

    fn read_list(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        const AGES: std::ops::RangeInclusive<i32> = 0..=i32::MAX;
        let filter = Filter {
            status: object.text("status", 1..=20, errors),
            model: object.text("model", 1..=200, errors),
            runner_id: object.text("runner_id", 1..=200, errors),
            publisher_id: object.text("publisher_id", 1..=200, errors),
            newer_than_s: object.integer("newer_than_s", AGES, errors).map(i64::from),
            older_than_s: object.integer("older_than_s", AGES, errors).map(i64::from),
        };
        let cursor = object.text("cursor", 1..=200, errors);
        let limit = object.integer("limit", 1..=i32::MAX, errors);
        object.finish(errors);
        Some(Self::List { filter, cursor, limit })
    }

    /// Reads the payload of a command on one run.
    fn read_of_run(name: &str, mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let run_id = object.required_uuid("run_id", errors);
        let command = match name {
            "show" => run_id.map(|run_id| Self::Show { run_id }),
            "file" => {
                let name = object.required_text("name", 1..=200, errors);
                let submission_id = object.uuid("submission_id", errors);
                let offset = object.integer("offset", 0..=i32::MAX, errors);
                let length = object.integer("length", 1..=crate::file::PART_MAX, errors);
                let range = match (offset, length) {
                    (None, None) => Range::Whole,
                    (offset, length) => Range::Part(Part {
                        offset: offset.unwrap_or_default(),
                        length: length.unwrap_or(crate::file::PART_MAX),
                    }),
                };
                run_id.zip(name).map(|(run_id, name)| Self::File { run_id, name, submission_id, range })
            }
            "priority" => {
                let priority = read_priority(&mut object, errors);
                run_id.zip(priority).map(|(run_id, priority)| Self::SetPriority { run_id, priority })
            }
            _ => {
                let reason = object.text("reason", 0..=1000, errors);
                run_id.map(|run_id| match name {
                    "cancel" => Self::Cancel { run_id, reason },
                    _ => Self::Requeue { run_id, reason },
                })
            }
        };
        object.finish(errors);
        command
    }
}

impl Command for RunsCommand {
    fn from_request(request: &Request) -> Result<Self> {
        Ok(match request.route().as_str() {
            "POST /api/admin/runs" => {
                parse_body(&request.body()?, |body| Self::parse_enqueue(body, request.generated_id()))?
            }
            "GET /api/admin/runs" => {
                request.parse_query(&["limit", "newer_than_s", "older_than_s"], Self::read_list)?
            }
            "GET /api/admin/runs/{run_id}" => Self::Show { run_id: request.run_id()? },
            "GET /api/admin/runs/{run_id}/files/{name}" => Self::File {
                run_id: request.run_id()?,
                name: request.path_parameter("name").unwrap_or_default(),
                submission_id: request.parse_query(&[], |mut object, errors| {
                    let submission_id = object.uuid("submission_id", errors);
                    object.finish(errors);
                    Some(submission_id)
                })?,
                range: Range::parse(request.header("range")),
            },
            "POST /api/admin/runs/{run_id}/cancel" => Self::Cancel {
                run_id: request.run_id()?,
                reason: parse_body(&request.body()?, parse_reason)?,
            },
            "POST /api/admin/runs/{run_id}/requeue" => Self::Requeue {
                run_id: request.run_id()?,
                reason: parse_body(&request.body()?, parse_reason)?,
            },
            "POST /api/admin/runs/{run_id}/priority" => Self::SetPriority {
                run_id: request.run_id()?,
                priority: parse_body(&request.body()?, parse_priority)?,
            },
            _ => return Err(Refusal::NoSuchRoute),
        })
    }

    fn from_payload(payload: &str) -> std::result::Result<Self, Vec<FieldError>> {
        let names = ["enqueue", "list", "show", "file", "cancel", "requeue", "priority"];
        parse_payload(payload, &names, |name, pointer, value, errors| match name {
            "enqueue" => Self::parse_enqueue(value.get(), Uuid::new_v4())
                .map_err(|run_errors| errors.extend_with_prefix(pointer, run_errors))
                .ok(),
            "list" => Self::read_list(Object::parse(value.get(), pointer, errors)?, errors),
            _ => Self::read_of_run(name, Object::parse(value.get(), pointer, errors)?, errors),
        })
    }

    async fn execute(&self, app: &App, admin: &Admin) -> Result {
        let client = app.database().await?;
        match self {
            Self::Enqueue(run) => Reply::json(201, &enqueue(&client, admin, run).await?),
            Self::EnqueueMany(runs) => {
                let enqueued = enqueue_many(&client, admin, runs).await?;
                Reply::json(if enqueued.created { 201 } else { 200 }, &enqueued)
            }
            Self::List { filter, cursor, limit } => {
                let limit = limit.unwrap_or(listing::PAGE_MAX);
                Reply::json(200, &list(&client, filter, cursor.as_deref(), limit).await?)
            }
            Self::Show { run_id } => Reply::json(200, &show(&client, *run_id).await?),
            Self::File { run_id, name, submission_id, range } => {
                range.reply(evidence(&client, *run_id, name, *submission_id, range.part()).await?)
            }
            Self::Cancel { run_id, reason } => {
                Reply::json(200, &cancel(&client, admin, *run_id, reason.as_deref()).await?)
            }
            Self::Requeue { run_id, reason } => {
                Reply::json(200, &requeue(&client, admin, *run_id, reason.as_deref()).await?)
            }
            Self::SetPriority { run_id, priority } => {
                Reply::json(200, &set_priority(&client, admin, *run_id, *priority).await?)
            }
        }
    }
}

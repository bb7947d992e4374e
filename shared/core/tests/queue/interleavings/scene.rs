//! A row, two runners who may have claimed it, and the operations on it as the service carries them out.

use super::model::{Id, Op, Row, Status, Who};
use super::stage::{Operation, Saved};
use bakeoff_core::Error;
use bakeoff_core::queue::claim::{ClaimRequest, Job, claim};
use bakeoff_core::queue::heartbeat::{HeartbeatRequest, heartbeat};
use bakeoff_core::queue::reap::reap;
use bakeoff_core::queue::release::{Failure, ReleaseRequest, release};
use bakeoff_core::results::canonical_json::CanonicalForm;
use bakeoff_core::results::run_result::FailureCode;
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_core::runs::requeue::requeue;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

/// Tables that the operations write. The audit log stays as it is: nothing reads it.
const TABLES: [&str; 11] = [
    "runs",
    "runners",
    "allowlist",
    "run_queue",
    "past_claims",
    "submissions",
    "submission_files",
    "run_model_metrics",
    "run_hardware_metrics",
    "claim_cursors",
    "claim_cursor_resets",
];

/// How the row came to be as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Before {
    Done(Op),
    /// The holder's lease runs out.
    Lapse,
    /// The key is allowed again.
    Allow(Who),
}

pub(crate) struct Scene {
    ann: Runner,
    bob: Runner,
    job: Job,
    results: [Value; 2],
    /// The row, before and as the model has it.
    pub(crate) row: Row,
    saved: Saved,
}

fn uuid(id: Id) -> Uuid {
    Uuid::from_u128(1 + Id::ALL.iter().position(|other| *other == id).unwrap() as u128)
}

impl Scene {
    /// Prepares the row by carrying the operations out, on the database and on the model.
    pub(crate) async fn prepare(client: &Client, before: &[Before]) -> Arc<Self> {
        let ann = fixture::runner(client, "ann").await;
        let bob = fixture::runner(client, "bob").await;
        let mut run = fixture::run();
        run["max_attempts"] = json!(1);
        let run_id = fixture::enqueue_run(client, &run).await.run_id;
        // What a runner learns of its job, without claiming this row.
        let probe =
            claim(client, &ann.authenticated, TERMS, &ClaimRequest::default()).await.unwrap().job().unwrap();
        client
            .batch_execute(
                "UPDATE run_queue SET status = 'PENDING', claim_id = NULL, claimed_by = NULL, claimed_at = NULL, \
                        lease_expires_at = NULL",
            )
            .await
            .unwrap();
        assert_eq!(probe.run_id, run_id);
        let result = fixture::result(&probe);
        let mut other = result.clone();
        other["timestamp"] = json!("2026-08-01T13:00:00Z");
        let row = Row {
            status: Status::Pending,
            claim: None,
            attempts: 0,
            max_attempts: 1,
            deferred: false,
            lapsed: false,
            past: BTreeMap::new(),
            submission: None,
            revoked: BTreeMap::from([(Who::Ann, false), (Who::Bob, false)]),
        };
        let mut scene = Self { ann, bob, job: probe, results: [result, other], row, saved: Saved::default() };
        for step in before {
            match *step {
                Before::Done(op) => {
                    let expected = scene.row.apply(op);
                    assert_eq!(scene.carry_out(client, op).await, expected, "{op:?}");
                }
                Before::Lapse => {
                    scene.row.lapsed = true;
                    let lapse = "UPDATE run_queue SET lease_expires_at = now() - interval '1 s'";
                    client.batch_execute(lapse).await.unwrap();
                }
                Before::Allow(who) => {
                    scene.row.revoked.insert(who, false);
                    scene.runner(who).machine.allow(client).await;
                }
            }
        }
        assert_eq!(scene.read(client).await, scene.row);
        scene.saved = Saved::of(client, &TABLES).await;
        Arc::new(scene)
    }

    /// Puts the rows back as they were prepared.
    pub(crate) async fn restore(&self, client: &Client) {
        self.saved.restore(client).await;
    }

    /// The row as the database has it.
    pub(crate) async fn read(&self, client: &Client) -> Row {
        let id = |uuid_of: Uuid| Id::ALL.into_iter().find(|id| uuid(*id) == uuid_of).unwrap();
        let row = "SELECT q.status, q.claim_id, q.attempt_count, q.max_attempts, q.retry_after IS NOT NULL, \
                          coalesce(q.lease_expires_at < now(), false), s.claim_id, s.sha256, s.late \
                   FROM run_queue q LEFT JOIN submissions s USING (queue_id)";
        let row = client.query_typed_one(row, &[]).await.unwrap();
        let status = match row.get(0) {
            "PENDING" => Status::Pending,
            "CLAIMED" => Status::Claimed,
            "IN_PROGRESS" => Status::InProgress,
            "COMPLETE" => Status::Complete,
            "FAILED" => Status::Failed,
            "CANCELLED" => Status::Cancelled,
            other => panic!("{other}"),
        };
        let submission = row.get::<_, Option<Uuid>>(6).map(|claim| {
            let sha256: Vec<u8> = row.get(7);
            let number = self.results.iter().position(|result| {
                CanonicalForm::parse(result.to_string().as_bytes()).unwrap().sha256().as_slice() == sha256
            });
            (id(claim), number.unwrap() as u8, row.get(8))
        });
        let past = client.query_typed("SELECT claim_id, ended_by FROM past_claims", &[]).await.unwrap();
        let past = past.iter().map(|row| {
            let words = ["lapsed", "released", "failed", "revoked", "superseded"];
            let ended_by: String = row.get(1);
            (id(row.get(0)), words.into_iter().find(|word| *word == ended_by).unwrap())
        });
        let active = "SELECT key_id FROM allowlist WHERE revoked_at IS NULL";
        let active = client.query_typed(active, &[]).await.unwrap();
        let active: Vec<String> = active.iter().map(|row| row.get(0)).collect();
        let revoked = [Who::Ann, Who::Bob]
            .map(|who| (who, !active.contains(&self.runner(who).machine.key_id())))
            .into_iter()
            .collect();
        Row {
            status,
            claim: row.get::<_, Option<Uuid>>(1).map(id),
            attempts: row.get::<_, i32>(2) as u32,
            max_attempts: row.get::<_, i32>(3) as u32,
            deferred: row.get(4),
            lapsed: row.get(5),
            past: past.collect(),
            submission,
            revoked,
        }
    }

    fn runner(&self, who: Who) -> &Runner {
        match who {
            Who::Ann => &self.ann,
            Who::Bob => &self.bob,
        }
    }

    /// The operation, to be stepped.
    pub(crate) fn operation(self: &Arc<Self>, op: Op) -> Operation {
        let scene = Arc::clone(self);
        Box::new(move |client| {
            Box::pin(async move {
                let outcome = scene.carry_out(&client, op).await;
                (client, outcome)
            })
        })
    }

    /// Carries it out as the service does; says how it went, in the model's words.
    async fn carry_out(&self, client: &Client, op: Op) -> String {
        let admin = fixture::admin();
        let run_id = self.job.run_id;
        let outcome = match op {
            Op::Claim(id) => {
                let request = ClaimRequest { claim_id: Some(uuid(id)), capabilities: None };
                let runner = &self.runner(id.owner()).authenticated;
                let job = claim(client, runner, TERMS, &request).await;
                job.map(|outcome| if outcome.job().is_some() { "claimed" } else { "empty" }.to_owned())
            }
            Op::Heartbeat(id) => {
                let body = json!({"claim_id": uuid(id)}).to_string();
                let request = HeartbeatRequest::parse(&body).unwrap();
                let runner = &self.runner(id.owner()).authenticated;
                let beat = heartbeat(client, runner, TERMS, run_id, &request).await;
                beat.map(|beat| json!(beat)["directive"].as_str().unwrap().to_owned())
            }
            Op::Release(id) | Op::Fail(id) => {
                let failed = matches!(op, Op::Fail(_));
                let failure = failed.then_some(Failure { code: FailureCode::ALL[0], detail: None });
                let request = ReleaseRequest { claim_id: uuid(id), failure };
                let runner = &self.runner(id.owner()).authenticated;
                let how = if failed { "failed" } else { "released" };
                let released = release(client, runner, run_id, &request).await;
                released.map(|released| {
                    let status = match released.status.as_str() {
                        "PENDING" => Status::Pending,
                        "CLAIMED" => Status::Claimed,
                        "IN_PROGRESS" => Status::InProgress,
                        "COMPLETE" => Status::Complete,
                        "FAILED" => Status::Failed,
                        _ => Status::Cancelled,
                    };
                    format!("{how}: {status:?}, {} attempts", released.attempt_count)
                })
            }
            Op::Submit(id, result) => {
                let job = Job { claim_id: uuid(id), ..self.job.clone() };
                let result = &self.results[result as usize];
                let accepted = fixture::submit_result(client, self.runner(id.owner()), &job, result).await;
                accepted.map(|accepted| {
                    let before = if accepted.new { "" } else { " before" };
                    format!("accepted{before}, late: {}", accepted.late)
                })
            }
            Op::Reap => reap(client, TERMS, Duration::from_secs(60))
                .await
                .map(|reaped| format!("reaped {}", reaped.returned + reaped.failed)),
            Op::Cancel => cancel(client, &admin, run_id, None)
                .await
                .map(|cancelled| format!("cancelled {}", cancelled.rows_cancelled)),
            Op::Requeue => requeue(client, &admin, run_id, None)
                .await
                .map(|requeued| format!("requeued {}", requeued.rows_requeued)),
            Op::Revoke(who) => {
                let key_id = self.runner(who).machine.key_id();
                let revoked = revoke(client, &admin, &key_id, None).await;
                revoked.map(|revoked| format!("revoked {}", revoked.claims_returned))
            }
        };
        outcome.unwrap_or_else(|error| match error {
            Error::KeyNotAllowed => "key_not_allowed".into(),
            Error::ClaimLost => "claim_lost".into(),
            Error::RunFinished(_) => "run_finished".into(),
            other => format!("{other:?}"),
        })
    }
}

//! A short story in which everything went by the rules, carried out by the core's operations and written down as
//! runners and admins would.

use bakeoff_core::queue::claim::Job;
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_local::storm::log::{Act, Acted, Asked, Exchange, ReaperRun, Story, now};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

pub(crate) const LEASE_TTL_S: u32 = 4;
/// In microseconds.
const SECOND: i64 = 1_000_000;

pub(crate) struct Sound {
    client: Client,
    /// The schema's owner, as which the storm checks.
    pub(crate) owner: Client,
    pub(crate) story: Story,
    pub(crate) jwks: Value,
    _database: Database,
}

/// The claim of the row that was taken back once and completed by another.
pub(crate) fn lapsed_claim(story: &Story) -> &Exchange {
    story.exchanges.iter().find(|exchange| exchange.asked == Asked::Claim).unwrap()
}

impl Sound {
    /// A job whose first claim lapses, completed by another runner; one completed at once; one whose claim was
    /// returned by a revocation, completed; one that fails with its attempts spent; one cancelled.
    pub(crate) async fn tell() -> Self {
        let database = Database::create().await;
        let (client, owner) = (database.client().await, database.owner().await);
        let keys: Vec<Value> = fixture::service_keys().public_keys().map(|key| json!(key)).collect();
        let mut sound = Self {
            client,
            owner,
            story: Story::default(),
            jwks: json!({ "keys": keys }),
            _database: database,
        };
        let (ann, bob) = (sound.runner("ann").await, sound.runner("bob").await);

        sound.enqueue(5).await;
        let lapsed = sound.claim(&ann).await;
        sound.reap(&[&lapsed]).await;
        let job = sound.claim(&bob).await;
        sound.submit(&bob, &job).await;

        sound.enqueue(5).await;
        let job = sound.claim(&ann).await;
        sound.submit(&ann, &job).await;

        let gone = sound.runner("gone").await;
        sound.enqueue(5).await;
        sound.claim(&gone).await;
        sound.revoke(&gone).await;
        let job = sound.claim(&ann).await;
        sound.submit(&ann, &job).await;

        sound.enqueue(1).await;
        for _ in 0..2 {
            let lapsed = sound.claim(&ann).await;
            sound.reap(&[&lapsed]).await;
        }
        let cancelled = sound.enqueue(5).await;
        sound.cancel(cancelled).await;
        sound
    }

    fn acted(&mut self, act: Act, subject: String, sent: i64, changed: i64) {
        let status = if matches!(act, Act::Enqueue | Act::Allow) { 201 } else { 200 };
        self.story.acts.push(Acted { act, subject, sent, received: now(), status, changed });
    }

    async fn runner(&mut self, name: &str) -> Runner {
        let sent = now();
        let runner = fixture::runner(&self.client, name).await;
        self.acted(Act::Allow, runner.machine.key_id(), sent, 1);
        runner
    }

    async fn enqueue(&mut self, max_attempts: i32) -> Uuid {
        let sent = now();
        let mut run = fixture::run();
        run["max_attempts"] = json!(max_attempts);
        let run_id = fixture::enqueue_run(&self.client, &run).await.run_id;
        self.acted(Act::Enqueue, run_id.to_string(), sent, 1);
        run_id
    }

    async fn revoke(&mut self, runner: &Runner) {
        let (sent, key_id) = (now(), runner.machine.key_id());
        let revoked = revoke(&self.client, &fixture::admin(), &key_id, None).await.unwrap();
        assert_eq!(revoked.claims_returned, 1);
        self.acted(Act::Revoke, key_id, sent, 1);
    }

    async fn cancel(&mut self, run_id: Uuid) {
        let sent = now();
        let cancelled = cancel(&self.client, &fixture::admin(), run_id, None).await.unwrap();
        self.acted(Act::Cancel, run_id.to_string(), sent, cancelled.rows_cancelled);
    }

    async fn claim(&mut self, runner: &Runner) -> Job {
        // A microsecond at least lies between any two requests.
        let sent = now() + 1;
        let job = fixture::claim_next(&self.client, runner).await;
        self.heard(runner, Asked::Claim, &job, sent, 200);
        job
    }

    async fn submit(&mut self, runner: &Runner, job: &Job) {
        let sent = now() + 1;
        let accepted =
            fixture::submit_result(&self.client, runner, job, &fixture::result(job)).await.unwrap();
        let exchange = self.heard(runner, Asked::Submit, job, sent, 201);
        exchange.receipt = Some(accepted.receipt);
        exchange.late = Some(accepted.late);
    }

    fn heard(&mut self, runner: &Runner, asked: Asked, job: &Job, sent: i64, status: u16) -> &mut Exchange {
        self.story.exchanges.push(Exchange {
            runner: runner.machine.name.clone(),
            asked,
            run_id: Some(job.run_id),
            claim_id: Some(job.claim_id),
            sent,
            received: now() + 1,
            status,
            heard: true,
            code: None,
            queue_id: Some(job.queue_id),
            lease_expires_at: None,
            directive: None,
            receipt: None,
            late: None,
        });
        self.story.exchanges.last_mut().unwrap()
    }

    /// The leases run out, and the reaper takes the jobs back. In the log the time is moved as it is in the data: the
    /// claims were made a lease and more ago.
    async fn reap(&mut self, lapsed: &[&Job]) {
        for job in lapsed {
            fixture::expire_lease(&self.client, job).await;
            let claim =
                self.story.exchanges.iter_mut().find(|exchange| exchange.claim_id == Some(job.claim_id));
            let claim = claim.unwrap();
            claim.sent -= (i64::from(LEASE_TTL_S) + 10) * SECOND;
            claim.received -= (i64::from(LEASE_TTL_S) + 10) * SECOND;
            claim.lease_expires_at = Some(claim.received + i64::from(LEASE_TTL_S) * SECOND);
        }
        let started = now();
        let reaped = reap(&self.client, TERMS, Duration::from_secs(60)).await.unwrap();
        assert_eq!((reaped.returned + reaped.failed) as usize, lapsed.len());
        let (grace, finished) = (reaped.grace_until.is_some(), reaped.finished);
        let audit_head = reaped.audit_head;
        self.story.reaper_runs.push(ReaperRun { started, ended: now(), grace, finished, audit_head });
    }
}

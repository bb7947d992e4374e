//! A runner: registers, claims, works, submits, over a network that drops, doubles and delays, with a machine
//! that freezes, fails and dies. It does what a correct runner does: it sends again what got no answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::log::{Asked, Exchange, micros, now};
use super::random::Random;
use super::results::{Form, Job};
use super::world::{PATIENCE, World};
use crate::client::Reply;
use crate::demo::harness_run::base64;
use crate::error::{Error, Result};

/// How often a submit is sent before the runner gives its result up.
const SUBMITS_MAX: u32 = 120;

/// One runner.
pub(super) struct Runner {
    world: Arc<World>,
    name: String,
    key: SigningKey,
    vram_gb: u32,
    random: Random,
    token: String,
}

/// What happens to a claimed job.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It is worked on and submitted.
    Done,
    /// The runner freezes past its lease, then goes on as if nothing had been.
    Frozen,
    /// The runner dies; the one that comes in its place knows nothing of the job.
    Died,
    /// It fails.
    Failed,
    /// It is handed back.
    Returned,
    /// A result with a broken signature is submitted first.
    Forged,
}

/// A request ready to be sent, more than once if need be.
#[derive(Clone)]
struct Outgoing {
    asked: Asked,
    run_id: Option<Uuid>,
    claim_id: Option<Uuid>,
    path: String,
    token: String,
    body: Arc<RawValue>,
}

impl Runner {
    pub(super) fn new(world: Arc<World>, number: usize) -> Self {
        let (key, random) = (world.key(number), Random::new(world.seed, 100_000 + number as u64));
        // One in four cannot serve the big jobs, so that claims must pass over rows that do not fit.
        let vram_gb = if number % 4 == 3 { 8 } else { 24 };
        Self { world, name: format!("storm-{number}"), key, vram_gb, random, token: String::new() }
    }

    /// Works until the storm is over.
    pub(super) async fn work(mut self) {
        while !self.world.is_over() {
            if let Some((claim_id, job)) = self.claim().await {
                self.serve(claim_id, &job).await;
            }
        }
    }

    async fn claim(&mut self) -> Option<(Uuid, Job)> {
        let claim_id = Uuid::new_v4();
        while !self.world.is_over() {
            if self.token.is_empty() {
                self.register().await;
                continue;
            }
            let body = json!({"claim_id": claim_id});
            let heard = self.ask(Asked::Claim, None, claim_id, "/api/queue/claim".into(), &body).await;
            let Some(reply) = heard else { continue };
            match reply.status.as_u16() {
                200 => return job_of(&reply.body).map(|job| (claim_id, job)),
                204 => {
                    self.pause(400, 1200).await;
                    return None;
                }
                401 => self.token.clear(),
                500.. => {}
                // The key is revoked; or the claim was granted, its reply lost, and it has ended since.
                _ => {
                    self.pause(100, 300).await;
                    return None;
                }
            }
            self.pause(30, 200).await;
        }
        None
    }

    async fn register(&mut self) {
        let body = json!({
            "public_key": base64(self.key.verifying_key().as_bytes()), "runner_id": self.name,
            "hostname": "storm", "capabilities": {"vram_gb": self.vram_gb, "quantizations": ["q4_k_m"]},
        });
        let sent = now();
        let reply = timeout(PATIENCE, self.world.api.register(&self.key, &body)).await;
        let reply = reply.ok().and_then(Result::ok);
        let heard = !self.strikes(0.04, "reply dropped");
        self.world.log.exchange(exchange(
            &self.name,
            Asked::Register,
            (None, None),
            sent,
            reply.as_ref(),
            heard,
        ));
        match reply.filter(|reply| heard && reply.status.as_u16() == 200) {
            Some(reply) => self.token = reply.text("token"),
            None => self.pause(100, 400).await,
        }
    }

    async fn serve(&mut self, claim_id: Uuid, job: &Job) {
        let fate = self.fate(job);
        if let Fate::Died = fate {
            return;
        }
        for _ in 0..self.random.below(3) {
            self.pause(10, 150).await;
            if self.heartbeat(claim_id, job).await.is_err() {
                return;
            }
        }
        match fate {
            Fate::Died => {}
            Fate::Frozen => {
                let past = self.world.lease_ttl.mul_f64(0.8 + 0.8 * self.random.fraction());
                sleep(past).await;
                self.submit(claim_id, job).await;
            }
            Fate::Failed => {
                let failure = json!({"code": "oom", "detail": "the storm took the memory"});
                self.release(claim_id, job, &json!({"claim_id": claim_id, "failure": failure})).await;
            }
            Fate::Returned => self.release(claim_id, job, &json!({"claim_id": claim_id})).await,
            Fate::Forged => {
                self.forge(claim_id, job).await;
                self.submit(claim_id, job).await;
            }
            Fate::Done => self.submit(claim_id, job).await,
        }
    }

    fn fate(&mut self, job: &Job) -> Fate {
        if !self.world.is_stormy() {
            return Fate::Done;
        }
        // One job in forty takes down whatever runs it, until its attempts are spent.
        if job.run_id.as_u128().is_multiple_of(40) {
            self.world.log.fault("runner taken down by its job");
            return Fate::Died;
        }
        let (fate, fault) = match self.random.below(100) {
            0..5 => (Fate::Frozen, "runner frozen past its lease"),
            5..7 => (Fate::Died, "runner died with a job"),
            7..10 => (Fate::Failed, "job failed"),
            10..12 => (Fate::Returned, "job handed back"),
            12..13 => (Fate::Forged, "result with a broken signature"),
            _ => return Fate::Done,
        };
        self.world.log.fault(fault);
        fate
    }

    /// # Errors
    /// When the runner is to stop working on the job.
    async fn heartbeat(&mut self, claim_id: Uuid, job: &Job) -> std::result::Result<(), ()> {
        let body = json!({"claim_id": claim_id, "progress": {"step": self.random.below(100)}});
        let path = format!("/api/queue/{}/heartbeat", job.run_id);
        // One that got no answer is not sent again: the next one says the same.
        let Some(reply) = self.ask(Asked::Heartbeat, Some(job.run_id), claim_id, path, &body).await else {
            return Ok(());
        };
        match (reply.status.as_u16(), reply.text("directive").as_str()) {
            (200, "cancel") => Err(()),
            (401, _) => {
                self.renew().await;
                Ok(())
            }
            // Every second runner finishes what it has begun: a late result is welcome.
            (409, _) if self.random.chance(0.5) => Err(()),
            _ => Ok(()),
        }
    }

    async fn release(&mut self, claim_id: Uuid, job: &Job, body: &Value) {
        let path = format!("/api/queue/{}/release", job.run_id);
        for _ in 0..20 {
            let heard = self.ask(Asked::Release, Some(job.run_id), claim_id, path.clone(), body).await;
            match heard.map(|reply| reply.status.as_u16()) {
                None | Some(500..) => self.pause(50, 300).await,
                Some(401) => self.renew().await,
                Some(_) => return,
            }
        }
    }

    async fn submit(&mut self, claim_id: Uuid, job: &Job) {
        let form = if self.random.chance(0.5) { Form::Envelope } else { Form::Bundle };
        let Ok(body) = self.world.template.submission(&self.key, job, claim_id, form) else { return };
        let path = format!("/api/queue/{}/submit", job.run_id);
        for _ in 0..SUBMITS_MAX {
            if self.world.is_over() {
                return;
            }
            let heard = self.ask(Asked::Submit, Some(job.run_id), claim_id, path.clone(), &body).await;
            match heard.map(|reply| reply.status.as_u16()) {
                None | Some(500..) => self.pause(50, 300).await,
                Some(401) => self.renew().await,
                // Revoked: the result is kept for the day on which the key is allowed again.
                Some(403) => self.pause(200, 600).await,
                Some(_) => return,
            }
        }
    }

    /// Submits a result that somebody changed after it was signed.
    async fn forge(&mut self, claim_id: Uuid, job: &Job) {
        let Ok(body) = self.world.template.submission(&self.key, job, claim_id, Form::Envelope) else {
            return;
        };
        let changed = body.get().replacen("\"seed\":42", "\"seed\":43", 1);
        let changed = changed.replacen("\"seed\": 42", "\"seed\": 43", 1);
        let Ok(body) = RawValue::from_string(changed) else { return };
        let path = format!("/api/queue/{}/submit", job.run_id);
        self.ask(Asked::Submit, Some(job.run_id), claim_id, path, &body).await;
    }

    async fn renew(&mut self) {
        self.token.clear();
        for _ in 0..20 {
            if !self.token.is_empty() || self.world.is_over() {
                return;
            }
            self.register().await;
        }
    }

    /// Sends a request through the storm's network. `None`: the runner heard nothing.
    async fn ask(
        &mut self,
        asked: Asked,
        run_id: Option<Uuid>,
        claim_id: Uuid,
        path: String,
        body: &impl serde::Serialize,
    ) -> Option<Reply> {
        let body = to_raw_value(body).ok()?.into();
        let outgoing =
            Outgoing { asked, run_id, claim_id: Some(claim_id), path, token: self.token.clone(), body };
        if self.strikes(0.012, "request delivered once more, later") {
            self.deliver_later(outgoing.clone());
        }
        if self.strikes(0.012, "request doubled") {
            let (one, other) = tokio::join!(
                send(&self.world, &self.name, &outgoing, true),
                send(&self.world, &self.name, &outgoing, true)
            );
            return if self.random.chance(0.5) { one } else { other };
        }
        let heard = !self.strikes(0.03, "reply dropped");
        let reply = send(&self.world, &self.name, &outgoing, heard).await;
        reply.filter(|_| heard)
    }

    /// A copy that arrives when the runner is long past it: requests out of their order.
    fn deliver_later(&mut self, outgoing: Outgoing) {
        let after = self.world.lease_ttl.mul_f64(1.5 * self.random.fraction());
        let (world, name) = (Arc::clone(&self.world), self.name.clone());
        world.delayed.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            sleep(after).await;
            send(&world, &name, &outgoing, false).await;
            world.delayed.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn strikes(&mut self, probability: f64, fault: &'static str) -> bool {
        let strikes = self.random.chance(probability) && self.world.is_stormy();
        if strikes {
            self.world.log.fault(fault);
        }
        strikes
    }

    async fn pause(&mut self, from_ms: u64, to_ms: u64) {
        let ms = from_ms + self.random.below((to_ms - from_ms) as usize) as u64;
        sleep(Duration::from_millis(ms)).await;
    }
}

async fn send(world: &World, runner: &str, outgoing: &Outgoing, heard: bool) -> Option<Reply> {
    let sent = now();
    let answer = timeout(PATIENCE, world.api.post(&outgoing.path, &outgoing.token, &&*outgoing.body)).await;
    let reply = answer.unwrap_or_else(|_| Err(Error::Failed("no answer".into()))).ok();
    let ids = (outgoing.run_id, outgoing.claim_id);
    world.log.exchange(exchange(runner, outgoing.asked, ids, sent, reply.as_ref(), heard));
    reply
}

/// What goes into the log of a request and its answer.
fn exchange(
    runner: &str,
    asked: Asked,
    (run_id, claim_id): (Option<Uuid>, Option<Uuid>),
    sent: i64,
    reply: Option<&Reply>,
    heard: bool,
) -> Exchange {
    let body = reply.map_or(&Value::Null, |reply| &reply.body);
    let text = |member: &str| body[member].as_str().map(str::to_owned);
    let id = |member: &str| body[member].as_str().and_then(|id| id.parse().ok());
    Exchange {
        runner: runner.to_owned(),
        asked,
        run_id: run_id.or_else(|| id("run_id")),
        claim_id,
        sent,
        received: now(),
        status: reply.map_or(0, |reply| reply.status.as_u16()),
        heard,
        code: text("code"),
        queue_id: id("queue_id"),
        lease_expires_at: text("lease_expires_at")
            .and_then(|time| OffsetDateTime::parse(&time, &Rfc3339).ok())
            .map(micros),
        directive: text("directive"),
        receipt: text("receipt"),
        late: body["late"].as_bool(),
    }
}

/// What the runner must know of a claim's answer.
fn job_of(body: &Value) -> Option<Job> {
    let run_id = body["run_id"].as_str()?.parse().ok()?;
    Some(Job { run_id, prompt: body["prompts"][0]["id"].as_str()?.to_owned() })
}

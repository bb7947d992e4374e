//! A runner written from the API's contract alone, with one flaw or none.

use std::path::Path;
use std::time::Duration;

use bakeoff_local::client::{Api, Reply};
use bakeoff_testkit::fixture::{self, Machine};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

/// What a runner does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    TrustsItsOwnClock,
    ReusesItsProof,
    PollsAtOnce,
    ClaimsUnderANewId,
    RetriesAClaimAtOnce,
    SendsHeartbeatsTooLate,
    SendsTooManyHeartbeats,
    StopsItsHeartbeats,
    GivesUpOnALostHeartbeat,
    WaitsTooLongAfterALostHeartbeat,
    KeepsAnExpiredToken,
    DropsItsJobWithItsToken,
    IgnoresCancel,
    SubmitsWhatIsCancelled,
    ReleasesWhatIsCancelled,
    DropsALateResult,
    SubmitsLateUnderANewClaim,
    SubmitsOnce,
    ComputesAnotherResult,
    RetriesASubmitAtOnce,
    HangsUpOnASlowAnswer,
    InventsAFailureCode,
    NamesNoFailure,
    HidesAFailure,
    LeavesTheNonceOut,
    SendsAnUnknownField,
    ChokesOnAnUnknownField,
    ForgetsASecondJob,
    AsksOnWhenRevoked,
    SubmitsWhenRevoked,
}

/// Retries after this, where the service says nothing.
const PAUSE: Duration = Duration::from_millis(500);
/// Hammering: enough for a practice to notice, and not enough to keep the machine busy.
const AT_ONCE: Duration = Duration::from_millis(100);

pub(crate) struct Runner {
    api: Api,
    machine: Machine,
    flaw: Flaw,
    token: String,
    proof: String,
    clock_ahead: time::Duration,
    jobs: u32,
}

/// How the work on a job ended.
enum End {
    Finished,
    Cancelled,
    Dropped,
    Revoked,
}

/// Why there is no answer to use.
enum Trouble {
    /// None came, or one of a service in trouble; when to try again.
    TryAgain(Duration),
    /// The token is refused.
    Token,
    /// The key is revoked.
    Revoked,
    /// Anything else.
    Refused,
}

impl Runner {
    /// Reads the key that the sandbox has made.
    pub(crate) fn new(api: &str, key: &Path, flaw: Flaw) -> Self {
        let pem = std::fs::read_to_string(key).unwrap();
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(base64).unwrap();
        let key = SigningKey::from_bytes(der[der.len() - 32..].try_into().unwrap());
        let machine = Machine { name: "bench".into(), key };
        let (token, proof) = (String::new(), String::new());
        Self { api: Api::new(api), machine, flaw, token, proof, clock_ahead: time::Duration::ZERO, jobs: 0 }
    }

    /// Works until its key is revoked.
    pub(crate) async fn work(mut self) {
        self.register().await;
        loop {
            let Some((claim_id, job)) = self.claim().await else { return };
            self.jobs += 1;
            if self.has(Flaw::ForgetsASecondJob) && self.jobs.is_multiple_of(2) {
                continue;
            }
            match self.run(claim_id, &job).await {
                End::Finished if job["config"]["sandbox"]["fail"] == true => self.fail(claim_id, &job).await,
                End::Finished => self.submit(claim_id, &job).await,
                End::Cancelled | End::Dropped => {}
                End::Revoked if self.has(Flaw::SubmitsWhenRevoked) => {
                    return self.submit(claim_id, &job).await;
                }
                End::Revoked if self.has(Flaw::AsksOnWhenRevoked) => {}
                End::Revoked => return,
            }
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    async fn register(&mut self) {
        let key = STANDARD.encode(self.machine.key.verifying_key().as_bytes());
        let body = json!({
            "public_key": key, "runner_id": self.machine.name,
            "capabilities": { "vram_gb": 1, "quantizations": ["q4_k_m"] },
        });
        let mut again = false;
        loop {
            if !(again && self.has(Flaw::ReusesItsProof)) {
                self.proof =
                    self.api.proof_at(&self.machine.key, OffsetDateTime::now_utc() + self.clock_ahead);
            }
            match self.api.register_with(self.proof.clone(), &body).await {
                Ok(reply) if reply.status == 200 => {
                    self.token = reply.text("token");
                    return;
                }
                Ok(reply) if reply.text("code") == "proof_stale" => {
                    let server = OffsetDateTime::parse(&reply.text("server_time"), &Rfc3339).unwrap();
                    if !self.has(Flaw::TrustsItsOwnClock) {
                        self.clock_ahead = server - OffsetDateTime::now_utc();
                    }
                }
                _ => {
                    again = true;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Asks until there is a job; `None` when the key is revoked.
    async fn claim(&mut self) -> Option<(Uuid, Value)> {
        let mut claim_id = Uuid::new_v4();
        loop {
            let mut body = json!({ "claim_id": claim_id });
            if self.has(Flaw::SendsAnUnknownField) {
                body["wish"] = json!("a big job");
            }
            match self.post("/api/queue/claim", &body).await {
                Ok(reply) if reply.status == 200 => return Some((claim_id, reply.body)),
                Ok(reply) => {
                    let asked_for = Duration::from_secs(reply.retry_after.unwrap_or(1));
                    sleep(if self.has(Flaw::PollsAtOnce) { AT_ONCE } else { asked_for }).await;
                }
                Err(Trouble::TryAgain(wait)) => {
                    if self.has(Flaw::ClaimsUnderANewId) {
                        claim_id = Uuid::new_v4();
                    }
                    sleep(if self.has(Flaw::RetriesAClaimAtOnce) { AT_ONCE } else { wait }).await;
                }
                Err(Trouble::Token) => self.register().await,
                Err(Trouble::Refused) => {
                    claim_id = Uuid::new_v4();
                    sleep(PAUSE).await;
                }
                Err(Trouble::Revoked) if self.has(Flaw::AsksOnWhenRevoked) => sleep(AT_ONCE).await,
                Err(Trouble::Revoked) => return None,
            }
        }
    }

    /// "Runs" the job for its seconds, with heartbeats.
    async fn run(&mut self, claim_id: Uuid, job: &Value) -> End {
        let path = format!("/api/queue/{}/heartbeat", job["run_id"].as_str().unwrap());
        let end = Instant::now() + Duration::from_secs(job["config"]["sandbox"]["seconds"].as_u64().unwrap());
        let interval = match self.flaw {
            Flaw::SendsHeartbeatsTooLate => Duration::from_secs(5),
            Flaw::SendsTooManyHeartbeats => AT_ONCE,
            _ => Duration::from_secs(1),
        };
        let (mut next, mut beats) = (Instant::now(), 0);
        let never = end + Duration::from_secs(3600);
        while next < end {
            sleep_until(next).await;
            beats += 1;
            next = Instant::now() + interval;
            match self.post(&path, &json!({ "claim_id": claim_id })).await {
                Ok(reply) if reply.text("directive") == "cancel" => match self.flaw {
                    Flaw::IgnoresCancel => {}
                    Flaw::SubmitsWhatIsCancelled => return End::Finished,
                    Flaw::ReleasesWhatIsCancelled => {
                        self.release(job, json!({ "claim_id": claim_id })).await;
                        return End::Cancelled;
                    }
                    _ => return End::Cancelled,
                },
                Ok(_) if self.has(Flaw::StopsItsHeartbeats) && beats == 3 => next = never,
                Ok(_) => {}
                Err(Trouble::TryAgain(wait)) => match self.flaw {
                    Flaw::GivesUpOnALostHeartbeat => next = never,
                    Flaw::WaitsTooLongAfterALostHeartbeat if beats == 2 => next += Duration::from_secs(3),
                    _ => next = Instant::now() + wait,
                },
                Err(Trouble::Token) => match self.flaw {
                    Flaw::KeepsAnExpiredToken => {}
                    Flaw::DropsItsJobWithItsToken => {
                        self.register().await;
                        return End::Dropped;
                    }
                    _ => {
                        self.register().await;
                        next = Instant::now();
                    }
                },
                // The lease has run out: a late result counts.
                Err(Trouble::Refused) if self.has(Flaw::DropsALateResult) => return End::Dropped,
                Err(Trouble::Refused) => {}
                Err(Trouble::Revoked) => return End::Revoked,
            }
        }
        sleep_until(end).await;
        End::Finished
    }

    async fn fail(&mut self, claim_id: Uuid, job: &Value) {
        let body = match self.flaw {
            Flaw::HidesAFailure => return,
            Flaw::NamesNoFailure => json!({ "claim_id": claim_id }),
            Flaw::InventsAFailureCode => json!({ "claim_id": claim_id, "failure": { "code": "boom" } }),
            _ => json!({ "claim_id": claim_id, "failure": { "code": "unknown" } }),
        };
        self.release(job, body).await;
    }

    async fn release(&mut self, job: &Value, body: Value) {
        let path = format!("/api/queue/{}/release", job["run_id"].as_str().unwrap());
        loop {
            match self.post(&path, &body).await {
                Err(Trouble::TryAgain(wait)) => sleep(wait).await,
                Err(Trouble::Token) => self.register().await,
                _ => return,
            }
        }
    }

    async fn submit(&mut self, claim_id: Uuid, job: &Value) {
        let path = format!("/api/queue/{}/submit", job["run_id"].as_str().unwrap());
        let claim_id = match self.flaw {
            Flaw::SubmitsLateUnderANewClaim => Uuid::new_v4(),
            _ => claim_id,
        };
        let mut tries = 0;
        loop {
            let mut result = result(job);
            if !self.has(Flaw::LeavesTheNonceOut) {
                result["config"]["queue"] = json!({ "claim_id": job["claim_id"], "nonce": job["nonce"] });
            }
            if self.has(Flaw::ComputesAnotherResult) {
                result["provenance"]["seed"] = json!(tries);
            }
            let body = json!({ "claim_id": claim_id, "envelope": fixture::envelope(&self.machine, &result) });
            tries += 1;
            match self.post(&path, &body).await {
                Err(Trouble::TryAgain(_)) if self.has(Flaw::SubmitsOnce) => return,
                Err(Trouble::TryAgain(_)) if self.has(Flaw::RetriesASubmitAtOnce) => sleep(AT_ONCE).await,
                Err(Trouble::TryAgain(wait)) => sleep(wait).await,
                Err(Trouble::Token) => self.register().await,
                _ => return,
            }
        }
    }

    /// Sends a request and sorts what comes back.
    async fn post(&self, path: &str, body: &Value) -> Result<Reply, Trouble> {
        let patience = if self.has(Flaw::HangsUpOnASlowAnswer) { 2 } else { 30 };
        let request = self.api.post(path, &self.token, body);
        let Ok(Ok(reply)) = timeout(Duration::from_secs(patience), request).await else {
            return Err(Trouble::TryAgain(PAUSE));
        };
        match reply.status.as_u16() {
            200 if self.has(Flaw::ChokesOnAnUnknownField)
                && reply.body.get("from_a_newer_service").is_some() =>
            {
                Err(Trouble::Refused)
            }
            200 | 204 => Ok(reply),
            401 => Err(Trouble::Token),
            403 => Err(Trouble::Revoked),
            500.. => Err(Trouble::TryAgain(reply.retry_after.map_or(PAUSE, Duration::from_secs))),
            _ => Err(Trouble::Refused),
        }
    }
}

/// A result of the job's own models, prompts and tasks.
fn result(job: &Value) -> Value {
    let ids = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut result =
        fixture::result_of(job["run_id"].as_str().unwrap(), &ids(&job["models"]), &ids(&job["prompts"]));
    result["run_status"] = json!("complete");
    result
}

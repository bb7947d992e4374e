//! What a good runner does, each practice tried once.

use std::pin::Pin;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::proxy::{Exchange, Fault, Operation};
use super::scene::{Broken, LEASE_TTL_S, Scene, unauthorized, unavailable};
use crate::error::{ErrorContext as _, Result};

/// A runner whose clock is this much behind the service's: still within the 60 s that the service accepts, so
/// that a corrected proof passes.
const CLOCK_BEHIND_S: i64 = 40;
/// The harness's failure codes.
const FAILURE_CODES: [&str; 9] = [
    "timeout",
    "refusal",
    "malformed_output",
    "oom",
    "load_failure",
    "capability_gap",
    "infra_error",
    "cancelled",
    "unknown",
];

/// A practice: a line of the table, and how it is tried.
pub struct Practice {
    /// Its function here.
    pub name: &'static str,
    /// What the table says.
    pub text: &'static str,
    pub(super) turn: Turn,
    attempt: for<'a> fn(&'a Scene, &'a mut u64) -> Attempt<'a>,
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Held> + Send + 'a>>;

impl std::fmt::Debug for Practice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// When a practice is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// First, in the order of the table: a runner registers once.
    First,
    /// In any order.
    Middle,
    /// Last, in the order of the table: judged over the whole, and the one that ends a runner.
    Last,
}

macro_rules! practices {
    ($($turn:ident $name:ident: $text:literal,)+) => {
        &[$(Practice {
            name: stringify!($name),
            text: $text,
            turn: Turn::$turn,
            attempt: |scene, random| Box::pin($name(scene, random)),
        }),+]
    };
}

/// Every practice. The functions are below, in the same order.
pub const PRACTICES: &[Practice] = practices! {
    First corrects_its_clock: "corrects its clock by `server_time` when its proof is stale",
    First registers_again: "registers again, with a fresh proof, when the answer is lost",
    Middle waits_when_idle: "waits as long as `Retry-After` says when there is no job",
    Middle asks_again: "asks again under the same `claim_id` when the answer to a claim is lost",
    Middle comes_back: "comes back after a 503, and not before its `Retry-After`",
    Middle sends_heartbeats: "sends heartbeats within the lease, and no more than it is asked for",
    Middle repeats_lost_heartbeats: "sends a lost heartbeat again before the lease ends",
    Middle renews_its_token: "renews an expired token in mid-job and keeps the claim",
    Middle stops_on_cancel: "stops on `cancel`: no result, no release, and the next claim soon",
    Middle submits_late: "submits a finished result under a lapsed claim",
    Middle submits_again: "submits the same result again when the answer is lost",
    Middle submits_until_answered: "submits until it is answered, and not before `Retry-After`",
    Middle waits_for_slow_answers: "waits 5 s for an answer",
    Middle reports_failures: "reports a failed job with one of the harness's codes",
    Last binds_its_results: "signs the claim's `nonce` into its results (`config.queue`)",
    Last sends_valid_requests: "sends valid requests only, and ignores fields it does not know",
    Last ends_each_job_once: "ends each job once",
    Last stops_when_revoked: "stops when its key is revoked, and does not hammer",
};

impl Practice {
    /// Tries it. The inner error says how it was broken; the outer one that the sandbox itself failed.
    pub(super) async fn attempt(&self, scene: &Scene, random: &mut u64) -> Held {
        (self.attempt)(scene, random).await
    }
}

/// Whether a practice held.
pub(super) type Held = Result<std::result::Result<(), Broken>>;

/// Goes on only if this held.
macro_rules! held {
    ($outcome:expr) => {
        if let Err(broken) = $outcome {
            return Ok(Err(broken));
        }
    };
}

fn check(holds: bool, broken: impl Into<String>) -> std::result::Result<(), Broken> {
    if holds { Ok(()) } else { Err(broken.into()) }
}

/// The faults of both practices of a registration, which comes but once: 1 stale, 2 lost.
pub(super) fn registration_faults(scene: &Scene) {
    let ahead = OffsetDateTime::now_utc() + time::Duration::seconds(CLOCK_BEHIND_S);
    let server_time = ahead.format(&Rfc3339).unwrap_or_default();
    let stale = unauthorized("proof_stale", json!({ "server_time": server_time }));
    scene.faults([((Operation::Register, 1), stale), ((Operation::Register, 2), Fault::LoseAnswer)]);
}

async fn corrects_its_clock(scene: &Scene, _: &mut u64) -> Held {
    held!(scene.until("a second registration", |seen| registrations(seen).len() >= 2).await);
    let seen = scene.proxy.exchanges();
    let registrations = registrations(&seen);
    let ahead = proof_claim(registrations[1], "iat").as_i64().unwrap_or_default()
        - proof_claim(registrations[0], "iat").as_i64().unwrap_or_default();
    let text = format!("the second proof's `iat` is {ahead} s after the first's, and not {CLOCK_BEHIND_S} s");
    Ok(check((CLOCK_BEHIND_S - 5..=CLOCK_BEHIND_S + 30).contains(&ahead), text))
}

async fn registers_again(scene: &Scene, _: &mut u64) -> Held {
    held!(scene.until("a third registration", |seen| registrations(seen).len() >= 3).await);
    let seen = scene.proxy.exchanges();
    let registrations = registrations(&seen);
    let fresh = proof_claim(registrations[2], "jti") != proof_claim(registrations[1], "jti");
    held!(check(fresh, "the proof's `jti` is the same"));
    Ok(check(registrations[2].sent == Some(StatusCode::OK), "the registration was refused"))
}

fn registrations(seen: &[Exchange]) -> Vec<&Exchange> {
    seen.iter().filter(|exchange| exchange.asked.operation == Operation::Register).collect()
}

/// A claim of the proof's JWT (RFC 9449, section 4.2).
fn proof_claim(exchange: &Exchange, name: &str) -> Value {
    let payload = exchange.asked.proof.as_deref().and_then(|proof| proof.split('.').nth(1));
    let payload = payload.and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok()).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&payload).unwrap_or_default();
    claims[name].clone()
}

async fn waits_when_idle(scene: &Scene, _: &mut u64) -> Held {
    scene.faults([]);
    let mark = scene.mark();
    let empty = |seen: &[Exchange]| {
        let claims = seen.iter().skip(mark).filter(|exchange| exchange.asked.operation == Operation::Claim);
        claims.filter(|claim| claim.sent == Some(StatusCode::NO_CONTENT)).count() >= 3
    };
    held!(scene.until("three claims without a job", empty).await);
    Ok(gaps_hold(&scene.since(mark, Operation::Claim)))
}

/// After each answer with a `Retry-After`, the next request comes no sooner.
fn gaps_hold(exchanges: &[Exchange]) -> std::result::Result<(), Broken> {
    for pair in exchanges.windows(2) {
        let gap = pair[1].asked.at.saturating_duration_since(pair[0].sent_at);
        let asked_for = Duration::from_secs(pair[0].retry_after.unwrap_or(0));
        // Timers end a little early.
        if gap + Duration::from_millis(50) < asked_for {
            return Err(format!("came after {:.1} s, asked to wait {asked_for:?}", gap.as_secs_f64()));
        }
    }
    Ok(())
}

async fn asks_again(scene: &Scene, random: &mut u64) -> Held {
    let lost = 1 + next(random) % 2;
    // Every answer is lost from before the job is there until enough answers with the job are.
    let mark = scene.mark();
    scene.proxy.direct(|asked| match asked.operation {
        Operation::Claim => Fault::LoseAnswer,
        _ => Fault::None,
    });
    let run_id = scene.enqueue(1).await?;
    let enough = |seen: &[Exchange]| {
        let with_job = seen.iter().filter(|exchange| exchange.asked.operation == Operation::Claim);
        with_job.filter(|claim| claim.answer["run_id"] == run_id.as_str()).count() as u64 >= lost
    };
    held!(scene.until("a claim of the job", enough).await);
    scene.faults([]);
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let claims = scene.since(mark, Operation::Claim);
    let with_job: Vec<&Exchange> =
        claims.iter().filter(|claim| claim.answer["run_id"] == run_id.as_str()).collect();
    let same =
        with_job.iter().all(|claim| claim.asked.body["claim_id"] == with_job[0].asked.body["claim_id"]);
    held!(check(same && with_job.len() >= 2, "the job was claimed under another `claim_id`"));
    let lapsed = has_lapsed(scene, &run_id).await?;
    Ok(check(!lapsed, "the first claim lapsed"))
}

/// Whether a lease of the run has run out.
async fn has_lapsed(scene: &Scene, run_id: &str) -> Result<bool> {
    let sql = "SELECT attempt_count > 0 FROM run_queue WHERE run_id = $1::text::uuid";
    Ok(scene.db.query_one(sql, &[&run_id]).await.context("look at a run")?.get(0))
}

async fn comes_back(scene: &Scene, _: &mut u64) -> Held {
    let mark = scene.mark();
    scene.faults([((Operation::Claim, 1), unavailable(4))]);
    let again = |seen: &[Exchange]| {
        let claims = seen.iter().skip(mark).filter(|exchange| exchange.asked.operation == Operation::Claim);
        claims.skip_while(|claim| claim.sent != Some(StatusCode::SERVICE_UNAVAILABLE)).count() >= 2
    };
    held!(scene.until("a claim after the 503", again).await);
    Ok(gaps_hold(&scene.since(mark, Operation::Claim)))
}

async fn sends_heartbeats(scene: &Scene, _: &mut u64) -> Held {
    scene.faults([]);
    let run_id = scene.enqueue(6).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let beats = scene.of_run(&run_id, Operation::Heartbeat);
    held!(check(beats.len() >= 3, format!("{} heartbeats in 6 s", beats.len())));
    held!(check(
        beats.len() <= 14,
        format!("{} heartbeats in 6 s: one each second was asked for", beats.len())
    ));
    within_the_lease(scene, &run_id).await
}

/// From the claim to the submit, the run's holder is never silent for longer than the lease.
async fn within_the_lease(scene: &Scene, run_id: &str) -> Held {
    // The row is complete a moment before the answer to its submit is written down.
    held!(scene.until("an answer to the submit", |seen| !submits(seen, run_id).is_empty()).await);
    let claims = scene.since(0, Operation::Claim).into_iter();
    let claims = claims.filter(|claim| claim.answer["run_id"] == run_id);
    let beats = scene.of_run(run_id, Operation::Heartbeat).into_iter();
    let submits = scene.of_run(run_id, Operation::Submit).into_iter();
    let mut times: Vec<Instant> =
        claims.chain(beats).chain(submits).map(|exchange| exchange.asked.at).collect();
    times.sort();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    let text = format!("silent for {:.1} s, a lease lasts {LEASE_TTL_S} s", longest.as_secs_f64());
    Ok(check(longest <= Duration::from_secs(LEASE_TTL_S.into()), text))
}

async fn repeats_lost_heartbeats(scene: &Scene, random: &mut u64) -> Held {
    let lost = if next(random).is_multiple_of(2) { Fault::LoseRequest } else { Fault::LoseAnswer };
    scene.faults([((Operation::Heartbeat, 2), lost), ((Operation::Heartbeat, 3), unavailable(1))]);
    let run_id = scene.enqueue(7).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let beats = scene.of_run(&run_id, Operation::Heartbeat);
    held!(check(beats.len() >= 4, "no heartbeat after the lost ones"));
    within_the_lease(scene, &run_id).await
}

async fn renews_its_token(scene: &Scene, _: &mut u64) -> Held {
    scene.faults([((Operation::Heartbeat, 1), unauthorized("token_expired", json!({})))]);
    let run_id = scene.enqueue(4).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let seen = scene.proxy.exchanges().into_iter();
    let mut since = seen.skip_while(|exchange| {
        exchange.asked.run_id.as_deref() != Some(&run_id) || exchange.sent != Some(StatusCode::UNAUTHORIZED)
    });
    let renewed = since.any(|exchange| exchange.asked.operation == Operation::Register);
    held!(check(renewed, "it did not register for a new token"));
    let beats = scene.of_run(&run_id, Operation::Heartbeat);
    let same = beats.iter().all(|beat| beat.asked.body["claim_id"] == beats[0].asked.body["claim_id"]);
    Ok(check(same && beats.len() >= 2, "the heartbeats did not go on under the same claim"))
}

async fn stops_on_cancel(scene: &Scene, _: &mut u64) -> Held {
    scene.faults([]);
    let run_id = scene.enqueue(60).await?;
    held!(scene.until_status(&run_id, "IN_PROGRESS").await);
    let mark = scene.mark();
    scene.cancel(&run_id).await?;
    let cancelled_at = Instant::now();
    let next_claim = |seen: &[Exchange]| {
        seen.iter().skip(mark).any(|exchange| exchange.asked.operation == Operation::Claim)
    };
    held!(scene.until("the next claim", next_claim).await);
    let after = cancelled_at.elapsed();
    held!(check(after < Duration::from_secs(45), format!("the next claim came {} s later", after.as_secs())));
    let ended = |operation| !scene.of_run(&run_id, operation).is_empty();
    held!(check(!ended(Operation::Submit), "it submitted a result of the cancelled run"));
    Ok(check(!ended(Operation::Release), "it released the cancelled run, which is no longer its own"))
}

async fn submits_late(scene: &Scene, _: &mut u64) -> Held {
    scene.faults([]);
    let run_id = scene.enqueue(6).await?;
    held!(scene.until_status(&run_id, "IN_PROGRESS").await);
    scene.lapse(&run_id).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let late = "SELECT late FROM submissions WHERE run_id = $1::text::uuid";
    let late = scene.db.query_opt(late, &[&run_id]).await.ok().flatten().is_some_and(|row| row.get(0));
    Ok(check(late, "the job was done once more, and the first result thrown away"))
}

async fn submits_again(scene: &Scene, _: &mut u64) -> Held {
    scene.faults([((Operation::Submit, 1), Fault::LoseAnswer)]);
    let run_id = scene.enqueue(1).await?;
    let again = |seen: &[Exchange]| submits(seen, &run_id).len() >= 2;
    held!(scene.until("a second submit", again).await);
    let seen = scene.proxy.exchanges();
    let submits = submits(&seen, &run_id);
    held!(check(submits[0].asked.body == submits[1].asked.body, "the second submit is another"));
    Ok(check(
        submits[1].status == Some(StatusCode::OK),
        "the second submit was not answered with the receipt",
    ))
}

fn submits<'a>(seen: &'a [Exchange], run_id: &str) -> Vec<&'a Exchange> {
    let of_run = |exchange: &&Exchange| exchange.asked.run_id.as_deref() == Some(run_id);
    seen.iter().filter(|exchange| exchange.asked.operation == Operation::Submit).filter(of_run).collect()
}

async fn submits_until_answered(scene: &Scene, random: &mut u64) -> Held {
    let lost = if next(random).is_multiple_of(2) { 1 } else { 2 };
    let lose = (1..=lost).map(|number| ((Operation::Submit, number), Fault::LoseRequest));
    scene.faults(lose.chain([((Operation::Submit, lost + 1), unavailable(2))]));
    let run_id = scene.enqueue(1).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    Ok(gaps_hold(&scene.of_run(&run_id, Operation::Submit)))
}

async fn waits_for_slow_answers(scene: &Scene, _: &mut u64) -> Held {
    let slow = Duration::from_secs(5);
    scene.faults([((Operation::Submit, 1), Fault::Slow(slow))]);
    let run_id = scene.enqueue(1).await?;
    let is_slow = |submit: &&Exchange| submit.sent_at - submit.asked.at >= slow;
    let answered = |seen: &[Exchange]| submits(seen, &run_id).iter().any(is_slow);
    held!(scene.until("the slow answer to the submit", answered).await);
    // Time for the second request of a runner that gave up shortly before.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count = scene.of_run(&run_id, Operation::Submit).len();
    Ok(check(count == 1, format!("{count} submits while the first was being answered")))
}

async fn reports_failures(scene: &Scene, _: &mut u64) -> Held {
    scene.faults([]);
    let run_id = scene.enqueue_with(json!({ "seconds": 1, "fail": true })).await?;
    let released = |seen: &[Exchange]| {
        let of_run = |exchange: &&Exchange| exchange.asked.run_id.as_deref() == Some(run_id.as_str());
        seen.iter().filter(of_run).any(|exchange| exchange.asked.operation == Operation::Release)
    };
    held!(scene.until("a release", released).await);
    let releases = scene.of_run(&run_id, Operation::Release);
    let code = releases[0].asked.body["failure"]["code"].as_str().unwrap_or_default().to_owned();
    scene.cancel(&run_id).await?;
    Ok(check(FAILURE_CODES.contains(&code.as_str()), format!("the failure's code is {code:?}")))
}

/// A job without any fault: what is judged over the whole is judged over one job at least.
async fn does_a_job(scene: &Scene) -> Held {
    scene.faults([]);
    let run_id = scene.enqueue(1).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let lapsed = has_lapsed(scene, &run_id).await?;
    Ok(check(!lapsed, "it dropped a job: the lease ran out"))
}

async fn binds_its_results(scene: &Scene, _: &mut u64) -> Held {
    held!(does_a_job(scene).await?);
    let sql = "SELECT count(*), count(*) FILTER (WHERE bound) FROM submissions";
    let row = scene.db.query_one(sql, &[]).await;
    let (all, bound): (i64, i64) = row.map(|row| (row.get(0), row.get(1))).unwrap_or_default();
    Ok(check(bound == all && all > 0, format!("{bound} of {all} results are bound")))
}

async fn sends_valid_requests(scene: &Scene, _: &mut u64) -> Held {
    held!(does_a_job(scene).await?);
    let refused = |exchange: &&Exchange| {
        exchange.status.is_some_and(|status| [400, 404, 413, 415, 422].contains(&status.as_u16()))
    };
    Ok(match scene.proxy.exchanges().iter().find(refused) {
        Some(exchange) => Err(format!("{:?}: {}", exchange.asked.operation, exchange.answer)),
        None => Ok(()),
    })
}

async fn ends_each_job_once(scene: &Scene, _: &mut u64) -> Held {
    held!(does_a_job(scene).await?);
    held!(does_a_job(scene).await?);
    let sql = "SELECT count(*) FROM run_queue WHERE status NOT IN ('COMPLETE', 'CANCELLED')";
    let unended: i64 = scene.db.query_one(sql, &[]).await.map(|row| row.get(0)).unwrap_or(-1);
    let sql = "SELECT count(*) FROM (SELECT FROM submissions GROUP BY run_id HAVING count(*) > 1) twice";
    let twice: i64 = scene.db.query_one(sql, &[]).await.map(|row| row.get(0)).unwrap_or(-1);
    Ok(check(unended == 0 && twice == 0, format!("{unended} jobs have not ended, {twice} have two results")))
}

async fn stops_when_revoked(scene: &Scene, _: &mut u64) -> Held {
    scene.faults([]);
    let run_id = scene.enqueue(60).await?;
    held!(scene.until_status(&run_id, "IN_PROGRESS").await);
    scene
        .admin
        .admin_delete(&format!("/api/admin/keys/{}", scene.key_id))
        .await?
        .expect_status(StatusCode::OK)?;
    let refused =
        |seen: &[Exchange]| seen.iter().any(|exchange| exchange.sent == Some(StatusCode::FORBIDDEN));
    held!(scene.until("a request with the revoked key", refused).await);
    let mark = scene.mark();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let after = scene.mark() - mark;
    held!(check(after <= 6, format!("{after} requests within 6 s of the refusal")));
    Ok(check(
        scene.of_run(&run_id, Operation::Submit).is_empty(),
        "it submitted a result with the revoked key",
    ))
}

/// The next number of a sequence that follows from its seed (SplitMix64).
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

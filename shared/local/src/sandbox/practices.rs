//! What a good runner does, each practice tried once.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::proxy::{Exchange, Fault, Operation};
use super::scene::{Broken, LEASE_TTL_S, Scene, unauthorized, unavailable};
use crate::error::Result;

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

/// A practice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Practice {
    CorrectsItsClock,
    RegistersAgain,
    WaitsWhenIdle,
    AsksAgainUnderTheSameClaim,
    ComesBackAfterRetryAfter,
    SendsHeartbeats,
    RepeatsLostHeartbeats,
    RenewsItsToken,
    StopsOnCancel,
    SubmitsLate,
    SubmitsAgain,
    SubmitsUntilAnswered,
    WaitsForSlowAnswers,
    ReportsFailures,
    BindsItsResults,
    SendsValidRequests,
    EndsEachJobOnce,
    StopsWhenRevoked,
}

use Practice::*;

/// First: a runner registers once.
pub(super) const FIRST: [Practice; 2] = [CorrectsItsClock, RegistersAgain];
/// In any order.
pub(super) const IN_ANY_ORDER: [Practice; 12] = [
    WaitsWhenIdle,
    AsksAgainUnderTheSameClaim,
    ComesBackAfterRetryAfter,
    SendsHeartbeats,
    RepeatsLostHeartbeats,
    RenewsItsToken,
    StopsOnCancel,
    SubmitsLate,
    SubmitsAgain,
    SubmitsUntilAnswered,
    WaitsForSlowAnswers,
    ReportsFailures,
];
/// Last: judged over the whole, and the one that ends a runner.
pub(super) const LAST: [Practice; 4] =
    [BindsItsResults, SendsValidRequests, EndsEachJobOnce, StopsWhenRevoked];

impl Practice {
    /// What the table says.
    pub(super) fn text(self) -> &'static str {
        match self {
            CorrectsItsClock => "corrects its clock by `server_time` when its proof is stale",
            RegistersAgain => "registers again, with a fresh proof, when the answer is lost",
            WaitsWhenIdle => "waits as long as `Retry-After` says when there is no job",
            AsksAgainUnderTheSameClaim => {
                "asks again under the same `claim_id` when the answer to a claim is lost"
            }
            ComesBackAfterRetryAfter => "comes back after a 503, and not before its `Retry-After`",
            SendsHeartbeats => "sends heartbeats within the lease, and no more than it is asked for",
            RepeatsLostHeartbeats => "sends a lost heartbeat again before the lease ends",
            RenewsItsToken => "renews an expired token in mid-job and keeps the claim",
            StopsOnCancel => "stops on `cancel`: no result, no release, and the next claim soon",
            SubmitsLate => "submits a finished result under a lapsed claim",
            SubmitsAgain => "submits the same result again when the answer is lost",
            SubmitsUntilAnswered => "submits until it is answered",
            WaitsForSlowAnswers => "waits 5 s for an answer",
            ReportsFailures => "reports a failed job with one of the harness's codes",
            BindsItsResults => "signs the claim's `nonce` into its results (`config.queue`)",
            SendsValidRequests => "sends valid requests only, and ignores fields it does not know",
            EndsEachJobOnce => "ends each job once",
            StopsWhenRevoked => "stops when its key is revoked, and does not hammer",
        }
    }

    /// Tries it. The inner error says how it was broken; the outer one that the sandbox itself failed.
    pub(super) async fn attempt(
        self,
        scene: &Scene,
        random: &mut u64,
    ) -> Result<std::result::Result<(), Broken>> {
        match self {
            CorrectsItsClock => corrects_its_clock(scene).await,
            RegistersAgain => registers_again(scene).await,
            WaitsWhenIdle => waits_when_idle(scene).await,
            AsksAgainUnderTheSameClaim => asks_again(scene, 1 + next(random) % 2).await,
            ComesBackAfterRetryAfter => comes_back(scene).await,
            SendsHeartbeats => sends_heartbeats(scene).await,
            RepeatsLostHeartbeats => repeats_lost_heartbeats(scene, next(random).is_multiple_of(2)).await,
            RenewsItsToken => renews_its_token(scene).await,
            StopsOnCancel => stops_on_cancel(scene).await,
            SubmitsLate => submits_late(scene).await,
            SubmitsAgain => submits_again(scene).await,
            SubmitsUntilAnswered => submits_until_answered(scene, 1 + next(random) % 2).await,
            WaitsForSlowAnswers => waits_for_slow_answers(scene).await,
            ReportsFailures => reports_failures(scene).await,
            BindsItsResults => binds_its_results(scene).await,
            SendsValidRequests => Ok(sends_valid_requests(scene)),
            EndsEachJobOnce => ends_each_job_once(scene).await,
            StopsWhenRevoked => stops_when_revoked(scene).await,
        }
    }
}

/// Whether a practice held.
type Held = Result<std::result::Result<(), Broken>>;

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

async fn corrects_its_clock(scene: &Scene) -> Held {
    held!(scene.until("a second registration", |seen| registrations(seen).len() >= 2).await);
    let seen = scene.proxy.exchanges();
    let registrations = registrations(&seen);
    let ahead = proof_claim(registrations[1], "iat").as_i64().unwrap_or_default()
        - proof_claim(registrations[0], "iat").as_i64().unwrap_or_default();
    let text = format!("the second proof's `iat` is {ahead} s after the first's, and not {CLOCK_BEHIND_S} s");
    Ok(check((CLOCK_BEHIND_S - 5..=CLOCK_BEHIND_S + 30).contains(&ahead), text))
}

async fn registers_again(scene: &Scene) -> Held {
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

async fn waits_when_idle(scene: &Scene) -> Held {
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

async fn asks_again(scene: &Scene, lost: u64) -> Held {
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
    let sql = "SELECT attempt_count FROM run_queue WHERE run_id = $1::text::uuid";
    let attempts = scene.db.query_one(sql, &[&run_id]).await.map(|row| row.get::<_, i32>(0)).unwrap_or(-1);
    Ok(check(attempts == 0, "the first claim lapsed"))
}

async fn comes_back(scene: &Scene) -> Held {
    let mark = scene.mark();
    scene.faults([((Operation::Claim, 1), unavailable(4))]);
    let again = |seen: &[Exchange]| {
        let claims = seen.iter().skip(mark).filter(|exchange| exchange.asked.operation == Operation::Claim);
        claims.skip_while(|claim| claim.sent != Some(StatusCode::SERVICE_UNAVAILABLE)).count() >= 2
    };
    held!(scene.until("a claim after the 503", again).await);
    Ok(gaps_hold(&scene.since(mark, Operation::Claim)))
}

async fn sends_heartbeats(scene: &Scene) -> Held {
    scene.faults([]);
    let run_id = scene.enqueue(6).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let beats = scene.of_run(&run_id, Operation::Heartbeat);
    held!(check(beats.len() >= 3, format!("{} heartbeats in 6 s", beats.len())));
    held!(check(
        beats.len() <= 14,
        format!("{} heartbeats in 6 s: one each second was asked for", beats.len())
    ));
    Ok(within_the_lease(&beats))
}

/// No two heartbeats are further apart than the lease.
fn within_the_lease(beats: &[Exchange]) -> std::result::Result<(), Broken> {
    let longest = beats.windows(2).map(|pair| pair[1].asked.at - pair[0].asked.at).max().unwrap_or_default();
    let text =
        format!("{:.1} s between two heartbeats, a lease lasts {LEASE_TTL_S} s", longest.as_secs_f64());
    check(longest <= Duration::from_secs(LEASE_TTL_S.into()), text)
}

async fn repeats_lost_heartbeats(scene: &Scene, request: bool) -> Held {
    let lost = if request { Fault::LoseRequest } else { Fault::LoseAnswer };
    scene.faults([((Operation::Heartbeat, 2), lost), ((Operation::Heartbeat, 3), unavailable(1))]);
    let run_id = scene.enqueue(7).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let beats = scene.of_run(&run_id, Operation::Heartbeat);
    held!(check(beats.len() >= 4, "no heartbeat after the lost ones"));
    Ok(within_the_lease(&beats))
}

async fn renews_its_token(scene: &Scene) -> Held {
    let mark = scene.mark();
    scene.faults([((Operation::Heartbeat, 1), unauthorized("token_expired", json!({})))]);
    let run_id = scene.enqueue(4).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    held!(check(!scene.since(mark, Operation::Register).is_empty(), "it did not register for a new token"));
    let beats = scene.of_run(&run_id, Operation::Heartbeat);
    let same = beats.iter().all(|beat| beat.asked.body["claim_id"] == beats[0].asked.body["claim_id"]);
    Ok(check(same && beats.len() >= 2, "the heartbeats did not go on under the same claim"))
}

async fn stops_on_cancel(scene: &Scene) -> Held {
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

async fn submits_late(scene: &Scene) -> Held {
    scene.faults([]);
    let run_id = scene.enqueue(6).await?;
    held!(scene.until_status(&run_id, "IN_PROGRESS").await);
    scene.lapse(&run_id).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    let late = "SELECT late FROM submissions WHERE run_id = $1::text::uuid";
    let late = scene.db.query_opt(late, &[&run_id]).await.ok().flatten().is_some_and(|row| row.get(0));
    Ok(check(late, "the job was done once more, and the first result thrown away"))
}

async fn submits_again(scene: &Scene) -> Held {
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

async fn submits_until_answered(scene: &Scene, lost: u64) -> Held {
    let lost = u32::try_from(lost).unwrap_or(1);
    let lose = (1..=lost).map(|number| ((Operation::Submit, number), Fault::LoseRequest));
    scene.faults(lose.chain([((Operation::Submit, lost + 1), unavailable(2))]));
    let run_id = scene.enqueue(1).await?;
    held!(scene.until_status(&run_id, "COMPLETE").await);
    Ok(gaps_hold(&scene.of_run(&run_id, Operation::Submit)))
}

async fn waits_for_slow_answers(scene: &Scene) -> Held {
    scene.faults([((Operation::Submit, 1), Fault::Slow(Duration::from_secs(5)))]);
    let run_id = scene.enqueue(1).await?;
    held!(scene.until("an answer to the submit", |seen| !submits(seen, &run_id).is_empty()).await);
    // Time for the second request of a runner that has given up.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count = scene.of_run(&run_id, Operation::Submit).len();
    Ok(check(count == 1, format!("{count} submits while the first was being answered")))
}

async fn reports_failures(scene: &Scene) -> Held {
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

async fn binds_its_results(scene: &Scene) -> Held {
    let sql = "SELECT count(*), count(*) FILTER (WHERE bound) FROM submissions";
    let row = scene.db.query_one(sql, &[]).await;
    let (all, bound): (i64, i64) = row.map(|row| (row.get(0), row.get(1))).unwrap_or_default();
    Ok(check(bound == all && all > 0, format!("{bound} of {all} results are bound")))
}

fn sends_valid_requests(scene: &Scene) -> std::result::Result<(), Broken> {
    let refused = |exchange: &&Exchange| {
        exchange.status.is_some_and(|status| [400, 404, 413, 415, 422].contains(&status.as_u16()))
    };
    match scene.proxy.exchanges().iter().find(refused) {
        Some(exchange) => Err(format!("{:?}: {}", exchange.asked.operation, exchange.answer)),
        None => Ok(()),
    }
}

async fn ends_each_job_once(scene: &Scene) -> Held {
    let sql = "SELECT count(*) FROM run_queue WHERE status NOT IN ('COMPLETE', 'CANCELLED')";
    let unended: i64 = scene.db.query_one(sql, &[]).await.map(|row| row.get(0)).unwrap_or(-1);
    let sql = "SELECT count(*) FROM (SELECT FROM submissions GROUP BY run_id HAVING count(*) > 1) twice";
    let twice: i64 = scene.db.query_one(sql, &[]).await.map(|row| row.get(0)).unwrap_or(-1);
    Ok(check(unended == 0 && twice == 0, format!("{unended} jobs have not ended, {twice} have two results")))
}

async fn stops_when_revoked(scene: &Scene) -> Held {
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

//! Invariants of what runners and admins wrote down, against the rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use bakeoff_core::audit_chain::Head;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::Client;
use uuid::Uuid;

use super::Checked;
use crate::client::verify_receipt;
use crate::error::{ErrorContext, Result};
use crate::hex;
use crate::storm::log::{Act, Asked, Exchange, Story, micros};
use crate::verify::audit_chain_of;

/// How long after the reaper's answer a claim that it took back may be dated, in microseconds.
const SLACK: i64 = 500_000;

/// Checks them all.
///
/// # Errors
/// When the database cannot be read.
pub async fn check(client: &Client, story: &Story, jwks: &Value, lease_ttl_s: u32) -> Result<Vec<Checked>> {
    let rows = Rows::read(client).await?;
    let ttl = i64::from(lease_ttl_s) * 1_000_000;
    Ok(vec![
        receipts(&rows, story, jwks),
        one_submission_a_row(story),
        one_holder(story),
        one_row_a_claim(story),
        no_claim_vanished(&rows, story),
        leases_kept(&rows, story),
        no_long_wait(&rows, story, ttl),
        enqueued_runs_are_there(&rows, story),
        acts_are_audited(&rows, story),
        forgeries_are_audited(&rows, story),
        only_answers_of_the_contract(story),
        chain_is_whole(client, story).await?,
    ])
}

/// What the database says, read once.
struct Rows {
    submissions: HashMap<Uuid, Submission>,
    /// Every claim that a row or the past knows.
    claims: HashSet<Uuid>,
    /// When the reaper took a claim back.
    lapsed: HashMap<Uuid, i64>,
    /// Rows by run.
    runs: HashMap<Uuid, i64>,
    /// Action, subject, time.
    audit: Vec<(String, String, i64)>,
}

struct Submission {
    queue_id: Uuid,
    run_id: Uuid,
    claim_id: Uuid,
    runner_id: String,
    sha256: String,
    receipt: String,
}

impl Rows {
    async fn read(client: &Client) -> Result<Self> {
        let rows = async |sql: &str| client.query(sql, &[]).await.context("read the rows of the storm");
        let submissions = rows(
            "SELECT submission_id, queue_id, run_id, claim_id, runner_id, sha256, receipt FROM submissions",
        )
        .await?
        .iter()
        .map(|row| {
            let submission = Submission {
                queue_id: row.get(1),
                run_id: row.get(2),
                claim_id: row.get(3),
                runner_id: row.get(4),
                sha256: hex(row.get(5)),
                receipt: row.get(6),
            };
            (row.get(0), submission)
        })
        .collect();
        let claims = "SELECT claim_id FROM past_claims \
                      UNION ALL SELECT claim_id FROM run_queue WHERE claim_id IS NOT NULL";
        let lapsed = "SELECT claim_id, ended_at FROM past_claims WHERE ended_by = 'lapsed'";
        let audit = "SELECT action, coalesce(subject, ''), at FROM audit_log";
        Ok(Self {
            submissions,
            claims: rows(claims).await?.iter().map(|row| row.get(0)).collect(),
            lapsed: rows(lapsed).await?.iter().map(|row| (row.get(0), micros(row.get(1)))).collect(),
            runs: rows("SELECT run_id, count(*) FROM run_queue GROUP BY run_id")
                .await?
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
            audit: rows(audit)
                .await?
                .iter()
                .map(|row| (row.get(0), row.get(1), micros(row.get::<_, OffsetDateTime>(2))))
                .collect(),
        })
    }
}

fn with_receipt(story: &Story) -> impl Iterator<Item = (&Exchange, &str)> {
    story.exchanges.iter().filter_map(|exchange| Some((exchange, exchange.receipt.as_deref()?)))
}

/// What a receipt states. Its signature is verified elsewhere.
fn claims_of(receipt: &str) -> Option<Value> {
    let claims = URL_SAFE_NO_PAD.decode(receipt.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}

fn receipts(rows: &Rows, story: &Story, jwks: &Value) -> Checked {
    let fault_of = |receipt: &str| -> Option<String> {
        if verify_receipt(receipt, jwks).is_err() {
            return Some("does not verify".to_owned());
        }
        let Some(claims) = claims_of(receipt) else { return Some("states nothing".to_owned()) };
        let id = |member: &str| claims[member].as_str().and_then(|id| id.parse::<Uuid>().ok());
        let Some(stored) = id("submission_id").and_then(|id| rows.submissions.get(&id)) else {
            return Some("is of no submission in the database".to_owned());
        };
        let stands = stored.receipt == receipt
            && id("queue_id") == Some(stored.queue_id)
            && id("run_id") == Some(stored.run_id)
            && id("claim_id") == Some(stored.claim_id)
            && claims["runner_id"] == stored.runner_id
            && claims["sha256"] == stored.sha256;
        (!stands).then(|| "differs from its submission in the database".to_owned())
    };
    let mut seen = HashMap::new();
    for (exchange, receipt) in with_receipt(story) {
        seen.entry(receipt).or_insert(exchange);
    }
    Checked {
        invariant: "every receipt verifies and stands in the database",
        of: seen.len(),
        violations: seen
            .iter()
            .filter_map(|(receipt, exchange)| Some((fault_of(receipt)?, exchange)))
            .map(|(fault, exchange)| format!("the receipt of run {:?} {fault}", exchange.run_id))
            .collect(),
    }
}

fn one_submission_a_row(story: &Story) -> Checked {
    let mut by_row: HashMap<Uuid, HashSet<&str>> = HashMap::new();
    for (exchange, receipt) in with_receipt(story) {
        if let Some(queue_id) = exchange.queue_id {
            by_row.entry(queue_id).or_default().insert(receipt);
        }
    }
    Checked {
        invariant: "no runner saw two receipts for one row",
        of: by_row.len(),
        violations: by_row
            .iter()
            .filter(|(_, receipts)| receipts.len() > 1)
            .map(|(row, receipts)| format!("row {row} has {} receipts", receipts.len()))
            .collect(),
    }
}

/// A claim's answer, a heartbeat's and an on-time submit's each prove that at some moment between request and
/// answer the claim held its row. Two claims of a row must follow each other: neither may be proved before and
/// after the other.
fn one_holder(story: &Story) -> Checked {
    let mut rows_of: HashMap<Uuid, Uuid> = HashMap::new();
    for exchange in &story.exchanges {
        if let (Asked::Claim, 200, Some(claim), Some(row)) =
            (exchange.asked, exchange.status, exchange.claim_id, exchange.queue_id)
        {
            rows_of.insert(claim, row);
        }
    }
    let mut proofs: BTreeMap<Uuid, BTreeMap<Uuid, Vec<&Exchange>>> = BTreeMap::new();
    for exchange in &story.exchanges {
        let proves = match exchange.asked {
            Asked::Claim => exchange.status == 200,
            Asked::Heartbeat => exchange.directive.as_deref() == Some("continue"),
            Asked::Submit => exchange.status == 201 && exchange.late == Some(false),
            _ => false,
        };
        if let (true, Some(claim)) = (proves, exchange.claim_id)
            && let Some(row) = rows_of.get(&claim)
        {
            proofs.entry(*row).or_default().entry(claim).or_default().push(exchange);
        }
    }
    let mut violations = Vec::new();
    for (row, claims) in &proofs {
        for (claim, held) in claims {
            let first = held.iter().map(|proof| proof.received).min().unwrap_or(i64::MAX);
            let last = held.iter().map(|proof| proof.sent).max().unwrap_or(i64::MIN);
            let within = |proof: &&Exchange| first < proof.sent && proof.received < last;
            let others = claims.iter().filter(|(other, _)| *other != claim);
            for (other, _) in others.filter(|(_, proofs)| proofs.iter().any(within)) {
                violations.push(format!("row {row} was held by {claim} before and after {other} held it"));
            }
        }
    }
    Checked { invariant: "a job has one holder at a time", of: proofs.len(), violations }
}

fn granted(story: &Story) -> impl Iterator<Item = (Uuid, &Exchange)> {
    story
        .exchanges
        .iter()
        .filter(|exchange| exchange.asked == Asked::Claim && exchange.status == 200)
        .filter_map(|exchange| Some((exchange.claim_id?, exchange)))
}

fn one_row_a_claim(story: &Story) -> Checked {
    let mut rows: HashMap<Uuid, HashSet<Option<Uuid>>> = HashMap::new();
    for (claim, exchange) in granted(story) {
        rows.entry(claim).or_default().insert(exchange.queue_id);
    }
    Checked {
        invariant: "a claim names one row, however often it is sent",
        of: rows.len(),
        violations: rows
            .iter()
            .filter(|(_, rows)| rows.len() > 1)
            .map(|(claim, rows)| format!("claim {claim} got {} rows", rows.len()))
            .collect(),
    }
}

fn no_claim_vanished(rows: &Rows, story: &Story) -> Checked {
    let claims: HashSet<Uuid> = granted(story).map(|(claim, _)| claim).collect();
    Checked {
        invariant: "every granted claim is known to the end",
        of: claims.len(),
        violations: claims
            .iter()
            .filter(|claim| !rows.claims.contains(claim))
            .map(|claim| format!("claim {claim} was granted and is nowhere"))
            .collect(),
    }
}

/// The latest promise of a lease to each claim.
fn promised(story: &Story) -> HashMap<Uuid, i64> {
    let mut promised: HashMap<Uuid, i64> = HashMap::new();
    for exchange in &story.exchanges {
        if let (Some(claim), Some(until)) = (exchange.claim_id, exchange.lease_expires_at) {
            let latest = promised.entry(claim).or_insert(until);
            *latest = until.max(*latest);
        }
    }
    promised
}

fn leases_kept(rows: &Rows, story: &Story) -> Checked {
    let promised = promised(story);
    let lapsed = rows.lapsed.iter().filter_map(|(claim, ended)| Some((claim, *ended, *promised.get(claim)?)));
    let lapsed: Vec<_> = lapsed.collect();
    Checked {
        invariant: "no claim lapsed before the lease that its runner was promised",
        of: lapsed.len(),
        violations: lapsed
            .iter()
            .filter(|(_, ended, until)| ended < until)
            .map(|(claim, ended, until)| format!("claim {claim} ended {} µs early", until - ended))
            .collect(),
    }
}

/// A claim that fell silent is taken back by the first whole run of the reaper after its lease. A lease may last
/// as long as after any request of the claim that was under way, answered or not.
fn no_long_wait(rows: &Rows, story: &Story, ttl: i64) -> Checked {
    let mut latest = promised(story);
    for exchange in &story.exchanges {
        if let (Asked::Claim | Asked::Heartbeat, Some(claim)) = (exchange.asked, exchange.claim_id) {
            let until = latest.entry(claim).or_insert(i64::MIN);
            *until = (*until).max(exchange.received + ttl);
        }
    }
    let mut whole: Vec<_> = story.reaper_runs.iter().filter(|run| !run.grace && run.finished).collect();
    whole.sort_by_key(|run| run.started);
    let late = |claim: &Uuid, ended: i64| {
        let until = *latest.get(claim)?;
        let run = whole.get(whole.partition_point(|run| run.started <= until))?;
        (ended > run.ended + SLACK).then_some((ended - until) / 1000)
    };
    Checked {
        invariant: "a lapsed job is taken back by the next whole run of the reaper",
        of: rows.lapsed.len(),
        violations: rows
            .lapsed
            .iter()
            .filter_map(|(claim, ended)| Some((claim, late(claim, *ended)?)))
            .map(|(claim, ms)| format!("claim {claim} kept its job {ms} ms past its lease"))
            .collect(),
    }
}

fn enqueued_runs_are_there(rows: &Rows, story: &Story) -> Checked {
    let enqueued: Vec<_> = story
        .acts
        .iter()
        .filter(|acted| acted.act == Act::Enqueue && matches!(acted.status, 201 | 409))
        .collect();
    let fault_of = |subject: &str, changed: i64| {
        let found = subject.parse().ok().and_then(|run: Uuid| rows.runs.get(&run)).copied().unwrap_or(0);
        // 409 answers the request whose first reply was lost, and does not say how many rows it has.
        (found == 0 || changed != 0 && found != changed)
            .then(|| format!("run {subject} has {found} rows, {changed} were told"))
    };
    Checked {
        invariant: "every run that was enqueued is there with its rows",
        of: enqueued.len(),
        violations: enqueued.iter().filter_map(|acted| fault_of(&acted.subject, acted.changed)).collect(),
    }
}

/// Every change that an admin was told of has its line, and every line a request of an admin.
fn acts_are_audited(rows: &Rows, story: &Story) -> Checked {
    let mut lines: HashMap<(&str, &str), Vec<i64>> = HashMap::new();
    for (action, subject, at) in &rows.audit {
        lines.entry((action, subject)).or_default().push(*at);
    }
    let mut sent: HashMap<(&str, &str), usize> = HashMap::new();
    let mut violations = Vec::new();
    for acted in &story.acts {
        let key = (acted.act.audited_as(), acted.subject.as_str());
        *sent.entry(key).or_default() += 1;
        let changed = (200..300).contains(&acted.status) && acted.changed > 0;
        // Before the answer, and, for a revocation whose first answer was lost, perhaps before this request.
        let line =
            |at: &&i64| **at <= acted.received && (acted.act == Act::Revoke || **at >= acted.sent - SLACK);
        if changed && !lines.get(&key).is_some_and(|times| times.iter().any(|at| line(&at))) {
            violations.push(format!("{} of {} is in no line", key.0, key.1));
        }
    }
    for (key, times) in &lines {
        let acts = ["run.enqueue", "key.add", "key.revoke", "run.cancel", "run.requeue"];
        // Functions and gateway may send a request of their own once more, but change nothing by it.
        if acts.contains(&key.0) && times.len() > sent.get(key).copied().unwrap_or(0) {
            violations.push(format!("{} of {} has {} lines", key.0, key.1, times.len()));
        }
    }
    Checked { invariant: "the audit log tells what the admins did", of: story.acts.len(), violations }
}

/// Against every head that the reaper reported: each must still be in the log.
async fn chain_is_whole(client: &Client, story: &Story) -> Result<Checked> {
    let noted: Vec<&Head> = story.reaper_runs.iter().filter_map(|run| run.audit_head.as_ref()).collect();
    // The whole log each time: a few heads, evenly chosen, and the last.
    let step = (noted.len() / 5).max(1);
    let mut violations = Vec::new();
    let mut rows = 0;
    for head in noted.iter().rev().step_by(step).map(|head| Some(*head)).chain([None]) {
        let verified = audit_chain_of(client, head).await?;
        rows = verified.rows as usize;
        violations.extend(verified.discrepancies.iter().map(ToString::to_string));
    }
    Ok(Checked {
        invariant: "the audit log's chain is whole and has every reported head",
        of: rows,
        violations,
    })
}

fn forgeries_are_audited(rows: &Rows, story: &Story) -> Checked {
    let refused: Vec<_> = story
        .exchanges
        .iter()
        .filter(|exchange| exchange.code.as_deref() == Some("signature_invalid"))
        .filter_map(|exchange| Some((exchange, exchange.run_id?.to_string())))
        .collect();
    let noted: HashSet<&str> = rows
        .audit
        .iter()
        .filter(|(action, ..)| action == "submit.signature_invalid")
        .map(|(_, subject, _)| subject.as_str())
        .collect();
    // The log takes 20 of a key in an hour (audit_refused.sql).
    let mut of_runner: HashMap<&str, usize> = HashMap::new();
    for (exchange, _) in &refused {
        *of_runner.entry(&exchange.runner).or_default() += 1;
    }
    Checked {
        invariant: "the audit log names every forged result",
        of: refused.len(),
        violations: refused
            .iter()
            .filter(|(exchange, run)| {
                !noted.contains(run.as_str()) && of_runner[exchange.runner.as_str()] <= 20
            })
            .map(|(exchange, run)| format!("{}'s forged result of run {run} is in no line", exchange.runner))
            .collect(),
    }
}

/// What the contract lets a correct runner see while processes, connections and keys come and go.
fn only_answers_of_the_contract(story: &Story) -> Checked {
    let expected = |exchange: &Exchange| match (exchange.status, exchange.code.as_deref()) {
        // The gateway's words for a process that died or took too long.
        (502 | 504, None) | (503, Some("unavailable")) => true,
        (200, None) => true,
        (201, None) => exchange.asked == Asked::Submit,
        (204, None) => exchange.asked == Asked::Claim,
        // By a process that has not heard of the newest signing key.
        (401, Some("token_invalid")) => exchange.asked != Asked::Register,
        (403, Some("key_not_allowed")) => true,
        (409, Some("claim_lost")) => exchange.asked != Asked::Register,
        (409, Some("run_finished")) | (422, Some("signature_invalid")) => exchange.asked == Asked::Submit,
        _ => false,
    };
    Checked {
        invariant: "only answers of the contract",
        of: story.exchanges.len(),
        violations: story
            .exchanges
            .iter()
            .filter(|exchange| !expected(exchange))
            .map(|exchange| {
                let Exchange { asked, status, code, runner, run_id, .. } = exchange;
                format!("{asked:?} of {runner} for {run_id:?}: {status} {code:?}")
            })
            .collect(),
    }
}

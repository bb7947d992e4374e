//! The storm's invariants can fail: each violation, planted in a database or in a log, is found by the invariant that
//! is there for it, and a sound story has none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sound;

use bakeoff_local::storm::invariants::{Verdict, check};
use bakeoff_local::storm::log::{Act, Asked, Story};
use sound::{LEASE_TTL_S, Sound};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// What is planted.
enum Plant {
    /// Rows changed as the table's owner could, past triggers and constraints.
    Sql(&'static str),
    /// An entry of the log changed.
    Log(fn(&mut Story)),
}

use Plant::{Log, Sql};

/// Every invariant, and what breaks it.
const PLANTS: [(&str, Plant); 34] = [
    ("every job ended", Sql("UPDATE run_queue SET status = 'PENDING' WHERE status = 'FAILED'")),
    ("every job ended", Sql("UPDATE run_queue SET status = 'IN_PROGRESS' WHERE status = 'COMPLETE'")),
    (
        "a failed job has spent its attempts",
        Sql("UPDATE run_queue SET attempt_count = attempt_count - 1 WHERE status = 'FAILED'"),
    ),
    (
        "a cancelled job was cancelled last",
        Sql("UPDATE run_queue SET status = 'CANCELLED' WHERE status = 'FAILED'"),
    ),
    (
        "a cancelled job was cancelled last",
        Sql("SET session_replication_role = origin; INSERT INTO audit_log (actor, action, subject) \
             SELECT 'x', 'run.requeue', run_id::text FROM run_queue WHERE status = 'CANCELLED'"),
    ),
    (
        "a job is completed once, by its submission's claim",
        Sql("DELETE FROM submissions WHERE submission_id IN (SELECT submission_id FROM submissions LIMIT 1)"),
    ),
    (
        "a job is completed once, by its submission's claim",
        Sql("ALTER TABLE submissions DROP CONSTRAINT submissions_queue_id_key, \
                 DROP CONSTRAINT submissions_run_id_sha256_key, DROP CONSTRAINT submissions_pkey CASCADE; \
             INSERT INTO submissions SELECT * FROM submissions LIMIT 1"),
    ),
    (
        "a job is completed once, by its submission's claim",
        Sql("UPDATE submissions SET claim_id = gen_random_uuid()"),
    ),
    (
        "a job is completed once, by its submission's claim",
        Sql("UPDATE run_queue SET claimed_by = 'other' WHERE status = 'COMPLETE'"),
    ),
    ("a submission has evidence, metrics, hardware and receipt", Sql("DELETE FROM submission_files")),
    (
        "a submission has evidence, metrics, hardware and receipt",
        Sql("UPDATE submissions SET metrics = '[]'"),
    ),
    ("a submission has evidence, metrics, hardware and receipt", Sql("DELETE FROM run_hardware_metrics")),
    ("a submission has evidence, metrics, hardware and receipt", Sql("UPDATE submissions SET receipt = ''")),
    ("the metrics are those of the submission", Sql("DELETE FROM run_model_metrics")),
    ("the metrics are those of the submission", Sql("UPDATE run_model_metrics SET score = 0.5")),
    ("a run is as good as its worst submission", Sql("UPDATE runs SET run_status = 'failed'")),
    (
        "no claim is both past and present",
        Sql("INSERT INTO past_claims (claim_id, queue_id, runner_id, ended_by) \
             SELECT claim_id, queue_id, claimed_by, 'released' FROM run_queue WHERE claim_id IS NOT NULL"),
    ),
    ("attempts add up", Sql("UPDATE run_queue SET attempt_count = 5 WHERE status = 'COMPLETE'")),
    ("attempts add up", Sql("DELETE FROM past_claims WHERE ended_by = 'lapsed'")),
    (
        "what a revocation returned is among the past claims",
        Sql("DELETE FROM past_claims WHERE ended_by = 'revoked'"),
    ),
    (
        "every receipt verifies and stands in the database",
        Log(|story| {
            let exchange = story.exchanges.iter_mut().find(|exchange| exchange.receipt.is_some()).unwrap();
            let receipt = exchange.receipt.as_mut().unwrap();
            receipt.replace_range(receipt.len() - 6..receipt.len() - 2, "AAAA");
        }),
    ),
    (
        "every receipt verifies and stands in the database",
        Sql("DELETE FROM submissions WHERE submission_id IN (SELECT submission_id FROM submissions LIMIT 1)"),
    ),
    ("every receipt verifies and stands in the database", Sql("UPDATE submissions SET sha256 = sha256('')")),
    (
        "no runner saw two receipts for one row",
        Log(|story| {
            let mut seen = story.exchanges.iter().filter(|exchange| exchange.receipt.is_some());
            let (mut one, other) = (seen.next().unwrap().clone(), seen.next().unwrap());
            one.receipt.clone_from(&other.receipt);
            story.exchanges.push(one);
        }),
    ),
    (
        "a job has one holder at a time",
        Log(|story| {
            // The first claim of a row that had two is still told to continue after the second was granted.
            let mut again = sound::lapsed_claim(story).clone();
            let last = story.exchanges.iter().map(|exchange| exchange.received).max().unwrap();
            (again.asked, again.directive) = (Asked::Heartbeat, Some("continue".into()));
            (again.sent, again.received) = (last + 1, last + 2);
            story.exchanges.push(again);
        }),
    ),
    (
        "a claim names one row, however often it is sent",
        Log(|story| {
            let mut one = sound::lapsed_claim(story).clone();
            let other = story.exchanges.iter().find(|exchange| exchange.queue_id != one.queue_id).unwrap();
            one.queue_id = other.queue_id;
            story.exchanges.push(one);
        }),
    ),
    ("every granted claim is known to the end", Sql("DELETE FROM past_claims WHERE ended_by = 'lapsed'")),
    (
        "no claim lapsed before the lease that its runner was promised",
        Log(|story| {
            let until = story.reaper_runs[0].ended + 1_000_000;
            let mut beat = sound::lapsed_claim(story).clone();
            (beat.asked, beat.lease_expires_at) = (Asked::Heartbeat, Some(until));
            story.exchanges.push(beat);
        }),
    ),
    (
        "a lapsed job is taken back by the next whole run of the reaper",
        Log(|story| {
            let mut earlier = story.reaper_runs[0].clone();
            earlier.started -= 2_000_000;
            earlier.ended = earlier.started + 1000;
            story.reaper_runs.push(earlier);
        }),
    ),
    (
        "every run that was enqueued is there with its rows",
        Log(|story| {
            let enqueued = story.acts.iter_mut().find(|acted| acted.act == Act::Enqueue).unwrap();
            enqueued.changed = 2;
        }),
    ),
    (
        "the audit log tells what the admins did",
        Log(|story| {
            let mut invented = story.acts.iter().find(|acted| acted.act == Act::Cancel).unwrap().clone();
            invented.subject = "00000000-0000-4000-8000-000000000000".into();
            story.acts.push(invented);
        }),
    ),
    (
        "the audit log tells what the admins did",
        Log(|story| story.acts.retain(|acted| acted.act != Act::Revoke)),
    ),
    (
        "the audit log names every forged result",
        Log(|story| {
            let mut forged = sound::lapsed_claim(story).clone();
            (forged.asked, forged.status, forged.code) =
                (Asked::Submit, 422, Some("signature_invalid".into()));
            story.exchanges.push(forged);
        }),
    ),
    (
        "only answers of the contract",
        Log(|story| {
            let mut failed = story.exchanges[0].clone();
            (failed.status, failed.code) = (500, Some("internal".into()));
            story.exchanges.push(failed);
        }),
    ),
];

async fn verdict(owner: &Client, story: &Story, sound: &Sound) -> Verdict {
    check(owner, story, &sound.jwks, LEASE_TTL_S).await.unwrap()
}

/// As only the owner of the tables can: no trigger, no foreign key.
async fn plant(owner: &Client, sql: &str) {
    let drop_checks = "DO $$ DECLARE c record; BEGIN \
             FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint \
                       WHERE contype = 'c' AND conrelid::regclass::text IN ('run_queue', 'submissions') LOOP \
                 EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.t, c.conname); \
             END LOOP; END $$";
    let script = format!("{drop_checks}; SET session_replication_role = replica; {sql}");
    owner.batch_execute(&script).await.unwrap_or_else(|error| panic!("{sql}: {:?}", error.as_db_error()));
}

#[tokio::test]
async fn a_sound_story_has_no_violation() {
    let sound = Sound::tell().await;
    let verdict = verdict(&sound.owner, &sound.story, &sound).await;
    assert_eq!(verdict.violations().collect::<Vec<_>>(), []);
    assert!(verdict.checked.iter().all(|checked| checked.of > 0 || checked.invariant.contains("forged")));
}

#[tokio::test]
async fn each_planted_violation_is_found() {
    let mut broken = BTreeSet::new();
    let mut invariants = BTreeSet::new();
    for (invariant, planted) in PLANTS {
        let sound = Sound::tell().await;
        let mut story = sound.story.clone();
        let what = match planted {
            Sql(sql) => {
                plant(&sound.owner, sql).await;
                sql
            }
            Log(change) => {
                change(&mut story);
                "a change of the log"
            }
        };
        let verdict = verdict(&sound.owner, &story, &sound).await;
        let found: BTreeSet<_> = verdict.violations().map(|(invariant, _)| invariant).collect();
        assert!(found.contains(invariant), "{what} breaks {found:?} and not {invariant:?}");
        broken.insert(invariant);
        invariants.extend(verdict.checked.iter().map(|checked| checked.invariant));
    }
    // Its own tests break it (bakeoff-core, audit_chain.rs).
    broken.insert("the audit log's chain is whole and has every reported head");
    assert_eq!(broken, invariants, "every invariant has been seen to fail");
}

/// A changed row of the audit log, which the chain shows.
#[tokio::test]
async fn a_broken_chain_is_found() {
    let sound = Sound::tell().await;
    plant(&sound.owner, "UPDATE audit_log SET detail = '{\"x\": 1}' WHERE chain_position = 2").await;
    let verdict = verdict(&sound.owner, &sound.story, &sound).await;
    let found: Vec<_> = verdict.violations().collect();
    assert!(found.iter().any(|(invariant, _)| invariant.contains("chain")), "{found:?}");
}

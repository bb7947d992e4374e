//! Each pair of operations on each state of a row, in every order of their steps.

use super::model::{Id, Op, Row, Who};
use super::scene::{Before, Scene};
use super::stage::Stage;
use Before::{Allow, Done, Lapse};
use Id::{AnnFirst, AnnNew, BobFirst, BobNew};
use Op::{Cancel, Claim, Fail, Heartbeat, Reap, Release, Requeue, Revoke, Submit};
use std::collections::BTreeSet;

/// Where an operation can be overtaken: between what it read and what it locks, and between two statements. The
/// triggers of `gates.sql` add two: its row is locked, its row is written.
const GATES: [(&str, &str); 9] = [
    ("queue_claim", "PERFORM pg_advisory_xact_lock(hashtextextended(p_claim_id::text, 0));"),
    ("queue_claim", "SELECT q.ctid AS tid\n"),
    ("queue_heartbeat", "UPDATE run_queue q"),
    ("queue_heartbeat", "IF EXISTS (SELECT FROM run_queue q"),
    ("queue_revoke", "UPDATE allowlist a"),
    ("queue_revoke", "WITH held AS ("),
    ("queue_submit", "PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_key_id, 0));"),
    ("queue_submit", "IF p_signer_key_id IS NOT NULL THEN"),
    ("queue_submit", "RETURN 'accepted';"),
];

/// The operations that are paired.
const OPS: [Op; 15] = [
    Submit(AnnFirst, 0),
    Submit(AnnFirst, 1),
    Submit(BobFirst, 1),
    Claim(AnnFirst),
    Claim(AnnNew),
    Claim(BobNew),
    Heartbeat(AnnFirst),
    Heartbeat(BobFirst),
    Release(AnnFirst),
    Fail(AnnFirst),
    Reap,
    Cancel,
    Requeue,
    Revoke(Who::Ann),
    Revoke(Who::Bob),
];

/// What one after the other comes to.
fn serial(row: &Row, pair: [Op; 2], first: usize) -> (Row, [String; 2]) {
    let mut row = row.clone();
    let mut outcomes = [String::new(), String::new()];
    for actor in [first, 1 - first] {
        outcomes[actor] = row.apply(pair[actor]);
    }
    (row, outcomes)
}

/// While a key is being revoked its runner may be refused for either reason: the claim went with the key.
fn comparable(pair: [Op; 2], outcomes: [String; 2]) -> [String; 2] {
    let revoking = pair.iter().any(|op| matches!(op, Revoke(_)));
    outcomes.map(|outcome| match outcome.as_str() {
        "key_not_allowed" | "claim_lost" if revoking => "refused".to_owned(),
        _ => outcome,
    })
}

/// Steps each pair through each other.
async fn every_order(name: &str, before: &[Before], pairs: impl Iterator<Item = [Op; 2]>) {
    let mut stage = Stage::new(2, &GATES).await;
    let scene = Scene::prepare(&stage.client, before).await;
    let (mut orders, mut count) = (0, 0);
    let mut deviations = BTreeSet::new();
    for pair in pairs {
        let expected = [0, 1].map(|first| {
            let (row, outcomes) = serial(&scene.row, pair, first);
            (row, comparable(pair, outcomes))
        });
        count += 1;
        orders += stage
            .explore(
                async |client| scene.restore(client).await,
                || pair.iter().map(|op| scene.operation(*op)).collect(),
                async |client, outcomes, choices| {
                    let outcomes = comparable(pair, [outcomes[0].clone(), outcomes[1].clone()]);
                    let found = (scene.read(client).await, outcomes);
                    if !expected.contains(&found) {
                        deviations.insert(format!(
                            "{pair:?}, in the order {choices:?}, came to\n  {found:?}\n  and not to\n  {:?}\n  \
                             {:?}",
                            expected[0], expected[1]
                        ));
                    }
                },
            )
            .await;
    }
    println!("{name}: {orders} orders of {count} pairs");
    let shown: Vec<_> = deviations.iter().take(12).cloned().collect();
    assert!(deviations.is_empty(), "{} deviations from the model\n{}", deviations.len(), shown.join("\n"));
}

/// A submit with everything.
fn with_a_submit() -> impl Iterator<Item = [Op; 2]> {
    OPS.into_iter().map(|other| [OPS[0], other])
}

/// The pairs without that submit.
fn others() -> impl Iterator<Item = [Op; 2]> {
    (1..OPS.len()).flat_map(|one| OPS.into_iter().skip(one).map(move |other| [OPS[one], other]))
}

macro_rules! states {
    ($($name:ident: [$($before:expr),*])*) => {
        $(
            #[tokio::test]
            async fn $name() {
                every_order(stringify!($name), &[$($before),*], with_a_submit()).await;
            }
        )*
        /// Tens of thousands of orders more: `cargo test --workspace --test queue -- --ignored every_other_pair`.
        mod every_other_pair {
            use super::*;
            $(
                #[tokio::test]
                #[ignore = "takes minutes"]
                async fn $name() {
                    every_order(stringify!($name), &[$($before),*], others()).await;
                }
            )*
        }
    };
}

states! {
    pending: []
    held: [Done(Claim(AnnFirst))]
    held_past_its_lease: [Done(Claim(AnnFirst)), Lapse]
    taken_back: [Done(Claim(AnnFirst)), Lapse, Done(Reap)]
    taken_back_and_held_by_another: [Done(Claim(AnnFirst)), Lapse, Done(Reap), Done(Claim(BobFirst))]
    taken_back_and_past_the_lease_of_another:
        [Done(Claim(AnnFirst)), Lapse, Done(Reap), Done(Claim(BobFirst)), Lapse]
    failed: [Done(Claim(AnnFirst)), Lapse, Done(Reap), Done(Claim(BobFirst)), Lapse, Done(Reap)]
    waiting_for_its_retry: [Done(Claim(AnnFirst)), Done(Fail(AnnFirst))]
    handed_back: [Done(Claim(AnnFirst)), Done(Release(AnnFirst))]
    cancelled_while_held: [Done(Claim(AnnFirst)), Done(Cancel)]
    complete: [Done(Claim(AnnFirst)), Done(Submit(AnnFirst, 0))]
    returned_by_a_revocation: [Done(Claim(AnnFirst)), Done(Revoke(Who::Ann)), Allow(Who::Ann)]
    returned_by_a_revocation_and_held_by_another:
        [Done(Claim(AnnFirst)), Done(Revoke(Who::Ann)), Allow(Who::Ann), Done(Claim(BobFirst))]
}

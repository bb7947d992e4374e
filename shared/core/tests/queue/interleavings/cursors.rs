//! The claim's cursor protocol (`claim.md`) against brute force: claims that advance cursors, and everything that
//! makes a row ready, stepped through each other in every order.
//!
//! After each order the invariant must hold, what was claimed must be what a sort of all rows finds first in some
//! serial order of the operations, and what is left must then be claimed in exactly the order of that sort.

use super::stage::{Operation, Saved, Stage};
use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::queue::release::{ReleaseRequest, release};
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_postgres::Client;
use uuid::Uuid;

const GATES: [(&str, &str); 6] = [
    ("queue_claim", "SELECT q.ctid AS tid\n"),
    ("queue_advance_claim_cursor", "SELECT m.priority, m.created_at, m.lane_id INTO v_cursor"),
    ("queue_advance_claim_cursor", "INSERT INTO claim_cursors AS m"),
    (
        "queue_reset_claim_cursors",
        "PERFORM pg_advisory_xact_lock_shared(hashtextextended('claim_cursors', 0));",
    ),
    ("queue_reset_claim_cursors", "INSERT INTO claim_cursor_resets ("),
    ("queue_reset_cursors_after_insert", "RETURN NULL;"),
];

const TABLES: [&str; 5] = ["run_queue", "past_claims", "claim_cursors", "claim_cursor_resets", "runners"];

/// Needs 5 GB or 20 GB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Small,
    Big,
}

/// Has 8 GB or 24 GB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Small,
    Big,
}

impl Class {
    fn fits(self, lane: Lane) -> bool {
        self == Self::Big || lane == Lane::Small
    }
}

/// A row's priority is its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Claim(Class),
    Insert(i32, Lane),
    /// Inserted, and taken back by its transaction.
    InsertAndRollBack(i32, Lane),
    /// The row that stands first and is held goes back.
    Release,
    /// The priority of a ready row is lowered.
    Lower(i32, i32),
}

/// The held row, then the ready ones.
const HELD: (i32, Lane) = (50, Lane::Small);
const READY: [(i32, Lane); 3] = [(100, Lane::Big), (110, Lane::Small), (120, Lane::Big)];

/// Where the cursors stand before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursors {
    None,
    AtTheFirstRow,
    AtTheEnd,
    /// At the end, with resets that name every ready row.
    AtTheEndWithResets,
}

struct Scene {
    small: Runner,
    big: Runner,
    lanes: BTreeMap<Lane, i32>,
    template: (Uuid, i32),
    held: (Uuid, Uuid),
    saved: Saved,
}

impl Scene {
    async fn prepare(client: &Client, cursors: Cursors) -> Arc<Self> {
        let small = fixture::runner_with(client, "small", 8.0, &["q4_k_m"]).await;
        let big = fixture::runner_with(client, "big", 24.0, &["q4_k_m"]).await;
        let row = fixture::undemanding_run(client).await;
        let template = "SELECT run_id, prompt_id FROM run_queue";
        let template = client.query_one(template, &[]).await.unwrap();
        let template: (Uuid, i32) = (template.get(0), template.get(1));
        client.execute("DELETE FROM run_queue WHERE run_id = $1", &[&row.run_id]).await.unwrap();
        let mut lanes = BTreeMap::new();
        for (lane, vram_gb) in [(Lane::Small, 5), (Lane::Big, 20)] {
            let insert = "INSERT INTO queue_lanes (quantization_ids, required_vram_gb) \
                          SELECT ARRAY[quantization_id], $1 FROM quantization_methods WHERE name = 'q4_k_m' \
                          RETURNING lane_id";
            lanes.insert(lane, client.query_one(insert, &[&vram_gb]).await.unwrap().get(0));
        }
        let mut scene =
            Self { small, big, lanes, template, held: Default::default(), saved: Saved::default() };
        scene.insert(client, HELD.0, HELD.1).await;
        let job = fixture::claim_next(client, &scene.small).await;
        scene.held = (job.run_id, job.claim_id);
        for (priority, lane) in READY {
            scene.insert(client, priority, lane).await;
        }
        scene.set_cursors(client, cursors).await;
        scene.saved = Saved::of(client, &TABLES).await;
        Arc::new(scene)
    }

    async fn insert(&self, client: &Client, priority: i32, lane: Lane) {
        let insert = "INSERT INTO run_queue (run_id, prompt_id, priority, lane_id) VALUES ($1, $2, $3, $4)";
        let (run_id, prompt_id) = self.template;
        client.execute(insert, &[&run_id, &prompt_id, &priority, &self.lanes[&lane]]).await.unwrap();
    }

    async fn set_cursors(&self, client: &Client, cursors: Cursors) {
        client.batch_execute("DELETE FROM claim_cursors; DELETE FROM claim_cursor_resets").await.unwrap();
        let quantization =
            "(SELECT array_agg(quantization_id) FROM quantization_methods WHERE name = 'q4_k_m')";
        let position = match cursors {
            Cursors::None => return,
            Cursors::AtTheFirstRow => "priority, created_at, lane_id",
            Cursors::AtTheEnd | Cursors::AtTheEndWithResets => "2147483647, 'infinity', 2147483647",
        };
        for vram_gb in [8, 24] {
            let first = if vram_gb == 8 { 110 } else { 100 };
            let insert = format!(
                "INSERT INTO claim_cursors (vram_gb, quantization_ids, priority, created_at, lane_id, advanced_at) \
                 SELECT {vram_gb}, {quantization}, {position}, now() - interval '1 min' \
                 FROM run_queue WHERE priority = {first}"
            );
            client.batch_execute(&insert).await.unwrap();
        }
        // Without a reset, a cursor at the end may stand only if nothing is ready.
        match cursors {
            Cursors::AtTheEndWithResets => client
                .batch_execute(
                    "INSERT INTO claim_cursor_resets SELECT lane_id, priority, created_at FROM run_queue \
                     WHERE status = 'PENDING'",
                )
                .await
                .unwrap(),
            Cursors::AtTheEnd => {
                client.batch_execute("DELETE FROM run_queue WHERE status = 'PENDING'").await.unwrap();
            }
            _ => {}
        }
    }

    fn operation(self: &Arc<Self>, op: Op) -> Operation {
        let scene = Arc::clone(self);
        Box::new(move |mut client| {
            Box::pin(async move {
                let outcome = scene.carry_out(&mut client, op).await;
                (client, outcome)
            })
        })
    }

    async fn carry_out(&self, client: &mut Client, op: Op) -> String {
        match op {
            Op::Claim(class) => self.claim(client, class).await.map_or("empty".into(), |row| row.to_string()),
            Op::Insert(priority, lane) | Op::InsertAndRollBack(priority, lane) => {
                let commits = matches!(op, Op::Insert(..));
                client.batch_execute("BEGIN").await.unwrap();
                self.insert(client, priority, lane).await;
                client.batch_execute("SELECT gate()").await.unwrap();
                client.batch_execute(if commits { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
                "done".into()
            }
            Op::Release => {
                let (run_id, claim_id) = self.held;
                let request = ReleaseRequest { claim_id, failure: None };
                release(client, &self.small.authenticated, run_id, &request).await.unwrap();
                "done".into()
            }
            Op::Lower(from, to) => {
                let lower = "UPDATE run_queue SET priority = $2 WHERE priority = $1 AND status = 'PENDING'";
                client.execute(lower, &[&from, &to]).await.unwrap().to_string()
            }
        }
    }

    /// The priority of the claimed row.
    async fn claim(&self, client: &Client, class: Class) -> Option<i32> {
        let runner = if class == Class::Small { &self.small } else { &self.big };
        let request = ClaimRequest::default();
        let job = claim(client, &runner.authenticated, TERMS, &request).await.unwrap();
        job.job().map(|job| job.priority)
    }
}

/// The ready rows as brute force knows them, and whether the first one is held.
#[derive(Debug, Clone)]
struct Queue {
    ready: BTreeMap<i32, Lane>,
}

impl Queue {
    fn first(&self, class: Class) -> Option<i32> {
        self.ready.iter().find(|(_, lane)| class.fits(**lane)).map(|(priority, _)| *priority)
    }

    fn apply(&mut self, op: Op) -> String {
        match op {
            Op::Claim(class) => match self.first(class) {
                Some(first) => {
                    self.ready.remove(&first);
                    first.to_string()
                }
                None => "empty".into(),
            },
            Op::Insert(priority, lane) => {
                self.ready.insert(priority, lane);
                "done".into()
            }
            Op::InsertAndRollBack(..) => "done".into(),
            Op::Release => {
                self.ready.insert(HELD.0, HELD.1);
                "done".into()
            }
            Op::Lower(from, to) => match self.ready.remove(&from) {
                Some(lane) => {
                    self.ready.insert(to, lane);
                    "1".into()
                }
                None => "0".into(),
            },
        }
    }
}

/// Every order of `0..count`.
fn permutations(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(count - 1);
    let with_last = |order: &Vec<usize>| {
        (0..=order.len())
            .map(|at| {
                let mut order = order.clone();
                order.insert(at, count - 1);
                order
            })
            .collect::<Vec<_>>()
    };
    shorter.iter().flat_map(with_last).collect()
}

/// What `claim.md` calls the invariant: the ready rows that a class fits, before its cursor, named by no reset.
const HIDDEN: &str = "
    SELECT q.priority, c.vram_gb
      FROM run_queue q JOIN queue_lanes l USING (lane_id)
      JOIN claim_cursors c ON l.required_vram_gb <= c.vram_gb AND l.quantization_ids <@ c.quantization_ids
     WHERE q.status = 'PENDING' AND q.retry_after IS NULL
       AND (q.priority, q.created_at, q.lane_id) < (c.priority, c.created_at, c.lane_id)
       AND NOT EXISTS (SELECT FROM claim_cursor_resets o
                        WHERE o.lane_id = q.lane_id
                          AND (o.priority, o.created_at) <= (q.priority, q.created_at))";

/// Claims what is left, the classes by turns, until neither finds a row; the priorities in the order claimed.
async fn drain(scene: &Scene, client: &Client) -> Vec<Option<i32>> {
    let mut claimed = Vec::new();
    for class in [Class::Small, Class::Big].into_iter().cycle() {
        claimed.push(scene.claim(client, class).await);
        if claimed.ends_with(&[None, None]) {
            break;
        }
    }
    claimed
}

fn drained(mut queue: Queue) -> Vec<Option<i32>> {
    let mut claimed = Vec::new();
    for class in [Class::Small, Class::Big].into_iter().cycle() {
        claimed.push(queue.apply(Op::Claim(class)).parse().ok());
        if claimed.ends_with(&[None, None]) {
            break;
        }
    }
    claimed
}

async fn every_order(stage: &mut Stage, scene: &Arc<Scene>, cursors: Cursors, ops: &[Op]) -> usize {
    let ready = if cursors == Cursors::AtTheEnd { BTreeMap::new() } else { READY.into_iter().collect() };
    let expected: BTreeSet<(Vec<String>, Vec<Option<i32>>)> = permutations(ops.len())
        .into_iter()
        .map(|order| {
            let mut queue = Queue { ready: ready.clone() };
            let mut outcomes = vec![String::new(); ops.len()];
            for actor in order {
                outcomes[actor] = queue.apply(ops[actor]);
            }
            (outcomes, drained(queue))
        })
        .collect();
    stage
        .explore(
            async |client| {
                scene.saved.restore(client).await;
                client.batch_execute("UPDATE claim_cursors SET advanced_at = '-infinity'").await.unwrap();
            },
            || ops.iter().map(|op| scene.operation(*op)).collect(),
            async |client, outcomes, choices| {
                let hidden = client.query_typed(HIDDEN, &[]).await.unwrap();
                let hidden: Vec<(i32, i32)> = hidden.iter().map(|row| (row.get(0), row.get(1))).collect();
                assert_eq!(
                    hidden,
                    [],
                    "hidden behind a cursor after {ops:?} in the order {choices:?}, {cursors:?}"
                );
                let found = (outcomes.to_vec(), drain(scene, client).await);
                assert!(
                    expected.contains(&found),
                    "{ops:?} in the order {choices:?}, {cursors:?}:\n  {found:?}\n  is none of {expected:?}"
                );
            },
        )
        .await
}

const PAIRS: [[Op; 2]; 12] = [
    [Op::Claim(Class::Big), Op::Insert(40, Lane::Small)],
    [Op::Claim(Class::Small), Op::Insert(40, Lane::Big)],
    [Op::Claim(Class::Small), Op::Insert(40, Lane::Small)],
    [Op::Claim(Class::Big), Op::Insert(200, Lane::Big)],
    [Op::Claim(Class::Small), Op::InsertAndRollBack(40, Lane::Small)],
    [Op::Claim(Class::Small), Op::Release],
    [Op::Claim(Class::Big), Op::Release],
    [Op::Claim(Class::Big), Op::Claim(Class::Big)],
    [Op::Claim(Class::Big), Op::Claim(Class::Small)],
    [Op::Claim(Class::Big), Op::Lower(120, 45)],
    [Op::Insert(40, Lane::Small), Op::Insert(41, Lane::Small)],
    [Op::Insert(40, Lane::Small), Op::Release],
];

async fn all_pairs(cursors: Cursors) {
    let mut stage = Stage::new(2, &GATES).await;
    let scene = Scene::prepare(&stage.client, cursors).await;
    let mut orders = 0;
    for pair in &PAIRS {
        orders += every_order(&mut stage, &scene, cursors, pair).await;
    }
    println!("cursors {cursors:?}: {orders} orders of {} pairs", PAIRS.len());
}

#[tokio::test]
async fn without_cursors() {
    all_pairs(Cursors::None).await;
}

#[tokio::test]
async fn with_cursors_at_the_first_row() {
    all_pairs(Cursors::AtTheFirstRow).await;
}

#[tokio::test]
async fn with_cursors_at_the_end_of_an_empty_queue() {
    all_pairs(Cursors::AtTheEnd).await;
}

#[tokio::test]
async fn with_cursors_at_the_end_and_resets() {
    all_pairs(Cursors::AtTheEndWithResets).await;
}

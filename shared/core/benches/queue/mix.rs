//! The contents of the queue, by mix and depth.

use bakeoff_testkit::fixture;
use std::time::Instant;
use tokio_postgres::Client;

/// Claimable rows behind those that are not: enough for every claim that is measured.
const CLAIMABLE_MIN: i64 = 12_000;
/// Rows of one INSERT, so that progress is visible.
const BATCH: i64 = 100_000;
/// Completions without vacuum.
const COMPLETED: i64 = 500_000;
/// Completions whose dead index entries an old snapshot keeps.
const COMPLETED_BEHIND_A_SNAPSHOT: i64 = 50_000;

/// A state of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Every row fits.
    AllEligible,
    /// Every row fits, and the table was never analysed.
    NoStatistics,
    /// The first 90% need more VRAM than the runner has.
    Vram90,
    /// The first 99.9% do.
    Vram999,
    /// The first 90% need a quantization that the runner does not serve.
    Quantization90,
    /// The first 99.9% do.
    Quantization999,
    /// The first 90% wait for their `retry_after`.
    Deferred90,
    /// 500k rows ahead were completed, and nothing was vacuumed.
    Completed,
    /// 50k rows ahead were completed, while a snapshot from before is open.
    OldSnapshot,
    /// As [`Mix::Quantization90`], and the rows the runner could take were all completed but the last,
    /// while a snapshot from before is open.
    OldSnapshotBehind,
    /// One row in 150 fits, all through the queue: more than a walk apart.
    Sparse,
    /// One row in 60,000 fits.
    VerySparse,
    /// As [`Mix::Quantization90`], with 30 quantizations × 400 sizes.
    ManyLanes,
}

/// The lanes of a mix, and which of them its runner can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    /// How many quantizations.
    pub(crate) quantizations: i32,
    /// How many sizes of VRAM, 1 GB apart.
    pub(crate) sizes: i32,
    /// Whether the runner serves half of the sizes, or half of the quantizations.
    pub(crate) by_size: bool,
}

impl Mix {
    /// Every mix.
    pub(crate) const ALL: [Self; 13] = [
        Self::AllEligible,
        Self::NoStatistics,
        Self::Vram90,
        Self::Vram999,
        Self::Quantization90,
        Self::Quantization999,
        Self::Deferred90,
        Self::Completed,
        Self::OldSnapshot,
        Self::OldSnapshotBehind,
        Self::Sparse,
        Self::VerySparse,
        Self::ManyLanes,
    ];

    /// Those of an everyday run.
    pub(crate) const SMALL: [Self; 6] = [
        Self::AllEligible,
        Self::Vram90,
        Self::Quantization999,
        Self::OldSnapshotBehind,
        Self::Sparse,
        Self::ManyLanes,
    ];

    /// For the command line and the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllEligible => "all-eligible",
            Self::NoStatistics => "no-statistics",
            Self::Vram90 => "vram-90",
            Self::Vram999 => "vram-99.9",
            Self::Quantization90 => "quantization-90",
            Self::Quantization999 => "quantization-99.9",
            Self::Deferred90 => "deferred-90",
            Self::Completed => "completed-500k",
            Self::OldSnapshot => "old-snapshot",
            Self::OldSnapshotBehind => "old-snapshot-behind",
            Self::Sparse => "1-in-150",
            Self::VerySparse => "1-in-60000",
            Self::ManyLanes => "lanes-12000",
        }
    }

    /// The name in README's table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::AllEligible => "all fit",
            Self::NoStatistics => "all fit, the table never analysed",
            Self::Vram90 => "the first 90% need more VRAM",
            Self::Vram999 => "the first 99.9% need more VRAM",
            Self::Quantization90 => "the first 90% need another quantization",
            Self::Quantization999 => "the first 99.9% need another quantization",
            Self::Deferred90 => "the first 90% wait for their retry",
            Self::Completed => "500k completed ahead, no vacuum",
            Self::OldSnapshot => "50k completed ahead, an old snapshot open",
            Self::OldSnapshotBehind => "both: 90% do not fit, and the old snapshot",
            Self::Sparse => "one row in 150 fits, all along",
            Self::VerySparse => "one row in 60,000 fits, all along",
            Self::ManyLanes => "the same 90% in 12,000 lanes",
        }
    }

    /// Its lanes.
    pub(crate) fn lanes(self) -> Lanes {
        match self {
            Self::ManyLanes => Lanes { quantizations: 30, sizes: 400, by_size: false },
            Self::Vram90 | Self::Vram999 => Lanes { quantizations: 25, sizes: 20, by_size: true },
            _ => Lanes { quantizations: 24, sizes: 20, by_size: false },
        }
    }

    /// How many of `depth` rows stand ahead that cannot be claimed.
    fn ahead(self, depth: i64) -> i64 {
        match self {
            Self::Vram90
            | Self::Quantization90
            | Self::Deferred90
            | Self::OldSnapshotBehind
            | Self::ManyLanes => depth / 10 * 9,
            Self::Vram999 | Self::Quantization999 => depth / 1000 * 999,
            Self::AllEligible
            | Self::NoStatistics
            | Self::Completed
            | Self::OldSnapshot
            | Self::Sparse
            | Self::VerySparse => 0,
        }
    }

    /// Of how many rows one fits, in a mix whose claimable rows stand apart.
    fn gap(self) -> Option<i64> {
        match self {
            Self::Sparse => Some(150),
            Self::VerySparse => Some(60_000),
            _ => None,
        }
    }

    /// Whether a queue of this depth has rows that a claim can take.
    pub(crate) fn fits(self, depth: i64) -> bool {
        self.gap().is_none_or(|gap| depth / gap >= 10)
    }

    /// Whether claimed rows become ready again before each turn, because there are too few of them.
    pub(crate) fn restocks(self) -> bool {
        self.gap().is_some()
    }

    /// How many of `claims` a turn may make at this depth, by so many connections, so that rows are left for
    /// the last of them. At least one by each connection, some of which may then find nothing.
    pub(crate) fn claims_of_a_turn(self, depth: i64, claims: usize, connections: usize) -> usize {
        let claimable = self.gap().map_or(depth, |gap| depth / gap);
        claims.min(usize::try_from(claimable).unwrap_or(usize::MAX)).max(connections)
    }

    /// How many claimable rows are completed before the measurement.
    fn completed(self) -> i64 {
        match self {
            Self::Completed => COMPLETED,
            Self::OldSnapshot | Self::OldSnapshotBehind => COMPLETED_BEHIND_A_SNAPSHOT,
            _ => 0,
        }
    }

    /// Whether a snapshot from before the completions stays open.
    pub(crate) fn has_old_snapshot(self) -> bool {
        matches!(self, Self::OldSnapshot | Self::OldSnapshotBehind)
    }
}

impl Lanes {
    /// Returns the capabilities of the mix's runner: VRAM in GB and quantizations.
    pub(crate) async fn capabilities(self, client: &Client) -> (f64, Vec<String>) {
        let served = if self.by_size { self.quantizations } else { self.quantizations / 2 };
        let names = "SELECT name FROM quantization_methods ORDER BY quantization_id LIMIT $1";
        let names = client.query(names, &[&i64::from(served)]).await.expect("quantizations");
        let size = if self.by_size { self.sizes / 2 } else { self.sizes };
        (f64::from(size), names.iter().map(|row| row.get(0)).collect())
    }
}

/// Empties the queue and loads a mix. Returns a connection that holds the old snapshot, if any.
pub(crate) async fn load(client: &Client, elsewhere: Client, mix: Mix, depth: i64) -> Option<Client> {
    let started = Instant::now();
    client
        .batch_execute(
            "TRUNCATE runs, run_queue, queue_jobs, past_claims, submissions, submission_files CASCADE;
             DELETE FROM claim_cursors;
             SET session_replication_role = replica;
             DELETE FROM queue_lanes WHERE lane_id <> 0;
             SET session_replication_role = DEFAULT;",
        )
        .await
        .expect("the queue is emptied");
    load_lanes(client, mix.lanes()).await;
    let job = fixture::enqueue_run(client, &fixture::run()).await.rows[0].queue_id;
    let ahead = mix.ahead(depth);
    let claimable = if mix.gap().is_some() { depth } else { (depth - ahead).max(CLAIMABLE_MIN) };
    let total = mix.completed() + ahead + claimable;
    // Building the indexes in the end takes a third of the time of filling them row by row. It would tell the planner
    // how many rows there are.
    let build_indexes = if mix == Mix::NoStatistics { String::new() } else { drop_indexes(client).await };
    // Foreign keys hold by construction, and checking each would take longer than the load.
    client.batch_execute("SET session_replication_role = replica").await.expect("a superuser");
    for from in (0..total).step_by(usize::try_from(BATCH).expect("small")) {
        let to = (from + BATCH).min(total);
        load_rows(client, mix, ahead, from, to).await;
        let seconds = started.elapsed().as_secs();
        eprint!("\r{} {depth}: {to} of {total} rows loaded, {seconds} s ", mix.name());
    }
    client
        .execute(
            "INSERT INTO queue_jobs (queue_id, model, models, prompts, tasks, config)
             SELECT q.queue_id, j.model, j.models, j.prompts, j.tasks, j.config
               FROM run_queue q, queue_jobs j
              WHERE j.queue_id = $1 AND q.queue_id <> $1",
            &[&job],
        )
        .await
        .expect("jobs");
    client.batch_execute("SET session_replication_role = DEFAULT").await.expect("a superuser");
    client.execute("DELETE FROM run_queue WHERE queue_id = $1", &[&job]).await.expect("the pattern goes");
    client.batch_execute(&build_indexes).await.expect("the indexes are built");
    if mix != Mix::NoStatistics {
        client.batch_execute("VACUUM (ANALYZE)").await.expect("vacuum");
    }
    let snapshot = complete(client, elsewhere, mix).await;
    client.batch_execute("CHECKPOINT").await.expect("a checkpoint");
    eprintln!("\r{} {depth}: {total} rows loaded in {} s        ", mix.name(), started.elapsed().as_secs());
    snapshot
}

/// Drops the indexes that no constraint needs. Returns the statements that build them again.
async fn drop_indexes(client: &Client) -> String {
    let statements = "
        SELECT string_agg(format('DROP INDEX %s;', i.indexrelid::regclass), ''),
               string_agg(pg_get_indexdef(i.indexrelid) || ';', '')
          FROM pg_index i
         WHERE i.indrelid IN ('run_queue'::regclass, 'queue_jobs'::regclass, 'runs'::regclass)
           AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)";
    let row = client.query_one(statements, &[]).await.expect("the indexes");
    client.batch_execute(row.get(0)).await.expect("the indexes are dropped");
    row.get(1)
}

async fn load_lanes(client: &Client, lanes: Lanes) {
    client
        .batch_execute(
            "INSERT INTO quantization_methods (name, vram_multiplier)
             SELECT 'bench' || i, 1 FROM generate_series(28, 30) i ON CONFLICT DO NOTHING",
        )
        .await
        .expect("thirty quantizations");
    client
        .execute(
            "INSERT INTO queue_lanes (lane_id, quantization_ids, required_vram_gb)
             SELECT 1000000 + q.rank * $2 + size, ARRAY[q.quantization_id], 1 + size
               FROM (SELECT quantization_id, row_number() OVER (ORDER BY quantization_id)::integer - 1 AS rank
                       FROM quantization_methods) q,
                    generate_series(0, $2 - 1) size
              WHERE q.rank < $1",
            &[&lanes.quantizations, &lanes.sizes],
        )
        .await
        .expect("lanes");
}

async fn load_rows(client: &Client, mix: Mix, ahead: i64, from: i64, to: i64) {
    let lanes = mix.lanes();
    let (quantizations, sizes) = if lanes.by_size {
        (lanes.quantizations, lanes.sizes / 2)
    } else {
        (lanes.quantizations / 2, lanes.sizes)
    };
    let unfit_ahead = ahead > 0 && mix != Mix::Deferred90;
    client
        .execute(
            "WITH made AS (
                 SELECT i, gen_random_uuid() AS run_id, i < $1::bigint AS is_ahead
                   FROM generate_series($2::bigint, $3::bigint - 1) i
             ), run AS (
                 INSERT INTO runs (run_id, submitted_at, publisher_id) SELECT run_id, now(), 'bench' FROM made
             )
             INSERT INTO run_queue (run_id, prompt_id, created_at, retry_after, lane_id)
             SELECT run_id, (SELECT min(prompt_id) FROM prompts), now() - interval '10 days' + i * interval '1 ms',
                    CASE WHEN is_ahead AND NOT $4 THEN now() + interval '1 day' END,
                    1000000 + (i % $5::bigint
                               + CASE WHEN is_ahead AND $4 AND NOT $8 OR i % $9::bigint > 0 THEN $5 ELSE 0 END)
                              * $7::bigint
                    + i / $5 % $6::bigint + CASE WHEN is_ahead AND $4 AND $8 THEN $6 ELSE 0 END
               FROM made",
            &[
                &ahead,
                &from,
                &to,
                &unfit_ahead,
                &i64::from(quantizations),
                &i64::from(sizes),
                &i64::from(lanes.sizes),
                &lanes.by_size,
                // Every row is a multiple of 1.
                &mix.gap().unwrap_or(1),
            ],
        )
        .await
        .expect("rows");
}

/// Completes the first claimable rows.
async fn complete(client: &Client, elsewhere: Client, mix: Mix) -> Option<Client> {
    if mix.completed() == 0 {
        return None;
    }
    client.batch_execute("ALTER TABLE run_queue SET (autovacuum_enabled = off)").await.expect("no vacuum");
    let open = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM runners";
    let snapshot = mix.has_old_snapshot().then_some(elsewhere);
    if let Some(snapshot) = &snapshot {
        snapshot.batch_execute(open).await.expect("a snapshot");
    }
    let served = mix.lanes().quantizations / 2 * mix.lanes().sizes;
    client
        .execute(
            "UPDATE run_queue SET status = 'COMPLETE', completed_at = now()
              WHERE queue_id IN (SELECT queue_id FROM run_queue
                                  WHERE status = 'PENDING' AND lane_id < 1000000 + $1::integer
                                  ORDER BY priority, created_at LIMIT $2)",
            &[&served, &mix.completed()],
        )
        .await
        .expect("completions");
    snapshot
}

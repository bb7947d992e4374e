//! Many at once: what must hold however the steps fall.

use bakeoff_core::Error;
use bakeoff_core::queue::claim::{ClaimOutcome, ClaimRequest, claim};
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runners::revoke::revoke;
use bakeoff_core::runs::cancel::cancel;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, TERMS};
use serde_json::json;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use uuid::Uuid;

const CLAIMERS: usize = 8;

/// 400 rows of one run, priorities 0 to 399 in a mixed order.
async fn four_hundred_rows(owner: &Client, lanes: &[i32]) {
    let queue_id = fixture::undemanding_run(owner).await.rows[0].queue_id;
    owner
        .execute(
            "INSERT INTO run_queue (run_id, prompt_id, priority, lane_id)
             SELECT run_id, prompt_id, n * 7 % 400, ($2::integer[])[1 + n % cardinality($2::integer[])]
               FROM run_queue, generate_series(0, 399) AS n
              WHERE queue_id = $1",
            &[&queue_id, &lanes],
        )
        .await
        .unwrap();
    owner.execute("DELETE FROM run_queue WHERE queue_id = $1", &[&queue_id]).await.unwrap();
}

/// A claim as its claimer saw it.
#[derive(Debug)]
struct Claimed {
    began: Instant,
    ended: Instant,
    priority: i32,
    queue_id: Uuid,
}

/// Eight claimers at once until nothing is left.
async fn claims_are_distinct_and_in_order(lanes: &[(i32, &str)], unfit_lanes: &[(i32, &str)]) {
    let database = Database::create().await;
    let client = database.client().await;
    let mut lane_ids = Vec::new();
    for (vram_gb, quantization) in lanes.iter().chain(unfit_lanes) {
        let lane = client
            .query_one(
                "INSERT INTO queue_lanes (quantization_ids, required_vram_gb)
                 SELECT ARRAY[quantization_id], $1 FROM quantization_methods WHERE name = $2
                 RETURNING lane_id",
                &[vram_gb, quantization],
            )
            .await
            .unwrap();
        lane_ids.push(lane.get::<_, i32>(0));
    }
    four_hundred_rows(&database.owner().await, &lane_ids).await;
    let fitting = 400 * lanes.len() / lane_ids.len();

    let mut claimers = JoinSet::new();
    for number in 0..CLAIMERS {
        let client = database.client().await;
        let runner = fixture::runner(&client, &format!("bench-{number}")).await;
        claimers.spawn(async move {
            let mut claimed = Vec::new();
            let request = ClaimRequest::default();
            loop {
                let began = Instant::now();
                let job = claim(&client, &runner.authenticated, TERMS, &request).await.unwrap().job();
                let Some(job) = job else { break };
                let (priority, queue_id) = (job.priority, job.queue_id);
                claimed.push(Claimed { began, ended: Instant::now(), priority, queue_id });
            }
            claimed
        });
    }
    let claimed: Vec<Claimed> = claimers.join_all().await.into_iter().flatten().collect();

    let distinct: HashSet<Uuid> = claimed.iter().map(|claimed| claimed.queue_id).collect();
    assert_eq!((claimed.len(), distinct.len()), (fitting, fitting));
    // All that SKIP LOCKED may pass over is what others are taking at that moment: a claim that begins
    // when this one has ended finds nothing better.
    for one in &claimed {
        let better = claimed.iter().find(|other| other.began > one.ended && other.priority < one.priority);
        assert!(better.is_none(), "{one:?} was taken before {better:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn eight_claimers_take_four_hundred_rows_once_each_in_order() {
    claims_are_distinct_and_in_order(&[(6, "q4_k_m")], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn and_so_they_do_when_lanes_are_mixed() {
    let fit = [(6, "q4_k_m"), (12, "q8_0"), (24, "q4_k_m"), (1, "q8_0")];
    let unfit = [(25, "q4_k_m"), (6, "fp16"), (80, "q8_0"), (7, "bf16")];
    claims_are_distinct_and_in_order(&fit, &unfit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_claim_id_sent_twice_at_once_is_one_row() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    let runner = fixture::runner(&one, "bench").await;
    four_hundred_rows(&database.owner().await, &[0]).await;
    for _ in 0..50 {
        let request = ClaimRequest { claim_id: Some(Uuid::new_v4()), capabilities: None };
        let (a, b) = tokio::join!(
            claim(&one, &runner.authenticated, TERMS, &request),
            claim(&other, &runner.authenticated, TERMS, &request)
        );
        assert_eq!(a.unwrap().job().unwrap().queue_id, b.unwrap().job().unwrap().queue_id);
    }
    let live = "SELECT count(*) FROM run_queue WHERE status = 'CLAIMED'";
    assert_eq!(one.query_one(live, &[]).await.unwrap().get::<_, i64>(0), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_revoked_key_is_never_left_with_a_claim() {
    let database = Database::create().await;
    let client = database.client().await;
    four_hundred_rows(&database.owner().await, &[0]).await;
    for round in 0..10 {
        let runner = fixture::runner(&client, &format!("bench-{round}")).await;
        let mut claimers = JoinSet::new();
        for _ in 0..4 {
            let client = database.client().await;
            let authenticated = runner.authenticated.clone();
            claimers.spawn(async move {
                loop {
                    match claim(&client, &authenticated, TERMS, &ClaimRequest::default()).await {
                        Ok(ClaimOutcome::Claimed(_)) => {}
                        Err(Error::KeyNotAllowed) => break,
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        // Revoked in the middle of it: as soon as the first claims are seen.
        let live = "SELECT count(*) FROM run_queue WHERE status = 'CLAIMED'";
        while client.query_one(live, &[]).await.unwrap().get::<_, i64>(0) < 5 {}
        revoke(&client, &fixture::admin(), &runner.machine.key_id(), None).await.unwrap();
        assert_eq!(client.query_one(live, &[]).await.unwrap().get::<_, i64>(0), 0);
        claimers.join_all().await;
        assert_eq!(client.query_one(live, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
}

/// Each names what the other names, in the opposite order: whoever takes locks in the order of the
/// request makes a deadlock of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_that_name_the_same_new_models_and_prompts_are_enqueued_at_once() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    for round in 0..10 {
        let mut forth = fixture::run();
        let ids: Vec<String> = (0..20).map(|n| format!("{round}-{n}")).collect();
        let models: Vec<_> = ids
            .iter()
            .map(|id| {
                let mut model = fixture::model(id, "q4_k_m", 1.0);
                model["descriptor"]["creator"] = json!({ "name": id });
                model
            })
            .collect();
        let prompts: Vec<_> = ids.iter().map(|id| fixture::prompt(id)).collect();
        (forth["models"], forth["prompts"]) = (json!(models), json!(prompts));
        let mut back = fixture::run();
        back["models"] = models.into_iter().rev().collect();
        back["prompts"] = prompts.into_iter().rev().collect();
        tokio::join!(fixture::enqueue_run(&one, &forth), fixture::enqueue_run(&other, &back));
    }
    let twice = "SELECT count(*) FROM prompts a JOIN prompts b USING (file_path, git_commit_hash)
                  WHERE a.prompt_id < b.prompt_id";
    assert_eq!(one.query_one(twice, &[]).await.unwrap().get::<_, i64>(0), 0);
    let models: i64 = one.query_one("SELECT count(*) FROM models", &[]).await.unwrap().get(0);
    assert_eq!(models, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn steering_from_all_sides_at_once_never_deadlocks() {
    let database = Database::create().await;
    let clients =
        [database.client().await, database.client().await, database.client().await, database.client().await];
    for round in 0..8 {
        let runner = fixture::runner(&clients[0], &format!("bench-{round}")).await;
        let mut run = fixture::run();
        run["prompts"] = (0..12).map(|n| fixture::prompt(&format!("p{n}"))).collect();
        run["split_by"] = json!("prompt");
        let run_id = fixture::enqueue_run(&clients[0], &run).await.run_id;
        for _ in 0..12 {
            fixture::claim_next(&clients[0], &runner).await;
        }
        // Half of them lapsed, and stored in another order than the ids.
        clients[0]
            .execute(
                "UPDATE run_queue SET lease_expires_at = now() - interval '1 s'
                  WHERE queue_id IN (SELECT queue_id FROM run_queue WHERE run_id = $1
                                      ORDER BY queue_id LIMIT 6)",
                &[&run_id],
            )
            .await
            .unwrap();
        let (admin, key_id) = (fixture::admin(), runner.machine.key_id());
        let (a, b, c, d) = tokio::join!(
            cancel(&clients[0], &admin, run_id, None),
            revoke(&clients[1], &admin, &key_id, None),
            reap(&clients[2], TERMS, Duration::from_secs(5)),
            cancel(&clients[3], &admin, run_id, None),
        );
        assert!(a.is_ok() && b.is_ok() && c.is_ok() && d.is_ok(), "{a:?} {b:?} {c:?} {d:?}");
        cancel(&clients[0], &admin, run_id, None).await.unwrap();
        let left = "SELECT count(*) FROM run_queue WHERE status <> 'CANCELLED'";
        assert_eq!(clients[0].query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
}

/// One row in 500 fits, and other claims hold the first 40 of them: the claim takes the 41st, and reads no
/// more of the queue than the rows that fit and one walk. A claim that instead walked on over the rows that do
/// not fit would read 20,000.
#[tokio::test]
async fn sparse_rows_that_others_hold_are_stepped_over_without_those_that_do_not_fit() {
    let database = Database::create().await;
    let (client, holder) = (database.client().await, database.client().await);
    let runner = fixture::runner(&client, "bench").await;
    sparse_rows(&database.owner().await, 25_000).await;
    let fitting = "SELECT queue_id FROM run_queue WHERE lane_id < 100 AND status = 'PENDING'
                    ORDER BY priority, created_at, lane_id";
    let fitting: Vec<Uuid> = client.query(fitting, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(fitting.len(), 50);
    holder.batch_execute("BEGIN").await.unwrap();
    let hold = "SELECT FROM run_queue WHERE queue_id = ANY ($1) FOR UPDATE";
    holder.query(hold, &[&&fitting[..40]]).await.unwrap();

    for expected in &fitting[40..] {
        client.batch_execute("BEGIN").await.unwrap();
        let before = rows_read(&client).await;
        let job = fixture::claim_next(&client, &runner).await;
        assert_eq!(job.queue_id, *expected);
        let read = rows_read(&client).await - before;
        assert!(read < 1_000, "the claim read {read} rows");
        client.batch_execute("COMMIT").await.unwrap();
    }
    let none = claim(&client, &runner.authenticated, TERMS, &ClaimRequest::default()).await.unwrap().job();
    assert!(none.is_none(), "{none:?}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(fixture::claim_next(&client, &runner).await.queue_id, fitting[0]);
}

/// However many rows are locked ahead, the first that is not is claimed: here behind the 700 rows that a
/// cancel in progress holds, all with one position.
#[tokio::test]
async fn a_row_behind_hundreds_that_are_locked_is_claimed() {
    let database = Database::create().await;
    let (client, holder) = (database.client().await, database.client().await);
    let runner = fixture::runner(&client, "bench").await;
    let run = fixture::undemanding_run(&client).await;
    let more = "INSERT INTO run_queue (run_id, prompt_id, priority, created_at)
                SELECT run_id, prompt_id, priority, created_at FROM run_queue, generate_series(2, 700)";
    client.batch_execute(more).await.unwrap();
    let last = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    holder.batch_execute("BEGIN").await.unwrap();
    cancel(&holder, &fixture::admin(), run.run_id, None).await.unwrap();

    assert_eq!(fixture::claim_next(&client, &runner).await.run_id, last);
    let none = claim(&client, &runner.authenticated, TERMS, &ClaimRequest::default()).await.unwrap().job();
    assert!(none.is_none(), "{none:?}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(fixture::claim_next(&client, &runner).await.run_id, run.run_id);
}

/// Rows of which one in 500 fits the fixture's runner: in lanes 1 to 5, the others in lane 100.
async fn sparse_rows(owner: &Client, rows: i32) {
    let pattern = &fixture::undemanding_run(owner).await.rows[0];
    owner
        .batch_execute(
            "INSERT INTO queue_lanes (lane_id, quantization_ids, required_vram_gb)
             SELECT n, '{}'::integer[], n FROM generate_series(1, 5) n UNION ALL SELECT 100, '{}', 80",
        )
        .await
        .unwrap();
    let insert = "INSERT INTO run_queue (run_id, prompt_id, created_at, lane_id)
                  SELECT run_id, prompt_id, now() + n * interval '1 ms',
                         CASE WHEN n % 500 = 499 THEN 1 + n / 500 % 5 ELSE 100 END
                    FROM run_queue, generate_series(0, $1 - 1) n";
    owner.execute(insert, &[&rows]).await.unwrap();
    owner.execute("DELETE FROM run_queue WHERE queue_id = $1", &[&pattern.queue_id]).await.unwrap();
}

/// Rows of the queue that this session has read by index since the server last collected its statistics, which
/// it does between transactions.
async fn rows_read(client: &Client) -> i64 {
    let read = "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'run_queue'";
    client.query_one(read, &[]).await.unwrap().get(0)
}

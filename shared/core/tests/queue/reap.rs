//! Tests of the reaper: which claims it ends, its concurrency, and its measurements.

use bakeoff_core::Error;
use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::queue::heartbeat::{HeartbeatRequest, heartbeat};
use bakeoff_core::queue::lease::LeaseTerms;
use bakeoff_core::queue::reap::{self, Reaped};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, TERMS};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

async fn reap(client: &Client) -> Reaped {
    reap::reap(client, TERMS, Duration::from_secs(20)).await.unwrap()
}

#[tokio::test]
async fn a_lapsed_claim_counts_an_attempt_and_its_row_is_claimable_at_once() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    assert_eq!(reap(&client).await.returned, 0);

    fixture::expire_lease(&client, &job).await;
    let reaped = reap(&client).await;
    assert_eq!((reaped.returned, reaped.failed, reaped.finished), (1, 0, true));
    let row = fixture::queue_row(&client, &job).await;
    assert_eq!((row.get("status"), row.get("attempt_count"), row.get("priority")), ("PENDING", 1, 100));
    assert_eq!(row.get::<_, &str>("error_detail"), "the lease of bench expired");
    let past = client.query_one("SELECT * FROM past_claims", &[]).await.unwrap();
    assert_eq!(past.get::<_, Uuid>("claim_id"), job.claim_id);
    assert_eq!(past.get::<_, Uuid>("queue_id"), job.queue_id);
    assert_eq!((past.get("runner_id"), past.get("ended_by")), ("bench", "lapsed"));

    assert_eq!(fixture::claim_next(&client, &runner).await.attempt, 2);
}

/// A job that crashes every runner must not be retried for ever.
#[tokio::test]
async fn a_job_that_crashes_its_runners_ends_failed_after_its_last_attempt() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::enqueue_run(&client, &fixture::run_with_attempts(2)).await;
    let mut ends = Vec::new();
    for _ in 0..3 {
        let job = fixture::claim_next(&client, &runner).await;
        fixture::expire_lease(&client, &job).await;
        let reaped = reap(&client).await;
        let row = fixture::queue_row(&client, &job).await;
        ends.push((
            reaped.returned,
            reaped.failed,
            row.get::<_, String>("status"),
            row.get::<_, i32>("attempt_count"),
            row.get::<_, Option<time::OffsetDateTime>>("completed_at").is_some(),
        ));
    }
    let expected = [(1, 0, "PENDING", 1, false), (1, 0, "PENDING", 2, false), (0, 1, "FAILED", 2, true)];
    assert_eq!(ends, expected.map(|(r, f, status, n, ended)| (r, f, status.to_owned(), n, ended)));
}

#[tokio::test]
async fn heartbeats_do_not_extend_max_runtime_s() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let mut run = fixture::run();
    run["max_runtime_s"] = json!(3600);
    fixture::enqueue_run(&client, &run).await;
    let job = fixture::claim_next(&client, &runner).await;
    client.execute("UPDATE run_queue SET claimed_at = now() - interval '59 min'", &[]).await.unwrap();
    assert_eq!(reap(&client).await.returned, 0);
    client.execute("UPDATE run_queue SET claimed_at = now() - interval '61 min'", &[]).await.unwrap();
    assert_eq!(reap(&client).await.returned, 1);
    assert_eq!(
        fixture::queue_row(&client, &job).await.get::<_, &str>("error_detail"),
        "bench exceeded max_runtime_s"
    );
}

/// A reaper that went by the age of a claim would run long benchmarks twice.
#[tokio::test]
async fn an_old_claim_is_kept_while_its_lease_is_live() {
    let database = Database::create().await;
    let client = database.client().await;
    let (_, job) = fixture::runner_with_job(&client).await;
    client.execute("UPDATE run_queue SET claimed_at = now() - interval '9 days'", &[]).await.unwrap();
    assert_eq!(reap(&client).await.returned, 0);
    assert_eq!(fixture::queue_row(&client, &job).await.get::<_, &str>("status"), "CLAIMED");
}

/// T1 (heartbeat) has locked the row; T2 (reaper) skips it.
#[tokio::test]
async fn a_concurrent_heartbeat_wins_against_the_reaper() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut beating = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    fixture::expire_lease(&client, &job).await;
    let transaction = beating.transaction().await.unwrap();
    let request = HeartbeatRequest { claim_id: job.claim_id, progress: None };
    heartbeat(transaction.client(), &runner.authenticated, TERMS, job.run_id, &request).await.unwrap();
    assert_eq!(reap(&client).await.returned, 0);
    transaction.commit().await.unwrap();
    assert_eq!(reap(&client).await.returned, 0);
    assert_eq!(fixture::queue_row(&client, &job).await.get::<_, &str>("status"), "IN_PROGRESS");
}

/// T1 (reaper) has locked the row; T2 (heartbeat) waits for T1's commit and then finds its claim ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_heartbeats_and_reapers_agree_on_the_claim() {
    let database = Database::create().await;
    let (client, reaping) = (database.client().await, database.client().await);
    let (runner, mut job) = fixture::runner_with_job(&client).await;
    database.owner().await.execute("UPDATE run_queue SET max_attempts = 100", &[]).await.unwrap();
    for _ in 0..30 {
        fixture::expire_lease(&client, &job).await;
        let request = HeartbeatRequest { claim_id: job.claim_id, progress: None };
        let (beat, reaped) = tokio::join!(
            heartbeat(&client, &runner.authenticated, TERMS, job.run_id, &request),
            reap(&reaping)
        );
        match beat {
            Ok(_) => assert_eq!(reaped.returned, 0),
            Err(Error::ClaimLost) => {
                assert_eq!(reaped.returned, 1);
                job = fixture::claim_next(&client, &runner).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// EventBridge may deliver an event twice, and runs of the reaper may overlap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_concurrent_reapers_take_back_each_row_once() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    let (_, job) = fixture::runner_with_job(&one).await;
    one.execute(
        "INSERT INTO run_queue (run_id, prompt_id, status, claimed_by, claimed_at, claim_id, lease_expires_at)
         SELECT run_id, prompt_id, 'CLAIMED', 'bench', now(), gen_random_uuid(), now() - interval '1 s'
           FROM run_queue, generate_series(1, 2000)
          WHERE queue_id = $1",
        &[&job.queue_id],
    )
    .await
    .unwrap();
    let (a, b) = tokio::join!(reap(&one), reap(&other));
    // Each skips the rows that the other has locked; a third run takes what both may have skipped.
    let rest = reap(&one).await;
    assert_eq!(a.returned + b.returned + rest.returned, 2000);
    let once =
        "SELECT count(*), count(*) FILTER (WHERE attempt_count = 1) FROM run_queue WHERE status = 'PENDING'";
    let once = one.query_one(once, &[]).await.unwrap();
    assert_eq!((once.get::<_, i64>(0), once.get::<_, i64>(1)), (2000, 2000));
}

#[tokio::test]
async fn the_reaper_stops_after_its_time_budget_and_reports_unfinished() {
    let database = Database::create().await;
    let client = database.client().await;
    let (_, job) = fixture::runner_with_job(&client).await;
    fixture::expire_lease(&client, &job).await;
    let reaped = reap::reap(&client, TERMS, Duration::ZERO).await.unwrap();
    assert_eq!((reaped.returned, reaped.finished), (0, false));
    assert_eq!(reap(&client).await.returned, 1);
}

/// During an outage heartbeats fail. No lease may be ended before its runner had time to send one again.
#[tokio::test]
async fn after_an_outage_no_lease_is_ended_for_one_heartbeat_interval() {
    let database = Database::create().await;
    let client = database.client().await;
    let (_, job) = fixture::runner_with_job(&client).await;
    reap(&client).await;
    fixture::expire_lease(&client, &job).await;
    let outage = "UPDATE reaper_state SET last_run_at = now() - interval '301 s'";
    client.execute(outage, &[]).await.unwrap();

    let reaped = reap(&client).await;
    assert_eq!(reaped.returned, 0);
    let grace = reaped.grace_until.unwrap() - time::OffsetDateTime::now_utc();
    assert!((50..=60).contains(&grace.whole_seconds()), "{grace}");
    // The next run is still within the grace period.
    assert_eq!(reap(&client).await.returned, 0);

    client.execute("UPDATE reaper_state SET grace_until = now()", &[]).await.unwrap();
    let reaped = reap(&client).await;
    assert_eq!((reaped.returned, reaped.grace_until), (1, None));
}

/// A runner that was about to send a heartbeat when the outage began has ttl - interval of its lease left, so an
/// outage shorter than a lease can cost it its claim too.
#[tokio::test]
async fn an_outage_longer_than_the_rest_of_a_lease_gets_a_grace_period() {
    let database = Database::create().await;
    let client = database.client().await;
    let (_, job) = fixture::runner_with_job(&client).await;
    reap(&client).await;
    fixture::expire_lease(&client, &job).await;
    let outage = "UPDATE reaper_state SET last_run_at = now() - interval '250 s'";
    client.execute(outage, &[]).await.unwrap();
    assert_eq!(reap(&client).await.returned, 0);
}

/// With leases shorter than the schedule's period, every run looks like the first after an outage.
#[tokio::test]
async fn a_reaper_scheduled_less_often_than_the_lease_still_ends_leases() {
    let database = Database::create().await;
    let client = database.client().await;
    let short = LeaseTerms { ttl_s: 30, heartbeat_interval_s: 10 };
    let (_, job) = fixture::runner_with_job(&client).await;
    reap::reap(&client, short, Duration::from_secs(5)).await.unwrap();
    fixture::expire_lease(&client, &job).await;
    let mut returned = Vec::new();
    for _ in 0..2 {
        let minute_later = "UPDATE reaper_state SET last_run_at = last_run_at - interval '1 min',
                                                    grace_until = grace_until - interval '1 min'";
        client.execute(minute_later, &[]).await.unwrap();
        returned.push(reap::reap(&client, short, Duration::from_secs(5)).await.unwrap().returned);
    }
    assert_eq!(returned, [0, 1]);
}

#[tokio::test]
async fn rows_whose_retry_after_has_passed_become_ready() {
    let database = Database::create().await;
    let client = database.client().await;
    let row = &fixture::enqueue_run(&client, &fixture::run()).await.rows[0];
    client
        .execute(
            "INSERT INTO run_queue (run_id, prompt_id, retry_after)
             SELECT run_id, prompt_id, now() + make_interval(secs => n)
               FROM run_queue, generate_series(-1199, 10) AS n WHERE queue_id = $1",
            &[&row.queue_id],
        )
        .await
        .unwrap();
    assert_eq!(reap(&client).await.backoffs_ended, 1200);
    let waiting = "SELECT count(*) FROM run_queue WHERE retry_after IS NOT NULL";
    assert_eq!(client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0), 10);
}

#[tokio::test]
async fn runners_without_heartbeats_become_dead_and_old_proofs_are_deleted() {
    let database = Database::create().await;
    let client = database.client().await;
    fixture::runner(&client, "silent").await;
    fixture::runner(&client, "alive").await;
    let owner = database.owner().await;
    owner
        .batch_execute(
            "UPDATE runners SET last_heartbeat = now() - interval '16 min' WHERE runner_id = 'silent';
             UPDATE spent_proofs SET forget_at = now() - interval '1 s'
              WHERE key_id = (SELECT key_id FROM runners WHERE runner_id = 'silent');
             INSERT INTO runners (runner_id, public_key, last_heartbeat)
             VALUES ('of-the-harness', 'x', now() - interval '9 days')",
        )
        .await
        .unwrap();
    let reaped = reap(&client).await;
    assert_eq!((reaped.silent_runners, reaped.forgotten_proofs), (1, 1));
    let dead = client.query("SELECT runner_id FROM runners WHERE status = 'DEAD'", &[]).await.unwrap();
    assert_eq!(dead.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), ["silent"]);
    assert_eq!(reap(&client).await.silent_runners, 0);
}

#[tokio::test]
async fn the_queue_metrics_count_rows_that_no_runner_can_serve() {
    let database = Database::create().await;
    let client = database.client().await;
    let queue_counts = async || {
        let queue = reap(&client).await.queue;
        (queue.depth, queue.live_claims, queue.unsatisfiable)
    };
    assert_eq!(queue_counts().await, (0, 0, 0));
    assert!(reap(&client).await.queue.oldest_eligible_age_s.abs() < 1e-9);

    let mut big = fixture::run();
    big["models"] = json!([fixture::model("big", "q4_k_m", 70.0)]);
    fixture::enqueue_run(&client, &big).await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    assert_eq!(queue_counts().await, (2, 0, 2));

    let runner = fixture::runner(&client, "bench").await;
    assert_eq!(queue_counts().await, (2, 0, 1));
    let owner = database.owner().await;
    owner.execute("UPDATE run_queue SET created_at = now() - interval '90 s'", &[]).await.unwrap();
    let age = reap(&client).await.queue.oldest_eligible_age_s;
    assert!((90.0..120.0).contains(&age), "{age}");
    fixture::claim_next(&client, &runner).await;
    assert_eq!(queue_counts().await, (1, 1, 1));

    // A deferred row counts towards the depth, and as unsatisfiable too.
    client
        .execute("UPDATE run_queue SET retry_after = now() + interval '1 h' WHERE status = 'PENDING'", &[])
        .await
        .unwrap();
    assert_eq!(queue_counts().await, (1, 1, 1));
    assert!(reap(&client).await.queue.oldest_eligible_age_s.abs() < 1e-9);

    // A runner without a recent heartbeat, or not on the allowlist, serves no row.
    fixture::enqueue_run(&client, &fixture::run()).await;
    assert_eq!(queue_counts().await, (2, 1, 1));
    client.execute("UPDATE runners SET last_heartbeat = now() - interval '8 days'", &[]).await.unwrap();
    assert_eq!(queue_counts().await, (2, 1, 2));
    client
        .batch_execute(
            "UPDATE runners SET last_heartbeat = now();
             UPDATE allowlist SET revoked_at = now(), revoked_by = 'x'",
        )
        .await
        .unwrap();
    assert_eq!(queue_counts().await, (2, 1, 2));
}

/// A restore inserts rows without firing the triggers that reset the cursors.
#[tokio::test]
async fn a_row_that_bypassed_the_triggers_is_claimed_after_an_hour_at_most() {
    let database = Database::create().await;
    let client = database.client().await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let runner = fixture::runner(&client, "bench").await;
    fixture::claim_next(&client, &runner).await;
    let next = async || {
        let request = ClaimRequest::default();
        claim(&client, &runner.authenticated, TERMS, &request).await.unwrap().job()
    };
    let advance = "SELECT queue_advance_claim_cursor(vram_gb, quantization_ids) FROM claim_cursors";
    client.query(advance, &[]).await.unwrap();
    let owner = database.owner().await;
    owner
        .batch_execute(
            "SET session_replication_role = replica;
             INSERT INTO run_queue (run_id, prompt_id) SELECT run_id, prompt_id FROM run_queue;
             SET session_replication_role = DEFAULT;",
        )
        .await
        .unwrap();
    assert!(next().await.is_none(), "the cursor is at the end of the order");
    reap(&client).await;
    assert!(next().await.is_none(), "and stays there");
    client.batch_execute("UPDATE claim_cursors SET started_at = now() - interval '61 min'").await.unwrap();
    reap(&client).await;
    assert!(next().await.is_some());
}

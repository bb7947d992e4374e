//! What the overview of a large queue costs, and what claims cost beside it.
//!
//! A durable PostgreSQL of its own; a million rows in 500 lanes, a fifth of them complete, 1,000 runners that hold
//! 1,000 jobs. The overview is read 30 times. Then two claimers take turns: alone, and while another connection
//! reads one overview after another.

use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::queue::overview::overview;
use bakeoff_core::runs::listing::{self, Filter};
use bakeoff_local::postgres::Cluster;
use bakeoff_testkit::fixture::{self, TERMS};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

const SETTINGS: &[&str] = &["shared_buffers=2GB", "max_wal_size=16GB", "checkpoint_timeout=60min"];
/// A lane's rows stand in three priorities. Of a thousand rows 200 are complete and one is live.
const LOAD: &str = "
    INSERT INTO queue_lanes (lane_id, quantization_ids, required_vram_gb)
    SELECT 1000000 + i, ARRAY[11 + i % 10], 1 + i / 10 FROM generate_series(0, 499) i;
    INSERT INTO runners (runner_id, public_key, last_heartbeat, key_id, vram_gb, quantizations, status)
    SELECT 'runner-' || i, 'x', now(), 'key-' || i, 8 + i % 80,
           ARRAY(SELECT name FROM quantization_methods WHERE quantization_id % 7 <= i % 7), 'ACTIVE'
      FROM generate_series(1, 1000) i;
    INSERT INTO allowlist (key_id, kind, public_key, label, added_by)
    SELECT 'key-' || i, 'ed25519', decode(repeat('00', 32), 'hex'), 'bench', 'bench' FROM generate_series(1, 1000) i;
    INSERT INTO run_queue (run_id, prompt_id, priority, created_at, lane_id, status, completed_at, claimed_by,
                           claimed_at, claim_id, lease_expires_at, progress)
    SELECT (SELECT min(run_id::text)::uuid FROM runs), (SELECT min(prompt_id) FROM prompts), i % 3 * 50,
           now() - interval '10 days' + i * interval '0.5 s', 1000000 + i % 500, s.status,
           CASE s.status WHEN 'COMPLETE' THEN now() END, l.claimed_by, l.claimed_at, l.claim_id, l.lease_expires_at,
           l.progress
      FROM generate_series(1, 1000000) i
     CROSS JOIN LATERAL (SELECT CASE WHEN i % 5 = 0 THEN 'COMPLETE' WHEN i % 1000 = 1 THEN 'IN_PROGRESS'
                                     ELSE 'PENDING' END AS status) s
      LEFT JOIN LATERAL (SELECT 'runner-' || 1 + i / 1000 AS claimed_by, now() AS claimed_at,
                                gen_random_uuid() AS claim_id, now() + interval '1 hour' AS lease_expires_at,
                                '{\"cells_done\": 3, \"cells_total\": 8}'::jsonb AS progress) l
             ON s.status = 'IN_PROGRESS';
    INSERT INTO submissions (submission_id, queue_id, run_id, claim_id, runner_id, sha256, signer_kind, signer,
                             run_status, late, bound, metrics, receipt, submitted_at)
    SELECT gen_random_uuid(), queue_id, run_id, gen_random_uuid(), 'runner-' || 1 + n % 1000,
           sha256(queue_id::text::bytea), 'envelope', 'x', 'complete', false, true, '[]', 'x',
           now() - n * interval '2 s'
      FROM (SELECT queue_id, run_id, row_number() OVER () AS n FROM run_queue WHERE status = 'COMPLETE') done;
    INSERT INTO past_claims (claim_id, queue_id, runner_id, ended_by, ended_at)
    SELECT gen_random_uuid(), queue_id, 'runner-' || 1 + n % 1000, 'failed', now() - n * interval '20 s'
      FROM (SELECT queue_id, row_number() OVER () AS n FROM run_queue WHERE status = 'PENDING' LIMIT 20000) failed;";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    std::fs::create_dir_all(&target)?;
    let cluster = Cluster::start_with(&target.canonicalize()?.join("postgres"), SETTINGS)?;
    let measured = measure(&cluster.url()).await;
    cluster.stop();
    measured
}

async fn measure(url: &str) -> Result<(), Box<dyn Error>> {
    let mut client = connect(url).await?;
    bakeoff_core::migrate::apply(&mut client).await?;
    fixture::enqueue_run(&client, &fixture::run()).await;
    let began = Instant::now();
    client.batch_execute(LOAD).await?;
    // Not in one request, whose statements would be one transaction.
    client.batch_execute("VACUUM (ANALYZE)").await?;
    client.batch_execute("CHECKPOINT").await?;
    println!("loaded in {:.0} s", began.elapsed().as_secs_f64());

    let mut took = Vec::new();
    for _ in 0..31 {
        let began = Instant::now();
        let seen = overview(&client).await?;
        took.push(began.elapsed());
        assert_eq!((seen.rows.in_progress, seen.runners.len()), (1000, 1000));
    }
    print_quantiles("overview", &mut took);
    for (name, filter) in [
        ("page of the listing", Filter::default()),
        ("page of one status", Filter { status: Some("FAILED".into()), ..Filter::default() }),
        ("page of one runner", Filter { runner_id: Some("runner-7".into()), ..Filter::default() }),
        ("page of one model", Filter { model: Some("m".into()), ..Filter::default() }),
    ] {
        let mut took = Vec::new();
        for _ in 0..5 {
            let began = Instant::now();
            listing::list(&client, &filter, None, 50).await?;
            took.push(began.elapsed());
        }
        print_quantiles(name, &mut took);
    }

    let stop = Arc::new(AtomicBool::new(false));
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let reader =
            (round % 2 == 1).then(|| tokio::spawn(read_overviews(url.to_owned(), Arc::clone(&stop))));
        let claims = claims(url).await?;
        stop.store(true, Ordering::Relaxed);
        if let Some(reader) = reader {
            reader.await??;
            beside.extend(claims);
        } else {
            alone.extend(claims);
        }
        stop.store(false, Ordering::Relaxed);
    }
    print_quantiles("claim alone", &mut alone);
    print_quantiles("claim beside overviews", &mut beside);
    println!("claim beside ÷ alone, median: {:.2}", median(&mut beside) / median(&mut alone));
    Ok(())
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// An admin's page that is refreshed every two seconds.
async fn read_overviews(url: String, stop: Arc<AtomicBool>) -> Result<(), bakeoff_core::Error> {
    let client = connect(&url).await?;
    while !stop.load(Ordering::Relaxed) {
        overview(&client).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn claims(url: &str) -> Result<Vec<Duration>, Box<dyn Error>> {
    let client = connect(url).await?;
    let names = client.query("SELECT name FROM quantization_methods", &[]).await?;
    let names: Vec<&str> = names.iter().map(|row| row.get(0)).collect();
    let runner = fixture::runner_with(&client, "claimer", 200.0, &names).await;
    let mut took = Vec::new();
    for _ in 0..500 {
        let began = Instant::now();
        claim(&client, &runner.authenticated, TERMS, &ClaimRequest::default())
            .await?
            .job()
            .ok_or("no job")?;
        took.push(began.elapsed());
    }
    Ok(took)
}

fn median(took: &mut [Duration]) -> f64 {
    took.sort_unstable();
    took[took.len() / 2].as_secs_f64() * 1e3
}

fn print_quantiles(what: &str, took: &mut [Duration]) {
    let median = median(took);
    let worst = took[took.len() - 1].as_secs_f64() * 1e3;
    println!("{what}: median {median:.2} ms, worst {worst:.2} ms");
}

//! The storm: runners with real keys and signed results work through a queue while everything under them fails
//! on a seeded schedule; then the invariants are checked from the database and the runners' logs alone.
//!
//! [`schedule`] says which faults strike the service and when; `runner` is what a runner and its network do;
//! [`log`] is what everybody wrote down, [`invariants`] what must hold of it; [`report`] and [`plot`] tell how it
//! went.

mod admin;
mod disk;
mod faults;
pub mod invariants;
pub mod log;
pub mod plot;
mod proxy;
mod random;
pub mod report;
mod results;
mod runner;
pub mod schedule;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::Client;

use self::disk::Disk;
use self::faults::{Conductor, start_cluster};
use self::invariants::Checked;
use self::log::Story;
use self::proxy::Proxy;
use self::random::Random;
use self::results::Template;
use self::runner::Runner;
use self::world::World;
use crate::error::{Error, ErrorContext, Result};
use crate::postgres::{Cluster, connect};
use crate::stack::{self, Stack};
use crate::verify::all_evidence;
use crate::workspace;

/// Options of a storm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The schedule and all choices follow from it.
    pub seed: u64,
    /// Rows to enqueue.
    pub jobs: usize,
    /// Runners at work at once.
    pub runners: usize,
    /// After this many minutes no more is enqueued and no fault strikes.
    pub minutes: u32,
    /// Build the functions with the release profile.
    pub release: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, jobs: 10_000, runners: 64, minutes: 60, release: false }
    }
}

/// Short, so that a frozen runner costs seconds.
const LEASE_TTL_S: u32 = 4;
const REAP_EVERY: Duration = Duration::from_secs(1);
/// Processes of each function: enough that requests meet each other.
const INSTANCES: usize = 6;
/// How long the queue may take to drain once all is calm, before what is left counts as stuck.
const DRAIN_LIMIT: Duration = Duration::from_secs(180);
/// Rows that wait, per runner.
const BACKLOG_PER_RUNNER: usize = 2;

/// Lets the storm loose, checks the invariants, prints the report, and writes logs and plot to `target/storm/`.
///
/// # Errors
/// When the stack does not come up, or an invariant is violated.
pub async fn run(options: Options) -> Result<()> {
    let folder = workspace::target()?.join("storm");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).context(format!("make {}", folder.display()))?;
    let cluster = start_cluster(folder.join("postgres")).await?;
    let postgres = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port()));
    let proxy = Proxy::to(postgres).await?;
    let database_url = cluster.url();
    let through_proxy =
        database_url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", proxy.address.port()));
    let stack = Stack::start(&stack::Options {
        port: 0,
        database_url: Some(through_proxy),
        instances: INSTANCES,
        lease_ttl_s: LEASE_TTL_S,
        // The storm runs the reaper itself, and writes down what came of it.
        reap_every: Duration::from_secs(86_400),
        release: options.release,
        quiet: true,
        ..stack::Options::default()
    })
    .await?;
    let told = on_a_stack(&options, stack, cluster, proxy, database_url, &folder).await;
    match told? {
        0 => Ok(()),
        violations => {
            Err(Error::Failed(format!("{violations} violations; the logs are in {}", folder.display())))
        }
    }
}

/// The number of violations.
async fn on_a_stack(
    options: &Options,
    stack: Stack,
    cluster: Cluster,
    proxy: Proxy,
    database_url: String,
    folder: &Path,
) -> Result<usize> {
    let client = connect(&database_url).await?;
    let megabytes = 64 + options.jobs / 20;
    let disk = match Disk::mount(&client, cluster.data(), megabytes).await {
        Ok(disk) => Some(disk),
        Err(error) => {
            eprintln!("{error}; the storm goes on without a full disk.");
            None
        }
    };
    drop(client);
    let keys_file = stack.folder.join("signing-keys.json");
    let world = Arc::new(World::new(&stack.url, Template::read()?, options.seed, LEASE_TTL_S, keys_file));
    let conductor = Arc::new(Conductor {
        world: Arc::clone(&world),
        stack,
        proxy,
        disk,
        runners: options.runners,
        database_url: database_url.clone(),
        cluster: tokio::sync::Mutex::new(cluster),
        revoked: std::sync::Mutex::default(),
        migrating: AtomicBool::new(false),
    });
    blow(options, &conductor).await;

    let story = world.log.story();
    story.write(folder)?;
    let client = connect(&database_url).await?;
    let jwks = world.api.get("/api/jwks.json").await?.body;
    let judged = judge(options, &conductor, &client, &story, &jwks, folder).await;
    drop(client);
    if let Some(conductor) = Arc::into_inner(conductor) {
        let Conductor { stack, cluster, disk, .. } = conductor;
        stack.stop().await;
        drop(cluster);
        drop(disk);
    }
    judged
}

async fn judge(
    options: &Options,
    conductor: &Conductor,
    client: &Client,
    story: &Story,
    jwks: &Value,
    folder: &Path,
) -> Result<usize> {
    let mut verdict = invariants::check(client, story, jwks, LEASE_TTL_S).await?;
    verdict.checked.push(evidence(conductor).await?);
    let throughput = report::throughput(client).await?;
    let plot: PathBuf = folder.join("storm.svg");
    plot::draw(&plot, &throughput, &story.struck)?;
    let with_disk = conductor.disk.is_some();
    print!("{}", report::text(options, story, &verdict, &throughput, with_disk));
    println!("\nPlot: {}", plot.display());
    Ok(verdict.violations().count())
}

/// Every submission verified again from its stored bytes, by the function that accepted it.
async fn evidence(conductor: &Conductor) -> Result<Checked> {
    let evidence = all_evidence(&conductor.stack.functions["submit"]).await?;
    Ok(Checked {
        invariant: "every submission verifies again from its stored bytes",
        of: evidence.verified,
        violations: evidence.discrepancies.iter().map(ToString::to_string).collect(),
    })
}

/// From the first job to the last, and until nothing moves any more.
async fn blow(options: &Options, conductor: &Arc<Conductor>) {
    let world = &conductor.world;
    for number in 0..options.runners {
        world.allow(number).await;
    }
    let started = Instant::now();
    let limit = Duration::from_secs(60 * u64::from(options.minutes));
    let counts = Arc::new(Counts::default());

    let mut background = JoinSet::new();
    background.spawn(reap_on_schedule(Arc::clone(conductor)));
    background.spawn(end_backoffs(Arc::clone(conductor)));
    let until = started + limit;
    let enqueuer = tokio::spawn(enqueue_all(Arc::clone(world), options.clone(), until, Arc::clone(&counts)));
    let mut runners = JoinSet::new();
    for number in 0..options.runners {
        runners.spawn(Runner::new(Arc::clone(world), number).work());
    }

    let mut planned = schedule::schedule(options.seed, options.jobs).into_iter().peekable();
    let mut striking = JoinSet::new();
    let (mut progress, mut drained_since) = (0.0_f64, None::<Instant>);
    let mut told = 0;
    loop {
        sleep(Duration::from_millis(200)).await;
        let _ = count(conductor, &counts).await;
        let ended = counts.ended.load(Ordering::Relaxed);
        let done = ended as f64 / options.jobs as f64;
        progress = progress.max(done).max(started.elapsed().as_secs_f64() / limit.as_secs_f64());
        while world.is_stormy()
            && let Some(due) = planned.next_if(|planned| planned.at <= progress)
        {
            let conductor = Arc::clone(conductor);
            striking.spawn(async move { conductor.strike(due.fault, due.random).await });
        }
        while striking.try_join_next().is_some() {}
        if (progress * 10.0) as usize > told {
            told = (progress * 10.0) as usize;
            eprintln!("{:>4} s: {ended} of {} jobs ended", started.elapsed().as_secs(), options.jobs);
        }
        if progress >= 0.97 {
            world.calm_down();
        }
        if !world.is_stormy() && enqueuer.is_finished() {
            let drained_since = *drained_since.get_or_insert_with(Instant::now);
            let nothing_left = counts.unended.load(Ordering::Relaxed) == 0
                && striking.is_empty()
                && world.delayed.load(Ordering::Relaxed) == 0;
            if nothing_left || drained_since.elapsed() > DRAIN_LIMIT {
                break;
            }
        }
    }
    world.end();
    // A runner may hold a result that nobody wants any more; it goes home all the same.
    let _ = tokio::time::timeout(world::PATIENCE, runners.join_all()).await;
    background.shutdown().await;
    let _ = enqueuer.await;
    conductor.reap().await;
}

/// The queue's rows as they were counted a moment ago.
#[derive(Default)]
struct Counts {
    ended: AtomicUsize,
    unended: AtomicUsize,
    pending: AtomicUsize,
    /// How often they were counted.
    count: AtomicUsize,
}

async fn count(conductor: &Conductor, counts: &Counts) -> Result<()> {
    let client = conductor.database().await?;
    let count = "SELECT count(*) FILTER (WHERE status IN ('COMPLETE', 'FAILED', 'CANCELLED')), count(*), \
                        count(*) FILTER (WHERE status = 'PENDING') FROM run_queue";
    let row = client.query_one(count, &[]).await.context("count the rows")?;
    let (ended, all, pending): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    counts.ended.store(ended as usize, Ordering::Relaxed);
    counts.unended.store((all - ended) as usize, Ordering::Relaxed);
    counts.pending.store(pending as usize, Ordering::Relaxed);
    counts.count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Enqueues as fast as rows are claimed, so that there is always a queue and never one that hides a starving row.
async fn enqueue_all(world: Arc<World>, options: Options, until: Instant, counts: Arc<Counts>) {
    let backlog = options.runners * BACKLOG_PER_RUNNER;
    let (mut enqueued, mut seen) = (0, 0);
    // Four at once: one after another, runners would wait for the admin.
    let mut random = [1, 2, 3, 4].map(|stream| Random::new(options.seed, stream));
    while enqueued < options.jobs && Instant::now() < until {
        let count = counts.count.load(Ordering::Relaxed);
        if count == seen {
            sleep(Duration::from_millis(20)).await;
            continue;
        }
        seen = count;
        let wanted = enqueued + backlog.saturating_sub(counts.pending.load(Ordering::Relaxed));
        while enqueued < wanted.min(options.jobs) && Instant::now() < until {
            let [one, two, three, four] = &mut random;
            let (one, two, three, four) = tokio::join!(
                world.enqueue(one),
                world.enqueue(two),
                world.enqueue(three),
                world.enqueue(four)
            );
            enqueued += one + two + three + four;
        }
    }
}

async fn reap_on_schedule(conductor: Arc<Conductor>) {
    let mut ticks = tokio::time::interval(REAP_EVERY);
    loop {
        ticks.tick().await;
        conductor.reap().await;
    }
}

/// Moves the clock in the data: a failed job would wait five minutes and more for its next try.
async fn end_backoffs(conductor: Arc<Conductor>) {
    loop {
        sleep(Duration::from_secs(2)).await;
        let Ok(client) = conductor.database().await else { continue };
        let end = "UPDATE run_queue SET retry_after = now() \
                   WHERE queue_id IN (SELECT queue_id FROM run_queue \
                                       WHERE status = 'PENDING' AND retry_after > now() \
                                       ORDER BY queue_id FOR UPDATE SKIP LOCKED)";
        let _ = client.batch_execute(end).await;
    }
}

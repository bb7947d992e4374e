//! The queue's benchmark: what a claim costs by depth, mix and number of claimers.
//!
//! It starts a durable PostgreSQL of its own, loads each mix at each depth, and runs the project's operations in
//! turns with the floor: one durable single-row update by key, by the same client and protocol. It prints ratios
//! to that floor, because timings of one machine say little of another, and writes them to
//! `target/bench/queue.json`, with a plot in `target/bench/queue.svg`. A full run prints README's tables, and writes
//! README's plot (`benches/queue.svg`).

#![allow(clippy::cast_precision_loss, reason = "counts of rows, far below 2^52")]

mod bulk;
mod connection;
mod graphile;
mod mix;
mod options;
mod plot;
mod readme;
mod report;
mod sample;

use bakeoff_local::postgres::Cluster;
use connection::{Connection, Operation, connect};
use mix::Mix;
use options::Options;
use report::Line;
use sample::take_turns;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use tokio_postgres::Client;

/// fsync and synchronous_commit are on, as they are by default. No checkpoint falls into a turn.
const SETTINGS: &[&str] =
    &["shared_buffers=2GB", "max_wal_size=16GB", "checkpoint_timeout=60min", "wal_compression=on"];
const FLOOR: &str = "CREATE TABLE bench_floor (id integer PRIMARY KEY, value integer, padding text)
                     WITH (fillfactor = 50);
                     INSERT INTO bench_floor SELECT i, 0, repeat('x', 200) FROM generate_series(0, 199) i";

// One thread, as in Lambda and in the client it is compared with.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(options) = Options::read()? else { return Ok(()) };
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    fs::create_dir_all(&target)?;
    let cluster = Cluster::start_with(&target.canonicalize()?.join("postgres"), SETTINGS)?;
    let measured = run(&cluster.url(), &options, &target).await;
    cluster.stop();
    measured
}

async fn run(url: &str, options: &Options, target: &Path) -> Result<(), Box<dyn Error>> {
    let mut client = connect(url).await;
    bakeoff_core::migrate::apply(&mut client).await?;
    client.batch_execute(FLOOR).await?;
    if options.only_graphile {
        graphile::compare(url, &client).await?.iter().for_each(report::Goal::print);
        return Ok(());
    }
    let mut lines = Vec::new();
    Line::print_head();
    let cells = options.mixes.iter().flat_map(|mix| options.depths.iter().map(|depth| (*mix, *depth)));
    for (mix, depth) in cells.filter(|(mix, depth)| mix.fits(*depth)) {
        measure(url, &client, options, mix, depth, &mut lines).await;
    }
    let mut goals = report::goals(&lines);
    if options.mixes.contains(&Mix::AllEligible) {
        println!();
        goals.push(bulk::reaping(url, &client, options.bulk, options.claims).await);
        goals.push(bulk::enqueue(url, &client, options.bulk).await);
    }
    if options.full {
        goals.extend(graphile::compare(url, &client).await?);
    }
    println!();
    goals.iter().for_each(report::Goal::print);
    let (json, svg) = (target.join("queue.json"), target.join("queue.svg"));
    fs::write(&json, serde_json::to_string_pretty(&report::json(&lines, &goals))?)?;
    plot::draw(&svg, &lines)?;
    if options.full && options.mixes.len() == Mix::ALL.len() {
        fs::copy(&svg, Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/queue.svg"))?;
        readme::print(&lines);
    }
    println!("\nwritten: {}, {}", shown(&json), shown(&svg));
    Ok(())
}

/// Measures one mix at one depth.
async fn measure(url: &str, client: &Client, options: &Options, mix: Mix, depth: i64, lines: &mut Vec<Line>) {
    let mut snapshot = mix::load(client, connect(url).await, mix, depth).await;
    for (turn, &count) in options.connections(mix).iter().enumerate() {
        // A short queue does not hold enough rows for all of them.
        if turn > 0 && depth < 100_000 {
            drop(snapshot);
            snapshot = mix::load(client, connect(url).await, mix, depth).await;
        }
        let mut operations = vec![Operation::Floor, Operation::Claim];
        if mix == Mix::AllEligible {
            operations.extend([Operation::Complete, Operation::Cycle, Operation::Heartbeat]);
        }
        if count == 1 && !mix.restocks() {
            operations.push(Operation::Plain);
        }
        let mut connections = Vec::new();
        for number in 0..i32::try_from(count).expect("a number of connections") {
            connections.push(Connection::open(url, number, mix.lanes()).await);
        }
        let restock = mix.restocks().then_some(client);
        // Turns of few claims, so more of them.
        let rounds = if mix.restocks() { 5 * options.rounds } else { options.rounds };
        let claims = mix.claims_of_a_turn(depth, options.claims, count);
        let mut samples = take_turns(&mut connections, &operations, rounds, claims, restock).await;
        let floor = samples.remove(0);
        for (operation, sample) in operations.into_iter().skip(1).zip(samples) {
            let line = Line { mix, depth, connections: count, operation, sample, floor: floor.clone() };
            line.print();
            lines.push(line);
        }
    }
    drop(snapshot);
    let reset = "ALTER TABLE run_queue RESET (autovacuum_enabled)";
    client.batch_execute(reset).await.expect("vacuum is on again");
}

fn shown(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| PathBuf::from(path)).display().to_string()
}

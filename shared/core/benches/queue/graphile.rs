//! Compares the cycle of claim and completion with graphile-worker's on the same server (`../graphile`).

use crate::connection::{Connection, Operation, connect};
use crate::mix::{Mix, load};
use crate::report::{Bound, Goal};
use crate::sample::{Sample, take_turns};
use std::error::Error;
use std::path::Path;
use std::process::Command;
use tokio_postgres::Client;

const JOBS: i64 = 100_000;
const CONNECTIONS: i32 = 8;
const SECONDS: &str = "5";
const ROUNDS: usize = 3;

/// Compares jobs per second: each as bare SQL through one driver, and each through its own client.
pub(crate) async fn compare(url: &str, client: &Client) -> Result<Vec<Goal>, Box<dyn Error>> {
    let script = Script { url };
    script.npm_install()?;
    script.run(&["load", &JOBS.to_string()])?;
    load(client, connect(url).await, Mix::AllEligible, JOBS).await;
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        connections.push(Connection::open(url, number, Mix::AllEligible.lanes()).await);
    }
    let mut ours = Sample::default();
    let mut sums = [0.0; 3];
    for _ in 0..ROUNDS {
        ours.add(take_turns(&mut connections, &[Operation::Complete], 1, 4000, None).await.remove(0));
        for (mode, sum) in ["ours-sql", "graphile-sql", "graphile-client"].iter().zip(&mut sums) {
            *sum += script.run(&[mode, SECONDS, &CONNECTIONS.to_string()])?.trim().parse::<f64>()?;
        }
    }
    let [our_sql, their_sql, their_client] = sums.map(|sum| sum / ROUNDS as f64);
    println!(
        "claim and complete, {JOBS} jobs, {CONNECTIONS} connections, jobs per second:\n  \
         bare SQL: ours {our_sql:.0}, graphile-worker {their_sql:.0}\n  \
         own client: ours {:.0}, graphile-worker {their_client:.0}",
        ours.per_second()
    );
    Ok(vec![
        Goal {
            what: "claim and complete as bare SQL ÷ graphile-worker's".into(),
            measured: our_sql / their_sql,
            bound: Bound::AtLeast(1.1),
        },
        Goal {
            what: "claim and complete, each through its own client ÷ graphile-worker's".into(),
            measured: ours.per_second() / their_client,
            bound: Bound::AtLeast(1.0),
        },
    ])
}

struct Script<'a> {
    url: &'a str,
}

impl Script<'_> {
    fn command(program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/graphile"));
        command
    }

    /// Installs the versions of the lock file.
    fn npm_install(&self) -> Result<(), Box<dyn Error>> {
        let status = Self::command("npm").args(["ci", "--no-audit", "--no-fund", "--silent"]).status()?;
        status.success().then_some(()).ok_or_else(|| "npm ci failed".into())
    }

    fn run(&self, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
        let output = Self::command("node").arg("compare.mjs").arg(self.url).args(arguments).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?),
            false => Err(String::from_utf8_lossy(&output.stderr).into()),
        }
    }
}

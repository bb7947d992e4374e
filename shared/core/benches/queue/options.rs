//! What to run.

use crate::mix::Mix;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// The mixes to load.
    pub(crate) mixes: Vec<Mix>,
    /// How many rows are in the queue.
    pub(crate) depths: Vec<i64>,
    /// How many claim at once.
    pub(crate) connections: Vec<usize>,
    /// How often floor and operation take turns in one cell of the table.
    pub(crate) rounds: usize,
    /// Claims of one turn, all connections together.
    pub(crate) claims: usize,
    /// Rows of the parts on enqueueing and reaping.
    pub(crate) bulk: i64,
    /// Compare with graphile-worker (Node.js and npm needed), and nothing else.
    pub(crate) graphile: bool,
}

const HELP: &str = "\
cargo bench -p bakeoff-core --bench queue -- [options]
  --small            some mixes, 10k and 100k rows, 1 and 8 connections; about two minutes (the default)
  --full             every mix, 10k, 100k, 1M and 3M rows, 1, 8 and 64 connections
  --graphile         only the comparison with graphile-worker; needs node and npm
  --mix NAME         only this mix (may be repeated): ";

impl Options {
    /// Reads the command line; `None` when it asked for help, which has then been given.
    pub(crate) fn read() -> Result<Option<Self>, lexopt::Error> {
        use lexopt::prelude::{Long, ValueExt as _};

        let (mut mixes, mut depths, mut connections) = (Vec::new(), Vec::new(), Vec::new());
        let (mut full, mut graphile) = (false, false);
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("small") => full = false,
                Long("full") => full = true,
                Long("graphile") => graphile = true,
                Long("mix") => {
                    let name = arguments.value()?.string()?;
                    let mix = Mix::ALL.into_iter().find(|mix| mix.name() == name);
                    mixes.push(mix.ok_or_else(|| format!("there is no mix {name:?}"))?);
                }
                Long("depth") => depths.push(arguments.value()?.parse()?),
                Long("connections") => connections.push(arguments.value()?.parse()?),
                // Cargo says what it runs us as.
                Long("bench") => {}
                Long("help") => {
                    println!("{HELP}{}", Mix::ALL.map(Mix::name).join(", "));
                    println!("  --depth N          only this depth (may be repeated)");
                    println!("  --connections N    only so many (may be repeated)");
                    return Ok(None);
                }
                other => return Err(other.unexpected()),
            }
        }
        let or =
            |depths: Vec<i64>, default: &[i64]| if depths.is_empty() { default.to_vec() } else { depths };
        Ok(Some(Self {
            mixes: match (mixes.is_empty(), full) {
                (false, _) => mixes,
                (true, true) => Mix::ALL.to_vec(),
                (true, false) => Mix::SMALL.to_vec(),
            },
            depths: or(
                depths,
                if full { &[10_000, 100_000, 1_000_000, 3_000_000] } else { &[10_000, 100_000] },
            ),
            connections: match (connections.is_empty(), full) {
                (false, _) => connections,
                (true, true) => vec![1, 8, 64],
                (true, false) => vec![1, 8],
            },
            rounds: if full { 5 } else { 2 },
            claims: if full { 400 } else { 80 },
            graphile,
            bulk: if full { 100_000 } else { 10_000 },
        }))
    }
}

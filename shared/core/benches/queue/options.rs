//! What to run.

use crate::mix::Mix;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// The mixes to load.
    pub(crate) mixes: Vec<Mix>,
    /// How many rows are in the queue.
    pub(crate) depths: Vec<i64>,
    /// How many claim at once; empty: as many as each mix is measured with.
    connections: Vec<usize>,
    /// How often floor and operation take turns in one cell of the table.
    pub(crate) rounds: usize,
    /// Claims of one turn, all connections together.
    pub(crate) claims: usize,
    /// Rows of the parts on enqueueing and reaping.
    pub(crate) bulk: i64,
    /// Whether to measure everything that README and the goals state.
    pub(crate) full: bool,
    /// Whether to compare with graphile-worker, and nothing else.
    pub(crate) only_graphile: bool,
}

const HELP: &str = "\
cargo bench --workspace --bench queue -- [options]
  --small            some mixes, 10k and 100k rows, 1 and 8 connections; about two minutes (the default)
  --full             every mix, 10k, 100k, 1M and 3M rows, up to 64 connections, and the comparison with graphile-worker;
                     prints README's tables and writes its plot
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
            connections,
            rounds: if full { 5 } else { 2 },
            claims: if full { 400 } else { 80 },
            full,
            only_graphile: graphile,
            bulk: if full { 100_000 } else { 10_000 },
        }))
    }

    /// Numbers of connections that a mix is measured with. No goal or table names more than one for a mix in which
    /// claims do not contend for rows.
    pub(crate) fn connections(&self, mix: Mix) -> &[usize] {
        match (self.connections.as_slice(), self.full) {
            ([], true) if mix == Mix::AllEligible || mix.restocks() => &[1, 8, 64],
            ([], false) if mix == Mix::AllEligible || mix.restocks() => &[1, 8],
            ([], _) => &[1],
            (asked, _) => asked,
        }
    }
}

//! The command line of `cargo local`.

use std::ffi::OsString;
use std::time::Duration;

use lexopt::prelude::*;

use crate::sandbox::SandboxOptions;
use crate::stack::Options;
use crate::storm;
use crate::verify::EvidenceOptions;

/// Printed for `--help`.
pub const HELP: &str = "\
Runs the complete service on this machine: PostgreSQL, the function binaries, and a local API Gateway
on 127.0.0.1.

  cargo local [OPTIONS]              serve until Ctrl-C
  cargo local demo [OPTIONS]         run one runner through the whole cycle, check the rows, and exit
  cargo local sandbox [--seed N] [OPTIONS] [-- RUNNER…]
                                     judge a runner while requests and answers get lost; in RUNNER,
                                     `{api}` and `{key}` are filled in
  cargo local cold-start [--rounds N]
                                     measure each function from process start to first response [30]
  cargo local claim-depth            measure claims over HTTP with 10,000 and with 1,000,000 rows queued
  cargo local storm [--seed N] [--jobs N] [--runners N] [--minutes M]
                                     process a queue under faults, then check that nothing was lost;
                                     at most M minutes of faults              [1, 10000, 64, 60]
  cargo local verify-evidence --signing-keys FILE [OPTIONS]
                                     verify every submission of the database again
  cargo local verify-audit [--head POSITION:SHA256] [OPTIONS]
                                     verify the chain of the database's audit log
  cargo local stop-test-database     stop the PostgreSQL server that `cargo test` started

  --port N            port of the API; 0 chooses a free one                 [9000; demo: 0]
  --database-url URL  use this PostgreSQL server instead of a private one   [$DATABASE_URL]
  --instances N       run at most N processes of each function              [1]
  --lease-ttl S       expire a claim after S seconds without a heartbeat    [300]
  --reap-every S      run the reaper every S seconds                        [60]
  --trusted-root FILE Sigstore trusted root for keyless bundles             [the embedded one]
  --release           build the functions with the release profile

Admin routes require an AWS signature with access key `local`, secret `local-secret`, region us-east-1
and service execute-api:

  curl --aws-sigv4 aws:amz:us-east-1:execute-api --user local:local-secret \\
       http://127.0.0.1:9000/api/admin/keys
";

/// A parsed command.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve until Ctrl-C.
    Serve(Options),
    /// Run the demo.
    Demo(Options),
    /// Judge a runner.
    Sandbox(SandboxOptions),
    /// Measure cold starts.
    ColdStart {
        /// Cold starts per function, at least 1.
        rounds: u32,
    },
    /// Measure claims at two queue depths.
    ClaimDepth,
    /// Process a queue under faults, and check the invariants.
    Storm(storm::Options),
    /// Verify the stored submissions.
    VerifyEvidence(EvidenceOptions),
    /// Verify the audit log's chain.
    VerifyAudit {
        /// The database.
        database_url: Option<String>,
        /// `POSITION:SHA256`, as noted earlier.
        head: Option<String>,
    },
    /// Stop the cluster that the tests share.
    StopTestDatabase,
    /// Print [`HELP`].
    Help,
}

/// Parses the arguments after the program's name. `database_url` comes from the environment.
///
/// # Errors
/// If an argument is unknown or invalid; the text names it.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    database_url: Option<String>,
) -> Result<Command, lexopt::Error> {
    let mut options = Options { database_url, ..Options::default() };
    let (mut name, mut port, mut rounds, mut seed) = (None, None, None, None);
    let mut runner = Vec::new();
    let (mut signing_keys, mut head) = (None, None);
    let (mut storm, mut is_storm) = (storm::Options::default(), false);
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("port") => port = Some(parser.value()?.parse()?),
            Long("database-url") => options.database_url = Some(parser.value()?.string()?),
            Long("instances") => options.instances = at_least_one(&mut parser)? as usize,
            Long("lease-ttl") => options.lease_ttl_s = at_least_one(&mut parser)?,
            Long("reap-every") => {
                options.reap_every = Duration::from_secs(at_least_one(&mut parser)?.into());
            }
            Long("trusted-root") => options.trusted_root = Some(parser.value()?.into()),
            Long("rounds") => rounds = Some(at_least_one(&mut parser)?),
            Long("seed") => seed = Some(parser.value()?.parse()?),
            Long("signing-keys") => signing_keys = Some(parser.value()?.into()),
            Long("head") => head = Some(parser.value()?.string()?),
            Long("jobs") => (storm.jobs, is_storm) = (at_least_one(&mut parser)? as usize, true),
            Long("runners") => (storm.runners, is_storm) = (at_least_one(&mut parser)? as usize, true),
            Long("minutes") => (storm.minutes, is_storm) = (at_least_one(&mut parser)?, true),
            Long("release") => options.release = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(value) if name.is_none() => name = Some(value.string()?),
            Value(word) if name.as_deref() == Some("sandbox") => runner.push(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    if seed.is_some() && !matches!(name.as_deref(), Some("sandbox" | "storm")) {
        return Err("--seed is valid only for sandbox and storm".into());
    }
    if rounds.is_some() && name.as_deref() != Some("cold-start") {
        return Err("--rounds is valid only for cold-start".into());
    }
    if signing_keys.is_some() && name.as_deref() != Some("verify-evidence") {
        return Err("--signing-keys is valid only for verify-evidence".into());
    }
    if head.is_some() && name.as_deref() != Some("verify-audit") {
        return Err("--head is valid only for verify-audit".into());
    }
    if is_storm && name.as_deref() != Some("storm") {
        return Err("--jobs, --runners and --minutes are valid only for storm".into());
    }
    match name.as_deref() {
        None => Ok(Command::Serve(Options { port: port.unwrap_or(options.port), ..options })),
        Some("demo") => Ok(Command::Demo(Options { port: port.unwrap_or(0), ..options })),
        Some("sandbox") => {
            let stack = Options { port: port.unwrap_or(options.port), ..options };
            Ok(Command::Sandbox(SandboxOptions { stack, seed: seed.unwrap_or(1), runner }))
        }
        Some("cold-start") => Ok(Command::ColdStart { rounds: rounds.unwrap_or(30) }),
        Some("claim-depth") => Ok(Command::ClaimDepth),
        Some("storm") => {
            let seed = seed.unwrap_or(storm.seed);
            Ok(Command::Storm(storm::Options { seed, release: options.release, ..storm }))
        }
        Some("verify-evidence") => Ok(Command::VerifyEvidence(EvidenceOptions {
            database_url: options.database_url,
            signing_keys,
            trusted_root: options.trusted_root,
        })),
        Some("verify-audit") => Ok(Command::VerifyAudit { database_url: options.database_url, head }),
        Some("stop-test-database") => Ok(Command::StopTestDatabase),
        Some(other) => Err(format!("unknown command {other:?}").into()),
    }
}

fn at_least_one(parser: &mut lexopt::Parser) -> Result<u32, lexopt::Error> {
    match parser.value()?.parse()? {
        0 => Err("must be at least 1".into()),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, String> {
        let arguments = line.split_whitespace().map(OsString::from);
        parse(arguments, Some("postgres://environment".into())).map_err(|error| error.to_string())
    }

    fn defaults() -> Options {
        Options { database_url: Some("postgres://environment".into()), ..Options::default() }
    }

    #[test]
    fn every_option_is_parsed() {
        assert_eq!(parse_line(""), Ok(Command::Serve(defaults())));
        let line = "--port 0 --database-url postgres://other --instances 4 --lease-ttl 2 --reap-every=1 \
                    --trusted-root root.json --release";
        let options = Options {
            port: 0,
            database_url: Some("postgres://other".into()),
            instances: 4,
            lease_ttl_s: 2,
            reap_every: Duration::from_secs(1),
            trusted_root: Some("root.json".into()),
            release: true,
            ..Options::default()
        };
        assert_eq!(parse_line(line), Ok(Command::Serve(options)));
    }

    #[test]
    fn the_demo_uses_a_free_port_by_default() {
        assert_eq!(parse_line("demo"), Ok(Command::Demo(Options { port: 0, ..defaults() })));
        assert_eq!(parse_line("demo --port 9001"), Ok(Command::Demo(Options { port: 9001, ..defaults() })));
    }

    #[test]
    fn cold_start_has_30_rounds_by_default() {
        assert_eq!(parse_line("cold-start"), Ok(Command::ColdStart { rounds: 30 }));
        assert_eq!(parse_line("cold-start --rounds 5"), Ok(Command::ColdStart { rounds: 5 }));
        assert!(parse_line("demo --rounds 5").unwrap_err().contains("--rounds"));
    }

    #[test]
    fn the_sandbox_takes_a_seed_and_a_runner() {
        let stack = Options { port: 0, ..defaults() };
        let runner = ["r", "--api", "{api}"].map(str::to_owned).to_vec();
        let expected = Command::Sandbox(SandboxOptions { stack, seed: 7, runner });
        assert_eq!(parse_line("sandbox --port 0 --seed 7 -- r --api {api}"), Ok(expected));
        assert!(parse_line("demo --seed 7").unwrap_err().contains("--seed"));
    }

    #[test]
    fn a_storm_has_options_of_its_own() {
        let options = storm::Options { seed: 7, jobs: 500, runners: 8, minutes: 2, release: false };
        let line = "storm --seed 7 --jobs 500 --runners 8 --minutes 2";
        assert_eq!(parse_line(line), Ok(Command::Storm(options)));
        assert!(parse_line("demo --jobs 5").unwrap_err().contains("--jobs"));
    }

    #[test]
    fn errors_name_the_invalid_argument() {
        assert!(parse_line("--prot 1").unwrap_err().contains("--prot"));
        assert!(parse_line("serve").unwrap_err().contains("serve"));
        assert!(parse_line("--lease-ttl 0").is_err());
        assert!(parse_line("--port 70000").is_err());
    }
}

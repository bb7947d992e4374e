//! `cargo local`: runs the complete service locally. See `--help`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use bakeoff_local::command_line::{self, Command, HELP};
use bakeoff_local::error::{Error, Result};
use bakeoff_local::measure::{claim_depth, cold_start};
use bakeoff_local::stack::{Options, Stack};
use bakeoff_local::{demo, postgres, sandbox, storm, verify};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let command = match command_line::parse(std::env::args_os().skip(1), std::env::var("DATABASE_URL").ok()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("{error}\nFor usage, run: cargo local --help");
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|source| Error::Io { doing: "start the async runtime".into(), source })?;
    let result = runtime.block_on(async {
        match command {
            Command::Help => {
                print!("{HELP}");
                Ok(())
            }
            Command::ColdStart { rounds } => run_to_completion(cold_start::measure(rounds)).await,
            Command::ClaimDepth => run_to_completion(claim_depth::measure()).await,
            Command::Storm(options) => run_to_completion(storm::run(options)).await,
            Command::VerifyEvidence(options) => run_to_completion(verify::evidence(options)).await,
            Command::VerifyAudit { database_url, head } => {
                run_to_completion(verify::audit(database_url, head)).await
            }
            Command::StopTestDatabase => postgres::stop_shared_test_cluster(),
            Command::Serve(options) => run_until_signal(serve(options)).await.unwrap_or(Ok(())),
            Command::Demo(options) => run_to_completion(demo::run(options)).await,
            Command::Sandbox(options) => run_to_completion(sandbox::run(&options)).await,
        }
    });
    // Does not wait longer for a build in progress. Everything else stops when its owner is dropped.
    runtime.shutdown_timeout(Duration::from_secs(10));
    result
}

async fn serve(options: Options) -> Result<()> {
    let stack = Stack::start(&options).await?;
    println!("ready {}\ndatabase {}", stack.url, stack.database_url);
    // A program that waits for these lines may read them through a pipe, which is block-buffered.
    let _ = std::io::stdout().flush();
    eprintln!("The functions write their logs to {}. Press Ctrl-C to stop.", stack.folder.display());
    std::future::pending().await
}

/// Runs work that must complete: a signal that stops it is an error.
async fn run_to_completion(work: impl Future<Output = Result<()>>) -> Result<()> {
    run_until_signal(work)
        .await
        .unwrap_or_else(|| Err(Error::Failed("stopped by a signal before it completed".into())))
}

/// Runs work until it completes, or returns `None` on SIGINT, SIGTERM or SIGHUP. Dropping the work stops
/// everything it started.
async fn run_until_signal(work: impl Future<Output = Result<()>>) -> Option<Result<()>> {
    tokio::select! {
        result = work => Some(result),
        () = wait_for_signal(SignalKind::interrupt()) => None,
        () = wait_for_signal(SignalKind::terminate()) => None,
        () = wait_for_signal(SignalKind::hangup()) => None,
    }
}

async fn wait_for_signal(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        // Without a handler, the signal's default action ends the process.
        Err(_) => std::future::pending().await,
    }
}

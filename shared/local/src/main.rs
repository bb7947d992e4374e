//! `cargo local`: one command to run it all. See `--help`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use bakeoff_local::command_line::{self, Command, HELP};
use bakeoff_local::error::{Error, Result};
use bakeoff_local::measure::{claim_depth, cold_start};
use bakeoff_local::stack::{Options, Stack};
use bakeoff_local::{demo, postgres};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let command = match command_line::parse(std::env::args_os().skip(1), std::env::var("DATABASE_URL").ok()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("{error}\nWhat can be typed: cargo local --help");
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
            Command::ColdStart { rounds } => to_its_end(cold_start::measure(rounds)).await,
            Command::ClaimDepth => to_its_end(claim_depth::measure()).await,
            Command::StopTestDatabase => postgres::stop_shared_test_cluster(),
            Command::Serve(options) => until_stopped(serve(options)).await.unwrap_or(Ok(())),
            Command::Demo(options) => to_its_end(demo::play(options)).await,
        }
    });
    // A build that is still under way must not keep us; everything else stops with its owner.
    runtime.shutdown_timeout(Duration::from_secs(10));
    result
}

async fn serve(options: Options) -> Result<()> {
    let stack = Stack::start(&options).await?;
    println!("ready {}\ndatabase {}", stack.url, stack.database_url);
    // Whoever waits for these lines may read them through a pipe.
    let _ = std::io::stdout().flush();
    eprintln!("The functions' logs are in {}. Ctrl-C stops everything.", stack.folder.display());
    std::future::pending().await
}

/// Runs what fails when it is stopped.
async fn to_its_end(work: impl Future<Output = Result<()>>) -> Result<()> {
    until_stopped(work).await.unwrap_or_else(|| Err(Error::Failed("stopped before its end".into())))
}

/// Runs until done, or, with nothing to return, until Ctrl-C, SIGTERM or the terminal's end; what was
/// started is stopped by being dropped.
async fn until_stopped(work: impl Future<Output = Result<()>>) -> Option<Result<()>> {
    tokio::select! {
        result = work => Some(result),
        () = caught(SignalKind::interrupt()) => None,
        () = caught(SignalKind::terminate()) => None,
        () = caught(SignalKind::hangup()) => None,
    }
}

async fn caught(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        // Where it cannot be caught it ends us by itself.
        Err(_) => std::future::pending().await,
    }
}

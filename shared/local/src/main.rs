//! `cargo local`: one command to run it all. See `--help`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use bakeoff_local::command_line::{self, Command, HELP};
use bakeoff_local::error::{Error, Result};
use bakeoff_local::stack::{Options, Stack};
use bakeoff_local::{demo, postgres};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let command = match command_line::parse(std::env::args_os().skip(1), std::env::var("DATABASE_URL").ok()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
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
            Command::StopTestDatabase => postgres::stop_shared_test_cluster(),
            Command::Serve(options) => until_stopped(serve(options)).await,
            Command::Demo(options) => until_stopped(demo::play(options)).await,
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

/// Runs until done, or until Ctrl-C, SIGTERM or the terminal's end; what was started is stopped by
/// being dropped.
async fn until_stopped(work: impl Future<Output = Result<()>>) -> Result<()> {
    let catch = |kind| signal(kind).map_err(|source| Error::Io { doing: "catch signals".into(), source });
    let (mut interrupt, mut terminate, mut hang_up) =
        (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?, catch(SignalKind::hangup())?);
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}

//! `bakeoff-runner`: see `--help`.

use std::process::ExitCode;

use bakeoff_runner::command_line::{Command, CommandLine, KeyCommand};
use bakeoff_runner::error::Result;
use bakeoff_runner::key::{self, RunnerKey};
use bakeoff_runner::{enqueue, work};
use clap::Parser as _;

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bakeoff-runner: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Key(KeyCommand::New { out }) => {
            let path = out.map_or_else(key::default_path, Ok)?;
            let key = RunnerKey::create(&path)?;
            eprintln!("The key is in {}. Ask an admin to allow its public half:", path.display());
            println!("{}", key.public_base64());
            Ok(())
        }
        Command::Key(KeyCommand::Show { key }) => {
            println!("{}", RunnerKey::read(&key.map_or_else(key::default_path, Ok)?)?.public_base64());
            Ok(())
        }
        Command::Work(options) => work::work(&options),
        Command::Enqueue(options) => enqueue::enqueue(&options),
    }
}

//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Printed below the program's own `--help`.
const FIRST_DAY: &str = "\
A machine's first day:
  bakeoff-runner key new
      prints the public key, which an admin allows
  bakeoff-runner work --api URL --harness DIR --machine FILE
      works until Ctrl-C; with --dry-run it only shows what it would do

Exit status: 0 after its work, 1 on an error, 2 for a wrong command line, 3 if the key is not allowed.";

/// Printed below `enqueue --help`.
const CREDENTIALS: &str = "\
The request is signed with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION.
The run's id is printed on standard output.";

/// Runs benchmark jobs of a bakeoff queue on this machine.
#[derive(Debug, Parser)]
#[command(name = "bakeoff-runner", version, max_term_width = 100, after_help = FIRST_DAY)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make or show this machine's key.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Claim jobs, run them, and submit their signed results.
    Work(Box<WorkOptions>),
    /// Put a run into the queue (for admins: signs with AWS credentials).
    #[command(after_help = CREDENTIALS)]
    Enqueue(Box<EnqueueOptions>),
}

/// `key …`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a private key and print its public half, which an admin allows.
    New {
        /// Where to write it [default: ~/.config/bakeoff/runner.pem].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the public half of the key.
    Show {
        /// The private key [default: ~/.config/bakeoff/runner.pem].
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

/// `work …`
#[derive(Debug, Clone, Args)]
pub struct WorkOptions {
    /// The queue's address, such as `https://queue.example.org`.
    #[arg(long, value_name = "URL")]
    pub api: String,
    /// The harness's checkout, whose `.venv` is used if there is one. Needed unless --exec says what to run.
    #[arg(long, value_name = "DIR", required_unless_present = "exec")]
    pub harness: Option<PathBuf>,
    /// Run this program instead of the harness. `{config}` becomes the file of the job's config, `{result}` the file to
    /// write the result to.
    #[arg(long, value_name = "CMD")]
    pub exec: Option<String>,
    /// The Python that runs the harness [default: DIR/.venv/bin/python, else python3].
    #[arg(long, value_name = "PROGRAM", conflicts_with = "exec")]
    pub python: Option<PathBuf>,
    /// The private key [default: ~/.config/bakeoff/runner.pem].
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The name to register under [default: the key's thumbprint].
    #[arg(long, value_name = "ID")]
    pub runner_id: Option<String>,
    /// GPU memory to offer [default: found by nvidia-smi, rocm-smi or /sys].
    #[arg(long, value_name = "GB")]
    pub vram: Option<f64>,
    /// Quantizations to offer, separated by commas [default: all that llama.cpp serves].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub quantizations: Vec<String>,
    /// A label of this machine, which a job can ask for; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// This machine's stanzas of the config (YAML): server, hardware, cost, output.
    #[arg(long, value_name = "FILE")]
    pub machine: Option<PathBuf>,
    /// Where jobs and results are kept [default: ~/.local/state/bakeoff/work].
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Do one job and stop; stop at once if there is none.
    #[arg(long)]
    pub once: bool,
    /// Take no more jobs after this many, or after a time such as 90m or 8h.
    #[arg(long, value_name = "N|TIME", value_parser = drain)]
    pub drain_after: Option<Drain>,
    /// Seconds that a stopped harness has to clean up.
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    pub grace: Duration,
    /// Show what would be registered and run, and send nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Report as JSON lines on standard output.
    #[arg(long)]
    pub json: bool,
}

/// When to take no more jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// After this many.
    Jobs(u32),
    /// After this time.
    Time(Duration),
}

/// `enqueue …`
#[derive(Debug, Args)]
pub struct EnqueueOptions {
    /// The harness's config.yaml.
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// The queue's address, such as `https://queue.example.org`.
    #[arg(long, value_name = "URL")]
    pub api: String,
    /// A model of the config and its descriptor: ID=DESCRIPTOR.json. Once for each model.
    #[arg(long = "model", value_name = "ID=FILE", value_parser = model, required = true)]
    pub models: Vec<(String, PathBuf)>,
    /// The harness's checkout: makes the tasks, and names the commit of the prompts.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub harness: PathBuf,
    /// The Python that runs the harness [default: DIR/.venv/bin/python, else python3].
    #[arg(long, value_name = "PROGRAM")]
    pub python: Option<PathBuf>,
    /// The tasks (JSON lines), instead of the harness's dry run.
    #[arg(long, value_name = "FILE")]
    pub tasks: Option<PathBuf>,
    /// The file of each prompt within the checkout; `{id}` is the prompt's id.
    #[arg(long, value_name = "PATH", default_value = "prompts/{id}.md")]
    pub prompt_path: String,
    /// Who publishes the run [default: the user's name].
    #[arg(long, value_name = "ID")]
    pub publisher: Option<String>,
    /// The run's id: with one of your own the command may be repeated after a lost answer.
    #[arg(long, value_name = "UUID")]
    pub run_id: Option<uuid::Uuid>,
    /// The run's place in the queue: a lower number comes first [default: 100].
    #[arg(long, value_name = "N")]
    pub priority: Option<i32>,
    /// How often a failed attempt is tried again [default: 5].
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<i32>,
    /// A label that the runner must have, or `runner_id=ID`; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// One job for each prompt instead of one for the run.
    #[arg(long)]
    pub split_by_prompt: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn model(text: &str) -> Result<(String, PathBuf), String> {
    let (id, file) = text.split_once('=').ok_or("a model is ID=DESCRIPTOR.json")?;
    Ok((id.to_owned(), file.into()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn drain(text: &str) -> Result<Drain, String> {
    let wrong = || format!("{text:?} is neither a number of jobs nor a time such as 90m or 8h");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return text.parse().map(Drain::Jobs).map_err(|_| wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Drain::Time(Duration::from_secs(number.saturating_mul(unit))))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<CommandLine, String> {
        CommandLine::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    #[test]
    fn clap_finds_no_contradiction() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn work_takes_lists_labels_and_limits() {
        let line = "bakeoff-runner work --api http://127.0.0.1:9000 --harness h --quantizations q4_k_m,q8_0 \
                    --label site=attic --label rack=2 --drain-after 8h --grace 2.5";
        let Command::Work(options) = parse(line).unwrap().command else { panic!("not work") };
        assert_eq!(options.quantizations, ["q4_k_m", "q8_0"]);
        assert_eq!(options.labels[1], ("rack".to_owned(), "2".to_owned()));
        assert_eq!(options.drain_after, Some(Drain::Time(Duration::from_secs(8 * 3600))));
        assert_eq!(options.grace, Duration::from_millis(2500));
    }

    #[test]
    fn a_drain_is_jobs_or_a_time() {
        assert_eq!(drain("3"), Ok(Drain::Jobs(3)));
        assert_eq!(drain("90m"), Ok(Drain::Time(Duration::from_secs(5400))));
        assert!(drain("3d").is_err() && drain("").is_err() && drain("h").is_err());
    }

    #[test]
    fn work_needs_something_to_run() {
        assert!(parse("bakeoff-runner work --api http://x").unwrap_err().contains("--harness"));
        assert!(parse("bakeoff-runner work --api http://x --exec a").is_ok());
    }
}

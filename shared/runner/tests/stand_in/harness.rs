//! Plays the benchmark harness: takes its options, prints its lines, writes its result, and fails as it fails.
//!
//! What it does stands in the job's own config, whose unknown stanzas the runner lets through:
//!
//! ```text
//! stand_in:
//!   do: finish | crash | oom | load_failure | hang | ignore_sigint | partial
//!   hold: FILE      finish once this file exists
//! sandbox:          as `cargo local sandbox` has it
//!   seconds: 3
//!   fail: true
//! ```
//!
//! With `--write FILE` it plays a benchmark of somebody's own, which writes an unsigned result there.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use bakeoff_runner::key::RunnerKey;
use bakeoff_runner::work::seal;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Traceback (most recent call last):\n{error}");
            ExitCode::FAILURE
        }
    }
}

/// The options of `python -m bench.runner`.
struct Options {
    config: PathBuf,
    dry_run: bool,
    resume_from: Option<PathBuf>,
    write: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let mut options = Options { config: PathBuf::new(), dry_run: false, resume_from: None, write: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or("an option without its value");
        match argument.as_str() {
            "-m" if value()? == "bench.runner" => {}
            "--config" => options.config = value()?.into(),
            "--resume-from" => options.resume_from = Some(value()?.into()),
            "--write" => options.write = Some(value()?.into()),
            "--dry-run" => options.dry_run = true,
            other => return Err(format!("unrecognized argument: {other}").into()),
        }
    }
    Ok(options)
}

fn run() -> Result<ExitCode> {
    let options = options()?;
    let config = bakeoff_runner::work::config::read_yaml(&std::fs::read_to_string(&options.config)?)?;
    if config["models"].as_array().is_none_or(Vec::is_empty) {
        eprintln!("[config] models must not be empty");
        return Ok(ExitCode::FAILURE);
    }
    let tasks = write_tasks(&config)?;
    if options.dry_run {
        eprintln!("[dry-run] ok");
        return Ok(ExitCode::SUCCESS);
    }
    note_start(&config, options.resume_from.is_some())?;
    // A model server, in a process group of its own: a signal to ours does not reach it.
    let mut server = Command::new("sleep").arg("600").process_group(0).spawn()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(work(&options, &config, &tasks))?;
    stop(&mut server)?;
    Ok(code)
}

/// As the harness does, also on a dry run.
fn write_tasks(config: &Value) -> Result<Vec<Value>> {
    let count = config["dataset"]["n"].as_u64().unwrap_or(2);
    let tasks: Vec<Value> = (0..count).map(|number| json!({ "id": format!("t{number}") })).collect();
    std::fs::create_dir_all("datasets")?;
    let path = format!("datasets/tasks-{}.jsonl", std::process::id());
    let mut file = File::create(&path)?;
    for task in &tasks {
        writeln!(file, "{task}")?;
    }
    eprintln!("[dataset] {} tasks -> {path}", tasks.len());
    Ok(tasks)
}

/// One line for each start, for tests that count them.
fn note_start(config: &Value, resumed: bool) -> Result<()> {
    let mut file = File::options().create(true).append(true).open("starts")?;
    let run = config["run"]["name"].as_str().unwrap_or_default();
    Ok(writeln!(file, "{run} {}", if resumed { "resumed" } else { "fresh" })?)
}

async fn work(options: &Options, config: &Value, tasks: &[Value]) -> Result<ExitCode> {
    let fails = config["sandbox"]["fail"] == true;
    let what = config["stand_in"]["do"].as_str().unwrap_or(if fails { "crash" } else { "finish" });
    let mut interrupted = signal(SignalKind::interrupt())?;
    for model in ids(&config["models"]) {
        eprintln!("[phase] {model}");
        match what {
            "crash" => return Err("ZeroDivisionError: division by zero".into()),
            "oom" => return Err("RuntimeError: CUDA error: out of memory".into()),
            "load_failure" => return Err(format!("error loading model: {model}.gguf").into()),
            _ => {}
        }
        for prompt in ids(&config["prompts"]) {
            for task in tasks {
                eprintln!("[run] {model} {prompt} {} 0.01s", task["id"].as_str().unwrap_or_default());
            }
        }
    }
    let interrupted_as_told = async {
        interrupted.recv().await;
        if what == "ignore_sigint" {
            std::future::pending::<()>().await;
        }
    };
    if what == "partial" && options.resume_from.is_none() {
        write_result(config, tasks, &tasks[..1], options)?;
    }
    tokio::select! {
        () = released(config, what, options) => {}
        () = interrupted_as_told => {
            eprintln!("KeyboardInterrupt");
            return Ok(ExitCode::from(130));
        }
    }
    write_result(config, tasks, tasks, options)?;
    Ok(ExitCode::SUCCESS)
}

/// Waits until the test lets it finish.
async fn released(config: &Value, what: &str, options: &Options) {
    let hangs =
        matches!(what, "hang" | "ignore_sigint") || (what == "partial" && options.resume_from.is_none());
    if hangs {
        std::future::pending::<()>().await;
    }
    if let Some(seconds) = config["sandbox"]["seconds"].as_u64() {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    if let Some(hold) = config["stand_in"]["hold"].as_str() {
        while !Path::new(hold).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Writes the signed envelope, with cells for `done` of the tasks.
fn write_result(config: &Value, tasks: &[Value], done: &[Value], options: &Options) -> Result<()> {
    let mut records = Vec::new();
    for task in done {
        for prompt in ids(&config["prompts"]) {
            for model in ids(&config["models"]) {
                records.push(json!({
                    "task_id": task["id"], "prompt_id": prompt, "model_id": model, "tier": "main",
                    "quality_heuristic": 0.5, "tokens_per_second": 50.0, "flops_per_token_theoretical": 2e10,
                }));
            }
        }
    }
    let mut result = json!({
        "run_id": config["run"]["name"], "timestamp": "20260801-120000", "config": config,
        "run_status": if done.len() == tasks.len() { "complete" } else { "incomplete" },
        "provenance": { "config_hash": "c0ffee", "seed": 0, "git": { "sha": "ad48ac3" } },
        "model_metadata": config["models"], "tasks": tasks, "records": records, "hardware": {},
    });
    if let Some(prior) = &options.resume_from {
        // What the harness demands of a prior result: these two, at the top.
        let prior: Value = serde_json::from_slice(&std::fs::read(prior)?)?;
        if !prior["tasks"].is_array() || !prior["records"].is_array() {
            return Err("prior result missing required field".into());
        }
        result["resumed_from"] = prior["run_id"].clone();
    }
    if let Some(path) = &options.write {
        return Ok(std::fs::write(path, result.to_string())?);
    }
    let signing = &config["signing"];
    let key = RunnerKey::read(Path::new(signing["key_path"].as_str().unwrap_or_default()))?;
    let runner_id = signing["runner_id"].as_str().unwrap_or_default();
    let envelope = seal::envelope(result.to_string().as_bytes(), &key, runner_id)?;
    std::fs::create_dir_all("results")?;
    let path = format!("results/run-{}.json", std::process::id());
    std::fs::write(&path, envelope)?;
    eprintln!("[out] {path}");
    Ok(())
}

fn stop(server: &mut Child) -> Result<()> {
    server.kill()?;
    server.wait()?;
    Ok(())
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|item| item["id"].as_str()).collect()
}

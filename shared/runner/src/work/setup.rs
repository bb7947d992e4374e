//! From the options to a runner that is ready to work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, json};

use super::Worker;
use super::config::MachineStanzas;
use super::journal::WorkFolder;
use super::program::Program;
use crate::api::{Capabilities, Client, Registration, RunnerApi};
use crate::command_line::WorkOptions;
use crate::error::{Error, Result, While as _};
use crate::key::{self, RunnerKey};
use crate::machine;
use crate::report::Report;
use crate::stop::Stop;

/// Everything that is decided before the first request.
pub(super) struct Prepared {
    client: Client,
    key: RunnerKey,
    key_path: PathBuf,
    registration: Registration,
    program: Program,
    machine: MachineStanzas,
}

/// Reads the key and the machine file, and looks at the machine.
///
/// # Errors
/// When one of them is missing or wrong; the text says what to do.
pub(super) fn prepare(options: &WorkOptions, report: &Report) -> Result<Prepared> {
    let key_path = options.key.clone().map_or_else(key::default_path, Ok)?;
    let key = RunnerKey::read(&key_path)?;
    let key_path = key_path.canonicalize().while_(|| format!("find {}", key_path.display()))?;
    let program = Program::of_options(options)?;
    let machine = machine_stanzas(options)?;
    let (vram_gb, gpu) = vram(options, report);
    let labels = options.labels.iter().map(|(name, value)| (name.clone(), json!(value)));
    let quantizations = match options.quantizations.is_empty() {
        true => machine::QUANTIZATIONS.map(str::to_owned).to_vec(),
        false => options.quantizations.iter().map(|name| name.trim().to_lowercase()).collect(),
    };
    let registration = Registration {
        public_key: key.public_base64(),
        runner_id: options.runner_id.clone(),
        hostname: machine::host_name(),
        capabilities: Capabilities { vram_gb, quantizations, labels: labels.collect::<Map<_, _>>() },
        process_id: std::process::id(),
        effective_user: machine::user_name(),
        description: format!("bakeoff-runner {}, {gpu}", env!("CARGO_PKG_VERSION")),
    };
    let client = Client::new(&options.api).map_err(|why| Error::Failed(format!("--api: {why}")))?;
    Ok(Prepared { client, key, key_path, registration, program, machine })
}

fn machine_stanzas(options: &WorkOptions) -> Result<MachineStanzas> {
    let Some(path) = &options.machine else { return Ok(MachineStanzas::default()) };
    let text = std::fs::read_to_string(path).while_(|| format!("read {}", path.display()))?;
    MachineStanzas::parse(&text).map_err(|why| Error::Failed(format!("{}: {why}", path.display())))
}

/// The GPU memory to offer, and what is known of the GPU.
fn vram(options: &WorkOptions, report: &Report) -> (f64, String) {
    if let Some(vram_gb) = options.vram {
        return (vram_gb, format!("{vram_gb} GB as given"));
    }
    let Some(gpu) = machine::find_gpu() else {
        let text = "found no GPU: only jobs that need no GPU memory will come. --vram GB sets it by hand";
        report.step("gpu", text, json!({ "vram_gb": 0 }));
        return (0.0, "no GPU found".into());
    };
    let name = gpu.name.as_deref().unwrap_or("a GPU");
    let text = format!("found {name} with {} GB ({})", gpu.vram_gb, gpu.found_by);
    report.step("gpu", &text, json!({ "vram_gb": gpu.vram_gb, "gpu": name, "found_by": gpu.found_by }));
    (gpu.vram_gb, format!("{name}, {} GB", gpu.vram_gb))
}

impl Prepared {
    /// `--dry-run`: says what would be asked for.
    pub(super) fn describe(&self, options: &WorkOptions, report: &Report) -> Result<()> {
        let registration = serde_json::to_string_pretty(&self.registration)
            .map_err(|error| Error::Failed(error.to_string()))?;
        let command = self.program.command("CONFIG".as_ref(), "RESULT".as_ref(), None);
        let text = format!(
            "would register at {} with\n{registration}\nwould run {command:?}\nnothing was sent",
            options.api
        );
        report.step("dry_run", &text, json!({ "registration": self.registration }));
        Ok(())
    }

    pub(super) fn into_worker(self, options: &WorkOptions, report: Report, stop: Stop) -> Result<Worker<'_>> {
        let folder = match &options.work {
            Some(folder) => folder.clone(),
            None => key::home_folder("XDG_STATE_HOME", ".local/state")?.join("bakeoff/work"),
        };
        let api = Arc::new(RunnerApi::new(self.client, self.key.clone(), self.registration));
        Ok(Worker {
            options,
            api,
            key: self.key,
            key_path: self.key_path,
            runner_id: options.runner_id.clone().unwrap_or_default(),
            program: self.program,
            machine: self.machine,
            folder: WorkFolder::open(&folder)?,
            report,
            stop,
            began: Instant::now(),
            jobs_done: 0,
            said_idle: false,
            smaller_jobs: None,
        })
    }
}

//! A place to try runners in: the API with faults on demand, and a table of what a good runner does.
//!
//! ```text
//!   runner ──▶ proxy ──▶ local stack
//!              loses requests and answers, answers 503 and 401, is slow, adds unknown fields
//!              writes down what it saw
//! ```
//!
//! Each practice enqueues a job, makes something go wrong, and judges what the runner did. The order of the
//! practices and the number of faults follow from a seed.

mod practices;
pub mod proxy;
mod scene;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use http::StatusCode;
use serde_json::json;
use tokio::process::{Child, Command};

pub use self::practices::{PRACTICES, Practice};
use self::practices::{Turn, next};
use self::proxy::{Changes, Proxy};
use self::scene::{LEASE_TTL_S, Scene};
use crate::client::Api;
use crate::error::{Error, ErrorContext as _, Result};
use crate::postgres::{TemporaryDatabase, connect, write_private};
use crate::stack::{Options, Stack};

/// The DER that precedes the 32 secret bytes in an Ed25519 `PrivateKeyInfo` (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What the command line decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxOptions {
    /// Of the stack behind; its port is the proxy's.
    pub stack: Options,
    /// The order of the practices and the number of faults follow from it.
    pub seed: u64,
    /// The runner to start, `{api}` and `{key}` filled in; empty: it is started by hand.
    pub runner: Vec<String>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What a good runner does.
    pub practice: &'static str,
    /// How it was broken; absent if it held.
    pub broken: Option<String>,
}

/// Brings everything up, tries a runner, and prints the table.
///
/// # Errors
/// When the stack does not come up, or a practice did not hold.
pub async fn run(options: &SandboxOptions) -> Result<()> {
    let table = judge(options).await?;
    println!();
    for Verdict { practice, broken } in &table {
        match broken {
            None => println!("  ok    {practice}"),
            Some(broken) => println!("  FAIL  {practice}\n        {broken}"),
        }
    }
    let held = table.iter().filter(|verdict| verdict.broken.is_none()).count();
    println!("\n{held} of {} held, with --seed {}", table.len(), options.seed);
    match held == table.len() {
        true => Ok(()),
        false => Err(Error::Failed("not every practice held".into())),
    }
}

/// Starts the runner's program, tries it in every practice, and returns the table.
///
/// # Errors
/// When the stack does not come up or the runner cannot be started.
pub async fn judge(options: &SandboxOptions) -> Result<Vec<Verdict>> {
    let mut random = options.seed;
    let practices = order(&mut random);
    let trial = Trial { practices, random, patience: Duration::from_secs(90) };
    judge_in(&options.stack, trial, |api, key| start_program(options, api, key)).await
}

/// What a runner is tried in.
#[derive(Debug)]
pub struct Trial {
    /// In this order.
    pub practices: Vec<&'static Practice>,
    /// The number of faults follows from it.
    pub random: u64,
    /// Longer than a runner may take for anything.
    pub patience: Duration,
}

/// Tries the runner that `start` starts with the API's URL and the file of its key, and that ends when it is
/// dropped.
///
/// # Errors
/// When the stack does not come up or the runner cannot be started.
pub async fn judge_in<R>(
    stack: &Options,
    trial: Trial,
    start: impl FnOnce(&str, &Path) -> Result<R>,
) -> Result<Vec<Verdict>> {
    let mut stack_options = stack.clone();
    let temporary = match stack_options.database_url.take() {
        Some(server) => Some(TemporaryDatabase::create(&server, "sandbox").await?),
        None => None,
    };
    stack_options.database_url = temporary.as_ref().map(|temporary| temporary.url.clone());
    let changes = Changes { unknown_field: true, poll_after_s: Some(2) };
    let mut proxy = Proxy::bind(stack.port, changes).await?;
    stack_options.port = 0;
    stack_options.lease_ttl_s = LEASE_TTL_S;
    stack_options.reap_every = Duration::from_secs(1);
    stack_options.public_url = Some(proxy.url.clone());
    let stack = Stack::start(&stack_options).await?;
    proxy.serve(&stack.url);
    let judged = try_runner(trial, &stack, proxy, start).await;
    let judged = stack.stop_after(judged).await;
    if let Some(temporary) = temporary {
        temporary.drop().await?;
    }
    judged
}

async fn try_runner<R>(
    trial: Trial,
    stack: &Stack,
    proxy: Proxy,
    start: impl FnOnce(&str, &Path) -> Result<R>,
) -> Result<Vec<Verdict>> {
    let admin = Api::new(&stack.url);
    let key = stack.folder.join("runner.pem");
    let public_key = write_key(&key)?;
    let entry = json!({ "public_key": public_key, "label": "sandbox" });
    let allowed = admin.admin_post("/api/admin/keys", &entry).await?;
    allowed.expect_status(StatusCode::CREATED)?;
    let db = connect(&stack.database_url).await?;
    let scene = Scene { proxy, admin, db, key_id: allowed.text("key_id"), patience: trial.patience };

    if trial.practices.iter().any(|practice| practice.turn == Turn::First) {
        practices::registration_faults(&scene);
    }
    // Stopped by being dropped.
    let _runner = start(&scene.proxy.url, &key)?;
    let mut random = trial.random;
    let mut table = Vec::new();
    for practice in trial.practices {
        let outcome = practice.attempt(&scene, &mut random).await?;
        let sign = if outcome.is_ok() { "ok" } else { "FAIL" };
        eprintln!("{sign:4}  {}", practice.text);
        table.push(Verdict { practice: practice.text, broken: outcome.err() });
    }
    Ok(table)
}

/// The practices in the order of this seed.
fn order(random: &mut u64) -> Vec<&'static Practice> {
    let of = |turn| PRACTICES.iter().filter(move |practice| practice.turn == turn);
    let mut middle: Vec<&Practice> = of(Turn::Middle).collect();
    for at in (1..middle.len()).rev() {
        let other = usize::try_from(next(random) % (at as u64 + 1)).unwrap_or(0);
        middle.swap(at, other);
    }
    of(Turn::First).chain(middle).chain(of(Turn::Last)).collect()
}

/// Writes a fresh key as PKCS#8 PEM; returns its public half in base64.
fn write_key(path: &Path) -> Result<String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Error::Failed(error.to_string()))?;
    let pem = STANDARD.encode([&PKCS8_PREFIX[..], &seed].concat());
    write_private(path, &format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"))?;
    Ok(STANDARD.encode(SigningKey::from_bytes(&seed).verifying_key().as_bytes()))
}

fn start_program(options: &SandboxOptions, api: &str, key: &Path) -> Result<Option<Child>> {
    let filled = |word: &String| word.replace("{api}", api).replace("{key}", &key.display().to_string());
    let mut words = options.runner.iter().map(filled);
    let Some(program) = words.next() else {
        println!(
            "Start the runner against {api} with the key {}.\nIt must offer 1 GB and q4_k_m. The program that it \
             runs takes `config.sandbox.seconds` for a job, and fails if `config.sandbox.fail` is true.",
            key.display()
        );
        return Ok(None);
    };
    let child = Command::new(&program).args(words).stdin(Stdio::null()).kill_on_drop(true).spawn();
    child.map(Some).context(format!("start {program}"))
}

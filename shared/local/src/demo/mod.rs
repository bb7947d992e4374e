//! The demo: an admin allows a key and enqueues two runs; a runner registers, claims, sends heartbeats and
//! submits results that the benchmark harness wrote and signed. Then the demo compares the rows with the
//! results.

mod expected;
pub(crate) mod harness_run;
mod rows;

use ed25519_dalek::SigningKey;
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use self::harness_run::HarnessRun;
use crate::client::{self, Api, Reply};
use crate::error::{Error, Result};
use crate::postgres::{TemporaryDatabase, connect};
use crate::signing_keys::thumbprint;
use crate::stack::{Options, Stack};

const RUNNER_ID: &str = "runner-amd-8060s";

/// Starts the stack, runs the demo and checks the rows.
///
/// On a server from the options, it creates a temporary database and drops it afterwards.
///
/// # Errors
/// If the stack does not start, a response is unexpected, or a row is wrong.
pub async fn run(mut options: Options) -> Result<()> {
    let server = options.database_url.take();
    let scratch = match &server {
        Some(server) => Some(TemporaryDatabase::create(server, "demo").await?),
        None => None,
    };
    options.database_url = scratch.as_ref().map(|scratch| scratch.url.clone());
    let result = run_on_stack(&options).await;
    if let Some(scratch) = scratch {
        scratch.drop().await?;
    }
    result
}

async fn run_on_stack(options: &Options) -> Result<()> {
    let stack = Stack::start(options).await?;
    let result = run_cycle(&stack).await;
    stack.stop_after(result).await
}

async fn run_cycle(stack: &Stack) -> Result<()> {
    println!("The queue API is running at {}.", stack.url);
    let runs = harness_run::all()?;
    let api = Api::new(&stack.url);
    let runner = Runner { api: &api, key: harness_run::runner_key()? };

    println!("\nAn admin (IAM, SigV4) allows the runner's key and enqueues the harness's two runs:");
    runner.add_key().await?;
    for run in &runs {
        enqueue(&api, run).await?;
    }

    println!("\nA runner proves possession of the key (DPoP) and gets a short-lived token:");
    let token = runner.register().await?;

    println!("\nIt works through the queue and submits the harness's signed results unchanged:");
    let keys = public_keys(&api).await?;
    for run in &runs {
        work_on_run(&api, &token, run, &keys).await?;
    }
    let empty_claim = api.post("/api/queue/claim", &token, &json!({})).await?;
    empty_claim.expect_and_print(StatusCode::NO_CONTENT, "no eligible job left")?;

    println!("\nThe rows in the database:");
    rows::check(&connect(&stack.database_url).await?, &runs).await?;
    println!("\nAll rows agree with the signed results.");
    Ok(())
}

/// The demo's runner.
struct Runner<'a> {
    api: &'a Api,
    key: SigningKey,
}

impl Runner<'_> {
    async fn add_key(&self) -> Result<()> {
        let body = json!({"public_key": self.public_key(), "label": "the demo's runner"});
        let reply = self.api.admin_post("/api/admin/keys", &body).await?;
        let key_id = reply.text("key_id");
        reply.expect_and_print(StatusCode::CREATED, &format!("key {key_id}"))?;
        match key_id == thumbprint(&self.key) {
            true => Ok(()),
            false => Err(Error::Failed("the key's id is not the key's RFC 7638 thumbprint".into())),
        }
    }

    /// Registers and returns the token.
    async fn register(&self) -> Result<String> {
        let body = json!({
            "public_key": self.public_key(),
            "hostname": "bench-01",
            "runner_id": RUNNER_ID,
            "capabilities": {"vram_gb": 24, "quantizations": ["q4_k_m"]},
        });
        let reply = self.api.register(&self.key, &body).await?;
        let (runner, expires) = (reply.text("runner_id"), reply.text("expires_at"));
        reply.expect_and_print(StatusCode::OK, &format!("{runner}, a token until {expires}"))?;
        Ok(reply.text("token"))
    }

    fn public_key(&self) -> String {
        harness_run::base64(self.key.verifying_key().as_bytes())
    }
}

async fn enqueue(api: &Api, run: &HarnessRun) -> Result<()> {
    let reply = api.admin_post("/api/admin/runs", &run.enqueue_request()?).await?;
    let row = &reply.body["rows"][0];
    let (vram, quantizations) = (&row["required_vram_gb"], &row["quantizations"]);
    reply.expect_and_print(
        StatusCode::CREATED,
        &format!("run {}: needs {vram} GB and {quantizations}", run.id()),
    )
}

/// Claims a job, sends a heartbeat and submits the result twice, as after a lost reply.
async fn work_on_run(api: &Api, token: &str, run: &HarnessRun, keys: &Value) -> Result<()> {
    let claim = api.post("/api/queue/claim", token, &json!({"claim_id": Uuid::new_v4()})).await?;
    let (model, lease) =
        (claim.body["model"]["name"].as_str().unwrap_or("no model"), claim.text("lease_expires_at"));
    claim.expect_and_print(
        StatusCode::OK,
        &format!("run {} with {model}, leased until {lease}", claim.text("run_id")),
    )?;
    if claim.text("run_id") != run.id() || claim.body["config"] != run.result["config"] {
        return Err(Error::Failed("the claimed job is not the first that was enqueued".into()));
    }
    let path = |action| format!("/api/queue/{}/{action}", run.id());
    let claim_id = claim.text("claim_id");

    let progress = json!({"claim_id": claim_id, "progress": {"done": 1}});
    let heartbeat = api.post(&path("heartbeat"), token, &progress).await?;
    heartbeat.expect_and_print(StatusCode::OK, &heartbeat.text("directive"))?;

    let submission = run.submission(&claim_id)?;
    let first = api.post(&path("submit"), token, &submission).await?;
    let (status, id) = (first.text("status"), first.text("submission_id"));
    first.expect_and_print(StatusCode::CREATED, &format!("{status}, submission {id}, receipt signed"))?;
    client::verify_receipt(&first.text("receipt"), keys)?;

    let again = api.post(&path("submit"), token, &submission).await?;
    again.expect_and_print(StatusCode::OK, "submitted again: the same receipt")?;
    match again.body["receipt"] == first.body["receipt"] {
        true => Ok(()),
        false => Err(Error::Failed("the second submission returned another receipt".into())),
    }
}

/// Returns the service's public keys, with which anyone can verify a receipt.
async fn public_keys(api: &Api) -> Result<Value> {
    let reply: Reply = api.get("/api/jwks.json").await?;
    reply.expect_and_print(StatusCode::OK, "the public keys for receipts")?;
    Ok(reply.body)
}

//! The main job, played once: an admin allows a key and enqueues two runs; a runner registers, claims,
//! heartbeats and submits what the benchmark harness really wrote and signed; then the rows are read
//! back and held against what the results themselves say.

mod expected;
pub(crate) mod harness_run;
mod rows;

use ed25519_dalek::SigningKey;
use http::StatusCode;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use self::harness_run::HarnessRun;
use crate::client::{self, Api, Reply};
use crate::error::{Error, Result, While};
use crate::postgres::with_database;
use crate::signing_keys::thumbprint;
use crate::stack::{Options, Stack};

const RUNNER_ID: &str = "runner-amd-8060s";

/// Brings the stack up, plays the story, and checks the rows.
///
/// With a given server it works in a database of its own there and drops it afterwards.
///
/// # Errors
/// When the stack does not come up, an answer is not the one in the story, or a row is wrong.
pub async fn play(mut options: Options) -> Result<()> {
    let server = options.database_url.take();
    let scratch = match &server {
        Some(server) => Some(Scratch::create(server).await?),
        None => None,
    };
    options.database_url = scratch.as_ref().map(|scratch| scratch.url.clone());
    let result = play_on_a_stack(&options).await;
    if let Some(scratch) = scratch {
        scratch.drop().await?;
    }
    result
}

async fn play_on_a_stack(options: &Options) -> Result<()> {
    let stack = Stack::start(options).await?;
    let told = story(&stack).await;
    stack.stop_after(told).await
}

async fn story(stack: &Stack) -> Result<()> {
    println!("The queue API is up at {}.", stack.url);
    let runs = harness_run::all()?;
    let api = Api::new(&stack.url);
    let runner = Runner { api: &api, key: harness_run::runner_key()? };

    println!("\nAn admin (IAM, SigV4) allows the runner's key and enqueues what the harness ran:");
    runner.be_allowed().await?;
    for run in &runs {
        enqueue(&api, run).await?;
    }

    println!("\nA runner proves that it holds the key (DPoP) and gets a short-lived token:");
    let token = runner.register().await?;

    println!("\nIt works through the queue, and submits the harness's signed results as they are:");
    let keys = public_keys(&api).await?;
    for run in &runs {
        work_off(&api, &token, run, &keys).await?;
    }
    let nothing = api.post("/api/queue/claim", &token, &json!({})).await?;
    nothing.told(StatusCode::NO_CONTENT, "nothing left to do")?;

    println!("\nThe rows it left:");
    rows::check(&connect(&stack.database_url).await?, &runs).await?;
    println!("\nAll of them are what the results say.");
    Ok(())
}

/// The runner of the story.
struct Runner<'a> {
    api: &'a Api,
    key: SigningKey,
}

impl Runner<'_> {
    async fn be_allowed(&self) -> Result<()> {
        let body = json!({"public_key": self.public_key(), "label": "the demo's runner"});
        let reply = self.api.admin_post("/api/admin/keys", &body).await?;
        let key_id = reply.text("key_id");
        reply.told(StatusCode::CREATED, &format!("key {key_id}"))?;
        match key_id == thumbprint(&self.key) {
            true => Ok(()),
            false => Err(Error::Failed("the key's id is not its RFC 7638 thumbprint".into())),
        }
    }

    /// The token.
    async fn register(&self) -> Result<String> {
        let body = json!({
            "public_key": self.public_key(),
            "hostname": "bench-01",
            "runner_id": RUNNER_ID,
            "capabilities": {"vram_gb": 24, "quantizations": ["q4_k_m"]},
        });
        let reply = self.api.register(&self.key, &body).await?;
        let (runner, expires) = (reply.text("runner_id"), reply.text("expires_at"));
        reply.told(StatusCode::OK, &format!("{runner}, a token until {expires}"))?;
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
    reply.told(StatusCode::CREATED, &format!("run {}: needs {vram} GB and {quantizations}", run.id()))
}

/// Claim, heartbeat, submit, and submit again, as after a lost reply.
async fn work_off(api: &Api, token: &str, run: &HarnessRun, keys: &Value) -> Result<()> {
    let claim = api.post("/api/queue/claim", token, &json!({"claim_id": Uuid::new_v4()})).await?;
    let (model, lease) =
        (claim.body["model"]["name"].as_str().unwrap_or("no model"), claim.text("lease_expires_at"));
    claim
        .told(StatusCode::OK, &format!("run {} with {model}, leased until {lease}", claim.text("run_id")))?;
    if claim.text("run_id") != run.id() || claim.body["config"] != run.result["config"] {
        return Err(Error::Failed("the job is not the one that was enqueued first".into()));
    }
    let path = |action| format!("/api/queue/{}/{action}", run.id());
    let claim_id = claim.text("claim_id");

    let beat = json!({"claim_id": claim_id, "progress": {"done": 1}});
    let beat = api.post(&path("heartbeat"), token, &beat).await?;
    beat.told(StatusCode::OK, &beat.text("directive"))?;

    let submission = run.submission(&claim_id)?;
    let first = api.post(&path("submit"), token, &submission).await?;
    let (status, id) = (first.text("status"), first.text("submission_id"));
    first.told(StatusCode::CREATED, &format!("{status}, submission {id}, receipt signed"))?;
    client::verify_receipt(&first.text("receipt"), keys)?;

    let again = api.post(&path("submit"), token, &submission).await?;
    again.told(StatusCode::OK, "the same again: the same receipt")?;
    match again.body["receipt"] == first.body["receipt"] {
        true => Ok(()),
        false => Err(Error::Failed("another receipt for the same submission".into())),
    }
}

/// The service's public keys, with which anyone can check a receipt.
async fn public_keys(api: &Api) -> Result<Value> {
    let reply: Reply = api.get("/api/jwks.json").await?;
    reply.told(StatusCode::OK, "the keys that sign receipts")?;
    Ok(reply.body)
}

pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.while_("connect to the database")?;
    // Its end shows in the client's next query.
    tokio::spawn(connection);
    Ok(client)
}

/// A database for the demo alone, on a server that is somebody's.
struct Scratch {
    server: String,
    name: String,
    url: String,
}

impl Scratch {
    async fn create(server: &str) -> Result<Self> {
        let name = format!("bakeoff_demo_{}", Uuid::new_v4().simple());
        let admin = connect(server).await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .while_("make a database for the demo")?;
        let url = with_database(server, &name);
        Ok(Self { server: server.to_owned(), name, url })
    }

    async fn drop(self) -> Result<()> {
        let admin = connect(&self.server).await?;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        admin.batch_execute(&sql).await.while_("drop the demo's database")
    }
}

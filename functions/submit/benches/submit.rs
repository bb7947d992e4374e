//! Compares a whole submit of the harness's 143 kB result with its floor: the verification of its signature plus a
//! durable commit that stores the bytes received, which a submit keeps as evidence.
//!
//! `cargo bench --workspace --bench submit` prints median times and their ratio for each form of a submission. A
//! submit goes through the function's own binary, over a Runtime API on loopback: event in, evidence and metrics
//! written, receipt out. In this process, in turns with it, the same signature is verified, and the same bytes are
//! stored over another connection. The server is a private one that flushes every commit.
//!
//! For comparison: a commit that updates one small row, and an invocation that ends at the missing token.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use bakeoff_attestation::{Bundle, PublicKey, TrustedRoot, verify_keyed};
use bakeoff_core::queue::claim::Job;
use bakeoff_core::results::canonical_json::CanonicalForm;
use bakeoff_core::results::submission::verify_envelope;
use bakeoff_local::api_gateway::event::{ReceivedRequest, http_event};
use bakeoff_local::api_gateway::route::{self, Route};
use bakeoff_local::api_gateway::template;
use bakeoff_local::lambda::runtime_api::{Function, Settings};
use bakeoff_local::postgres::Cluster;
use bakeoff_testkit::fixture::{self, Machine, Runner};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use http::Request;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const FLOOR: &str =
    "CREATE TABLE floor (id integer PRIMARY KEY, value integer DEFAULT 0); INSERT INTO floor VALUES (1);
     CREATE TABLE evidence (content bytea COMPRESSION lz4)";
const COMMIT: &str = "UPDATE floor SET value = value + 1 WHERE id = 1";
const STORE: &str = "INSERT INTO evidence VALUES ($1)";
/// The goal: a submit may take this many times the time of its floor.
const RATIO_MAX: f64 = 2.0;
const FILES: [&str; 5] =
    ["result.json", "manifest.json", "summary.md", "dashboard.html", "signature.sigstore.json"];

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --all-targets` runs benchmarks too, without this argument: one round is enough there.
    let rounds = if env::args().any(|argument| argument == "--bench") { 101 } else { 1 };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("submit");
    fs::create_dir_all(&folder)?;
    let cluster = Cluster::start(&folder.join("postgres"))?;
    let measured = measure(&cluster.url(), &folder, rounds).await;
    cluster.stop();
    measured
}

async fn measure(url: &str, folder: &Path, rounds: usize) -> Result<()> {
    let scene = Scene::set(url).await?;
    let function = function(url, folder)?;
    let without_token = scene.event("{}", false)?;
    println!("Goal: submit ÷ (verify + store) ≤ {RATIO_MAX}");
    println!(
        "{:9} {:>7} {:>9} {:>9} {:>9} {:>6} {:>9} {:>9}",
        "form", "bytes", "submit", "verify", "store", "ratio", "commit", "refusal"
    );
    for (name, form) in [("envelope", scene.envelope()?), ("files", scene.files()?)] {
        let event = scene.event(&form.body, true)?;
        let mut times = [const { Vec::new() }; 5];
        for round in 0..=rounds {
            scene.unsubmit().await?;
            // In turns, so that other load affects all of them.
            let took = [
                invoke(&function, &event, 201).await?,
                time(&form.verify)?,
                commit(&scene.client).await?,
                store(&scene.client, form.body.as_bytes()).await?,
                invoke(&function, &without_token, 401).await?,
            ];
            // The process is cold in the first round.
            if round > 0 {
                times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
            }
        }
        let [submit, verify, commit, store, refusal] = times.map(median);
        let ratio = submit.as_secs_f64() / (verify + store).as_secs_f64();
        let bytes = form.body.len();
        println!(
            "{name:9} {bytes:>7} {submit:>9.2?} {verify:>9.2?} {store:>9.2?} {ratio:>6.2} {commit:>9.2?} {refusal:>9.2?} {}",
            if ratio <= RATIO_MAX { "met" } else { "MISSED" }
        );
    }
    Ok(())
}

/// A runner with a claim on the run that the harness's result names.
struct Scene {
    client: Client,
    runner: Runner,
    job: Job,
}

/// One form of the submission, and its verification alone.
struct Form {
    body: String,
    verify: Box<dyn Fn() -> bool>,
}

impl Scene {
    async fn set(url: &str) -> Result<Self> {
        let mut client = connect(url).await?;
        bakeoff_core::migrate::apply(&mut client).await?;
        client.batch_execute(FLOOR).await?;
        let machine = Machine { name: "bench-01".into(), key: runner_key()? };
        machine.allow(&client).await;
        let registration = machine.registration();
        let runner = machine.register(&client, &registration).await;
        let result: Value = serde_json::from_slice(&file("result.json")?)?;
        let mut run = fixture::run();
        run["run_id"] = result["run_id"].clone();
        run["models"] = json!([fixture::model("llama32_1b_q4", "q4_k_m", 1.2)]);
        run["prompts"] = json!([fixture::prompt("plain"), fixture::prompt("cot")]);
        fixture::enqueue_run(&client, &run).await;
        let job = fixture::claim_next(&client, &runner).await;
        Ok(Self { client, runner, job })
    }

    /// Restores the claimed state, so that the next submit writes everything again.
    async fn unsubmit(&self) -> Result<()> {
        let claim = "UPDATE run_queue SET status = 'CLAIMED', completed_at = NULL, claimed_at = now(), \
                     lease_expires_at = now() + interval '5 min'";
        let tables = "DELETE FROM submission_files; DELETE FROM submissions; \
                      DELETE FROM run_model_metrics; DELETE FROM run_hardware_metrics";
        Ok(self.client.batch_execute(&format!("{tables}; {claim}")).await?)
    }

    /// The harness's envelope, signed by the runner.
    fn envelope(&self) -> Result<Form> {
        let result = String::from_utf8(file("result.json")?)?;
        let digest = CanonicalForm::parse(result.as_bytes())?.sha256();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let signature = STANDARD.encode(self.runner.machine.key.sign(&digest).to_bytes());
        let sig = json!({
            "sha256": hex, "signature": signature, "runner_id": "bench-01",
            "signed_at": "2026-11-21T22:09:27Z",
        });
        let envelope = RawValue::from_string(format!("{{\"result\": {result}, \"sig\": {sig}}}"))?;
        let body = format!("{{\"claim_id\": \"{}\", \"envelope\": {envelope}}}", self.job.claim_id);
        let runner = self.runner.authenticated.clone();
        Ok(Form { body, verify: Box::new(move || verify_envelope(&runner, &envelope).is_ok()) })
    }

    /// The harness's publication bundle, signed by the same key.
    fn files(&self) -> Result<Form> {
        let files = FILES.iter().map(|name| Ok((*name, STANDARD.encode(file(name)?))));
        let files: BTreeMap<&str, String> = files.collect::<Result<_>>()?;
        let body = json!({ "claim_id": self.job.claim_id, "files": files }).to_string();
        let (bundle, result) = (file("signature.sigstore.json")?, file("result.json")?);
        let key = PublicKey::ed25519(self.runner.machine.key.verifying_key().as_bytes())?;
        let verify = move || {
            let Ok(bundle) = Bundle::parse(&bundle) else { return false };
            verify_keyed(&bundle, result.as_slice(), &key, TrustedRoot::embedded()).is_ok()
        };
        Ok(Form { body, verify: Box::new(verify) })
    }

    /// The event that the function receives.
    fn event(&self, body: &str, with_token: bool) -> Result<Bytes> {
        let route = Route::new("POST", "/api/queue/{run_id}/submit", "submit", false)?;
        let mut request = Request::post(format!("/api/queue/{}/submit", self.job.run_id))
            .header("content-type", "application/json");
        if with_token {
            request = request.header("authorization", format!("Bearer {}", self.runner.token));
        }
        let (parts, ()) = request.body(())?.into_parts();
        let received = ReceivedRequest {
            parts: &parts,
            body: body.as_bytes(),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            at: OffsetDateTime::now_utc(),
            request_id: Uuid::new_v4(),
        };
        let routes = [route];
        let matched = route::find(&routes, "POST", parts.uri.path()).ok_or("no route")?;
        Ok(http_event(&received, &matched, None).to_string().into())
    }
}

/// The function's own binary, built with this benchmark's profile.
fn function(url: &str, folder: &Path) -> Result<Function> {
    let keys = folder.join("signing-keys.json");
    fs::write(&keys, fixture::key_set([42; 32]))?;
    let environment = BTreeMap::from([
        ("DATABASE_URL".to_owned(), url.to_owned()),
        // As deployed without a proxy.
        ("DATABASE_PREPARED_STATEMENTS".to_owned(), "true".to_owned()),
        ("SIGNING_KEYS_FILE".to_owned(), keys.display().to_string()),
        ("PUBLIC_URL".to_owned(), fixture::SERVICE.to_owned()),
    ]);
    let function =
        template::Function { name: "submit".into(), timeout: Duration::from_secs(30), memory_mb: 512 };
    Ok(Function::new(Settings {
        function,
        binary: env!("CARGO_BIN_EXE_submit").into(),
        environment,
        log: folder.join("submit.log"),
        instances: 1,
    }))
}

async fn invoke(function: &Function, event: &Bytes, expected: u16) -> Result<Duration> {
    let start = Instant::now();
    let answer = function.invoke(event.clone()).await?;
    let took = start.elapsed();
    let answer: Value = serde_json::from_slice(&answer)?;
    if answer["statusCode"] == expected { Ok(took) } else { Err(format!("{answer}").into()) }
}

async fn commit(client: &Client) -> Result<Duration> {
    let start = Instant::now();
    client.execute_typed(COMMIT, &[]).await?;
    Ok(start.elapsed())
}

async fn store(client: &Client, body: &[u8]) -> Result<Duration> {
    let start = Instant::now();
    client.execute_typed(STORE, &[(&body, Type::BYTEA)]).await?;
    Ok(start.elapsed())
}

fn time(verify: impl Fn() -> bool) -> Result<Duration> {
    let start = Instant::now();
    let verified = black_box(verify());
    let took = start.elapsed();
    if verified { Ok(took) } else { Err("the signature does not verify".into()) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn file(name: &str) -> Result<Vec<u8>> {
    Ok(fs::read(shared("attestation/tests/fixtures/bundle-two-prompts").join(name))?)
}

/// The test key that signed the bundle.
fn runner_key() -> Result<SigningKey> {
    let seed = fs::read_to_string(shared("core/tests/fixtures/runner_key.seed"))?;
    let seed: [u8; 32] = STANDARD.decode(seed.trim())?.try_into().map_err(|_| "the seed has 32 bytes")?;
    Ok(SigningKey::from_bytes(&seed))
}

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path)
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Its end shows in the client's next query.
    tokio::spawn(connection);
    Ok(client)
}

//! Fixtures: an allowed runner, an enqueued run, a claimed job, a signed result. All are created through the
//! core's operations, as in the service.
//!
//! Time is moved in the data, never waited for: [`expire_lease`].

use bakeoff_core::queue::claim::{ClaimRequest, Job, claim};
use bakeoff_core::queue::lease::LeaseTerms;
use bakeoff_core::queue::reap::reap;
use bakeoff_core::results::canonical_json::CanonicalForm;
use bakeoff_core::results::submission::verify_envelope;
use bakeoff_core::results::submit::{Accepted, SubmitTerms, submit};
use bakeoff_core::runners::allowlist::{self, NewEntry};
use bakeoff_core::runners::key::PublicKey;
use bakeoff_core::runners::proof::ProvenKey;
use bakeoff_core::runners::register::{Registration, register};
use bakeoff_core::runners::runner::{Admin, AuthenticatedRunner};
use bakeoff_core::runners::token::{ServiceKeys, rotate_key_set};
use bakeoff_core::runs::enqueue::{Enqueued, EnqueuedRow, NewRun, enqueue};
use bakeoff_core::session::Session;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// The service's public URL, the issuer and audience of its tokens.
pub const SERVICE: &str = "https://queue.example";
/// The URL of the registration route, for which proofs are made.
pub const REGISTER_URL: &str = "https://queue.example/api/runners/register";
/// Lease terms: leases of 300 s, heartbeats every 60 s.
pub const TERMS: LeaseTerms = LeaseTerms { ttl_s: 300, heartbeat_interval_s: 60 };

/// Returns the service's signing keys, the same in every test.
pub fn service_keys() -> ServiceKeys {
    ServiceKeys::from_jwk_set(&key_set([42; 32])).expect("a JWK set of one key")
}

/// Returns a JWK set with one signing key, in the form of the secret.
pub fn key_set(seed: [u8; 32]) -> String {
    rotate_key_set(r#"{"keys":[]}"#, seed, time::OffsetDateTime::UNIX_EPOCH, time::Duration::ZERO)
        .expect("an empty set can be rotated")
}

/// Returns an admin with an IAM user's ARN.
pub fn admin() -> Admin {
    Admin::from_iam_principal("arn:aws:iam::000000000000:user/bastion")
}

/// A runner's key and name, before registration. The key is derived from the name.
#[derive(Debug)]
pub struct Machine {
    /// The `runner_id` of its registration.
    pub name: String,
    /// Its private key.
    pub key: SigningKey,
}

impl Machine {
    /// Creates a machine with this name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), key: SigningKey::from_bytes(&Sha256::digest(name).into()) }
    }

    /// Returns the public key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.key.verifying_key().as_bytes()).expect("a generated key is valid")
    }

    /// Returns the key's id on the allowlist.
    pub fn key_id(&self) -> String {
        self.public_key().key_id().to_string()
    }

    /// Returns the claims of a fresh proof, which a test can change before signing.
    pub fn proof_claims(&self) -> Value {
        json!({
            "htm": "POST", "htu": REGISTER_URL, "jti": Uuid::new_v4(),
            "iat": OffsetDateTime::now_utc().unix_timestamp(),
        })
    }

    /// Creates a DPoP proof (RFC 9449) with these claims.
    pub fn proof(&self, claims: &Value) -> String {
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": self.public_key().jwk_x() });
        jwt(&json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk }), claims, &self.key)
    }

    /// Returns the key proven by a proof with these claims, for registration.
    ///
    /// # Panics
    /// If the claims are not those of a valid proof for [`REGISTER_URL`].
    pub fn proven_key(&self, claims: &Value) -> ProvenKey {
        ProvenKey::from_proof(&self.proof(claims), REGISTER_URL).expect("the proof is valid")
    }

    /// Returns the body of its registration: 24 GB of VRAM, `q4_k_m` and `q8_0`.
    pub fn registration(&self) -> Value {
        json!({
            "public_key": self.public_key().to_base64(), "runner_id": self.name, "hostname": "bench-01",
            "capabilities": { "vram_gb": 24, "quantizations": ["q4_k_m", "q8_0"] },
        })
    }

    /// Adds the key to the allowlist.
    ///
    /// # Panics
    /// If the core refuses it.
    pub async fn allow(&self, client: &Client) {
        let entry = json!({ "public_key": self.public_key().to_base64(), "label": self.name });
        let entry = NewEntry::parse(&entry.to_string()).expect("the entry is valid");
        allowlist::add(client, &admin(), &entry).await.expect("the key is allowed");
    }

    /// Registers with a fresh proof and authenticates with the token.
    ///
    /// # Panics
    /// If the core refuses either.
    pub async fn register(self, client: &Client, body: &Value) -> Runner {
        let keys = service_keys();
        let registration = Registration::parse(&body.to_string()).expect("a registration that parses");
        let proven = self.proven_key(&self.proof_claims());
        let registered = register(client, &keys, SERVICE, Duration::hours(1), &proven, &registration)
            .await
            .expect("the registration is accepted");
        let authenticated = keys.authenticate(SERVICE, &registered.token).expect("the token is good");
        Runner { machine: self, token: registered.token, authenticated }
    }
}

/// A registered, authenticated runner.
#[derive(Debug)]
pub struct Runner {
    /// Its name and key.
    pub machine: Machine,
    /// Its token.
    pub token: String,
    /// The proof of authentication that operations require.
    pub authenticated: AuthenticatedRunner,
}

/// Allows and registers a runner with 24 GB of VRAM that serves `q4_k_m` and `q8_0`.
pub async fn runner(client: &Client, name: &str) -> Runner {
    let machine = Machine::new(name);
    machine.allow(client).await;
    let body = machine.registration();
    machine.register(client, &body).await
}

/// Allows and registers a runner with these capabilities.
pub async fn runner_with(client: &Client, name: &str, vram_gb: f64, quantizations: &[&str]) -> Runner {
    let machine = Machine::new(name);
    machine.allow(client).await;
    let mut body = machine.registration();
    body["capabilities"] = json!({ "vram_gb": vram_gb, "quantizations": quantizations });
    machine.register(client, &body).await
}

/// Returns the body of an enqueue request: priority 100, 5 attempts, one prompt `plain`, one task, and one
/// model `m` of 9 billion parameters in `q4_k_m`, which needs 6 GB. Tests change the members that they are
/// about.
pub fn run() -> Value {
    json!({
        "run_id": Uuid::new_v4(), "publisher_id": "bastion",
        "models": [model("m", "q4_k_m", 9.0)], "prompts": [prompt("plain")],
        "tasks": [{ "id": "sum" }], "config": { "run": { "seed": 11 } },
    })
}

/// Inserts a run of one row as the harness's own tools do: it names no model, so it requires nothing of its runner.
pub async fn undemanding_run(client: &Client) -> Enqueued {
    let insert = "
        WITH task AS (INSERT INTO tasks (name, natural_key_hash) VALUES ('foreign', gen_random_uuid()) RETURNING task_id),
             prompt AS (INSERT INTO prompts (task_id, file_path, git_commit_hash)
                        SELECT task_id, 'prompts/foreign.md', 'ad48ac3' FROM task RETURNING prompt_id),
             run AS (INSERT INTO runs (run_id, submitted_at, publisher_id)
                     VALUES (gen_random_uuid(), now(), 'harness') RETURNING run_id)
        INSERT INTO run_queue (run_id, prompt_id)
        SELECT run_id, prompt_id FROM run, prompt RETURNING run_id, queue_id, prompt_id";
    let row = client.query_one(insert, &[]).await.expect("a row of the harness's");
    let inserted = EnqueuedRow {
        queue_id: row.get("queue_id"),
        prompt_id: row.get("prompt_id"),
        required_vram_gb: 0,
        quantizations: Vec::new(),
    };
    Enqueued { run_id: row.get("run_id"), rows: vec![inserted] }
}

/// Returns the body of an enqueue request whose job may fail this often before its last attempt.
pub fn run_with_attempts(max_attempts: i32) -> Value {
    let mut run = run();
    run["max_attempts"] = json!(max_attempts);
    run
}

/// Returns a model of a run. It needs ⌈billions × the quantization's multiplier × 1.15⌉ GB.
pub fn model(id: &str, quantization: &str, billions: f64) -> Value {
    json!({ "id": id, "descriptor": {
        "schema_version": 1, "name": id, "model_hash": format!("sha256:{id}"), "quantization": quantization,
        "parameter_count_b": billions, "active_parameter_count_b": billions,
        "sources": [{ "source_type": "huggingface", "url": format!("https://example.org/{id}.gguf") }],
    }})
}

/// Returns a prompt of a run.
pub fn prompt(id: &str) -> Value {
    json!({ "id": id, "file_path": format!("prompts/{id}.md"), "git_commit_hash": "ad48ac3" })
}

/// Enqueues a run.
///
/// # Panics
/// If the core refuses it.
pub async fn enqueue_run(client: &Client, run: &Value) -> Enqueued {
    let run = NewRun::parse(&run.to_string()).unwrap_or_else(|errors| panic!("{errors:#?}"));
    enqueue(client, &admin(), &run).await.expect("the run is enqueued")
}

/// Claims the runner's next job.
///
/// # Panics
/// If no job is eligible.
pub async fn claim_next(client: &Client, runner: &Runner) -> Job {
    claim(client, &runner.authenticated, TERMS, &ClaimRequest::default())
        .await
        .expect("the claim is accepted")
        .job()
        .expect("a job is eligible")
}

/// Creates a runner and one run, and claims its job for the runner.
pub async fn runner_with_job(client: &Client) -> (Runner, Job) {
    runner_with_job_of(client, &run()).await
}

/// Creates a runner, enqueues this run, and claims its job for the runner.
pub async fn runner_with_job_of(client: &Client, run: &Value) -> (Runner, Job) {
    let runner = runner(client, "bench").await;
    enqueue_run(client, run).await;
    let job = claim_next(client, &runner).await;
    (runner, job)
}

/// Returns the job's row of the queue.
///
/// # Panics
/// If there is none.
pub async fn queue_row(client: &Client, job: &Job) -> Row {
    let row = "SELECT * FROM run_queue WHERE queue_id = $1";
    client.query_one(row, &[&job.queue_id]).await.expect("the job's row")
}

/// Enqueues a run with three rows, one per prompt.
pub async fn split_run(client: &Client) -> Uuid {
    let mut run = run();
    run["prompts"] = ["a", "b", "c"].map(prompt).into_iter().collect();
    run["split_by"] = json!("prompt");
    enqueue_run(client, &run).await.run_id
}

/// Returns the states of a run's rows, in alphabetical order.
pub async fn statuses(client: &Client, run_id: Uuid) -> Vec<String> {
    let rows = "SELECT status FROM run_queue WHERE run_id = $1 ORDER BY status";
    let rows = client.query(rows, &[&run_id]).await.expect("the rows of a run");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Lets the claim's lease run out, one second ago.
pub async fn expire_lease(client: &Client, job: &Job) {
    let lapse = "UPDATE run_queue SET lease_expires_at = now() - interval '1 s' WHERE claim_id = $1";
    let rows = client.execute(lapse, &[&job.claim_id]).await.expect("the lease is moved");
    assert_eq!(rows, 1, "the claim is live");
}

/// Lets the claim's lease run out, and has the reaper end the claim.
pub async fn lapse_and_reap(client: &Client, job: &Job) {
    expire_lease(client, job).await;
    let reaped = reap(client, TERMS, std::time::Duration::from_secs(20)).await.expect("the reaper runs");
    assert_eq!(reaped.returned + reaped.failed, 1, "the reaper ended the claim");
}

/// Returns a result of the job in the harness's form: its own models and prompts, two tasks, and a score of 1
/// in every cell.
pub fn result(job: &Job) -> Value {
    let ids = |list: &RawValue| -> Vec<String> {
        let list: Vec<Value> = serde_json::from_str(list.get()).expect("a list");
        list.iter().filter_map(|entry| entry["id"].as_str().map(str::to_owned)).collect()
    };
    let (mut models, prompts) = (ids(&job.models), ids(&job.prompts));
    if models.is_empty() {
        models.push("m".to_owned());
    }
    result_of(&job.run_id.to_string(), &models, &prompts)
}

/// Returns a result with a score of 1 in every cell, for two tasks and these models and prompts.
pub fn result_of(run_id: &str, models: &[String], prompts: &[String]) -> Value {
    let described = |id: &String| json!({ "id": id, "gguf": format!("{id}.gguf") });
    let mut records = Vec::new();
    for task in ["sum", "sort"] {
        for prompt in prompts {
            records.extend(models.iter().map(|model| {
                json!({
                    "task_id": task, "prompt_id": prompt, "model_id": model, "tier": "main",
                    "quality_heuristic": 1.0, "peak_vram_mb": 6000.5, "tokens_per_second": 50.0,
                    "flops_per_token_theoretical": 2e10,
                })
            }));
        }
    }
    json!({
        "run_id": run_id, "timestamp": "2026-08-01T12:00:00Z",
        "config": {
            "models": models.iter().map(described).collect::<Vec<_>>(),
            "prompts": prompts.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>(),
        },
        "provenance": { "config_hash": "c0ffee", "seed": 0, "git": { "sha": "ad48ac3" } },
        "model_metadata": models.iter().map(described).collect::<Vec<_>>(),
        "tasks": [{ "id": "sum" }, { "id": "sort" }],
        "records": records,
        "hardware": {
            "gpu_model": "NVIDIA GeForce RTX 4090", "vram_mb": 24564, "power_limit_w": 450.0,
            "cpu_model": "AMD Ryzen 9 7950X", "cpu_cores": 16, "cpu_threads": 32, "ram_gb": 64.0,
            "os_name": "Linux", "os_version": "6.8.0", "driver_version": "560.35.03",
        },
    })
}

/// Returns the result in the harness's envelope, signed by the machine.
pub fn envelope(machine: &Machine, result: &Value) -> Box<RawValue> {
    let text = result.to_string();
    let digest = CanonicalForm::parse(text.as_bytes()).expect("the result has a canonical form").sha256();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let signature = STANDARD.encode(machine.key.sign(&digest).to_bytes());
    let sig = json!({
        "sha256": hex, "signature": signature, "runner_id": machine.name,
        "signed_at": "2026-08-01T12:00:00Z",
    });
    RawValue::from_string(format!("{{\"result\": {text}, \"sig\": {sig}}}")).expect("JSON")
}

/// Submits the result with the job's claim id, in an envelope signed by the runner.
///
/// # Errors
/// The core's refusal.
pub async fn submit_result(
    client: &impl Session,
    runner: &Runner,
    job: &Job,
    result: &Value,
) -> Result<Accepted, bakeoff_core::Error> {
    let envelope = envelope(&runner.machine, result);
    let verified = verify_envelope(&runner.authenticated, &envelope)?;
    let keys = service_keys();
    let terms = SubmitTerms { keys: &keys, service: SERVICE, require_bound: false };
    submit(client, terms, &runner.authenticated, job.run_id, job.claim_id, &verified).await
}

/// Creates a JWS in compact serialization (RFC 7515 section 7.1) with this header and these claims, signed
/// with EdDSA.
pub fn jwt(header: &Value, claims: &Value, key: &SigningKey) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = key.sign(signed.as_bytes()).to_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Moves every audit entry an hour and a minute into the past. `owner` is the schema's owner: the log refuses changes.
///
/// # Panics
/// If `owner` may not switch the log's triggers off.
pub async fn age_audit_log(owner: &Client) {
    owner
        .batch_execute(
            "ALTER TABLE audit_log DISABLE TRIGGER USER; \
             UPDATE audit_log SET at = at - interval '61 min'; \
             ALTER TABLE audit_log ENABLE TRIGGER USER",
        )
        .await
        .expect("the audit log takes the change");
}

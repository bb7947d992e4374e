//! What the practices are tried on: the stack, the proxy in front of it, and the runner behind that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::proxy::{Asked, Exchange, Fault, Operation, Proxy};
use crate::client::Api;
use crate::error::{ErrorContext as _, Result};

/// A lease lasts this long: heartbeats come every second.
pub(super) const LEASE_TTL_S: u32 = 3;
/// Why a practice did not hold.
pub(super) type Broken = String;

/// The scene.
pub(super) struct Scene {
    pub(super) proxy: Proxy,
    pub(super) admin: Api,
    pub(super) db: Client,
    pub(super) key_id: String,
    /// Longer than a runner may take for anything here.
    pub(super) patience: Duration,
}

impl Scene {
    /// Enqueues a job that takes this long.
    pub(super) async fn enqueue(&self, seconds: u32) -> Result<String> {
        self.enqueue_with(json!({ "seconds": seconds })).await
    }

    /// Enqueues a job; `sandbox` is a stanza of its config, which says what the runner's program does.
    pub(super) async fn enqueue_with(&self, sandbox: Value) -> Result<String> {
        let run_id = Uuid::new_v4().to_string();
        let descriptor = json!({
            "schema_version": 1, "name": "sandbox-model", "model_hash": "sha256:sandbox",
            "parameter_count_b": 0.5, "active_parameter_count_b": 0.5, "quantization": "q4_k_m", "sources": [],
        });
        let run = json!({
            "run_id": run_id, "publisher_id": "sandbox",
            "models": [{ "id": "m", "descriptor": descriptor }],
            "prompts": [{ "id": "plain", "file_path": "prompts/plain.md", "git_commit_hash": "ad48ac3" }],
            "tasks": [{ "id": "t0" }, { "id": "t1" }],
            "config": {
                "run": { "seed": 11, "timeout_s": 60 }, "dataset": { "n": 2, "domains": ["qa"] },
                "models": [{ "id": "m", "alias": "m", "gguf": "m.gguf" }],
                "prompts": [{ "id": "plain", "system": "Answer briefly." }], "sandbox": sandbox,
            },
        });
        self.admin.admin_post("/api/admin/runs", &run).await?.expect_status(StatusCode::CREATED)?;
        Ok(run_id)
    }

    pub(super) async fn cancel(&self, run_id: &str) -> Result<()> {
        let path = format!("/api/admin/runs/{run_id}/cancel");
        self.admin.admin_post(&path, &json!({})).await?.expect_status(StatusCode::OK)
    }

    /// Lets the lease of the run's claim run out, and waits until the reaper has taken the row back.
    pub(super) async fn lapse(&self, run_id: &str) -> Result<()> {
        let lapse = "UPDATE run_queue SET lease_expires_at = now() - interval '1 hour' \
                     WHERE run_id = $1::text::uuid AND status IN ('CLAIMED', 'IN_PROGRESS')";
        let ended = "SELECT EXISTS (SELECT FROM past_claims JOIN run_queue USING (queue_id) \
                                     WHERE run_id = $1::text::uuid)";
        loop {
            // A heartbeat may have come in between.
            self.db.execute(lapse, &[&run_id]).await.context("lapse a lease")?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let row = self.db.query_one(ended, &[&run_id]).await.context("look at the claims")?;
            if row.get(0) {
                return Ok(());
            }
        }
    }

    pub(super) async fn status(&self, run_id: &str) -> Result<String> {
        let sql = "SELECT status FROM run_queue WHERE run_id = $1::text::uuid";
        let row = self.db.query_one(sql, &[&run_id]).await.context("look at a run")?;
        Ok(row.get(0))
    }

    /// Waits for the run's row to get this status.
    pub(super) async fn until_status(&self, run_id: &str, status: &str) -> std::result::Result<(), Broken> {
        let until = Instant::now() + self.patience;
        loop {
            let now = self.status(run_id).await.map_err(|error| error.to_string())?;
            if now == status {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("after {} s the run is {now} and not {status}", self.patience.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for what the proxy sees.
    pub(super) async fn until(
        &self,
        what: &str,
        seen: impl Fn(&[Exchange]) -> bool,
    ) -> std::result::Result<(), Broken> {
        let until = Instant::now() + self.patience;
        while !seen(&self.proxy.exchanges()) {
            if Instant::now() > until {
                return Err(format!("{what} did not come within {} s", self.patience.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Applies each fault to the request of its kind and number, counted from now.
    pub(super) fn faults(&self, faults: impl IntoIterator<Item = ((Operation, u32), Fault)>) {
        let mut faults: BTreeMap<(u8, u32), Fault> = faults
            .into_iter()
            .map(|((operation, number), fault)| ((operation as u8, number), fault))
            .collect();
        self.proxy.direct(move |asked: &Asked| {
            faults.remove(&(asked.operation as u8, asked.number)).unwrap_or(Fault::None)
        });
    }

    /// How many exchanges there are: those after it belong to the practice under way.
    pub(super) fn mark(&self) -> usize {
        self.proxy.exchanges().len()
    }

    /// The exchanges of this kind since the mark.
    pub(super) fn since(&self, mark: usize, operation: Operation) -> Vec<Exchange> {
        let all = self.proxy.exchanges().into_iter().skip(mark);
        all.filter(|exchange| exchange.asked.operation == operation).collect()
    }

    /// The exchanges of this kind for the run.
    pub(super) fn of_run(&self, run_id: &str, operation: Operation) -> Vec<Exchange> {
        let all = self.since(0, operation).into_iter();
        all.filter(|exchange| exchange.asked.run_id.as_deref() == Some(run_id)).collect()
    }
}

/// An answer of the service in trouble.
pub(super) fn unavailable(retry_after: u64) -> Fault {
    let body =
        json!({ "code": "unavailable", "status": 503, "title": "The service is temporarily unavailable" });
    Fault::Answer { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(retry_after), body }
}

/// A 401 with this code, and more members.
pub(super) fn unauthorized(code: &str, members: Value) -> Fault {
    let mut body = json!({ "code": code, "status": 401, "title": "Refused by the sandbox" });
    if let (Some(body), Value::Object(members)) = (body.as_object_mut(), members) {
        body.extend(members);
    }
    Fault::Answer { status: StatusCode::UNAUTHORIZED, retry_after: None, body }
}

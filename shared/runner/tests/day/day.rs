//! What a day needs: the local stack, a proxy that loses what a test wants lost, a key, and runners.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bakeoff_local::api_gateway::event::scheduled_event;
use bakeoff_local::client::Api;
use bakeoff_local::sandbox::proxy::{Changes, Exchange, Operation, Proxy};
use bakeoff_local::stack::{Options, Stack};
use bakeoff_runner::key::RunnerKey;
use bakeoff_runner::work::processes::MARK;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use http::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::leftovers::Harnesses;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Day {
    pub(crate) stack: Stack,
    pub(crate) proxy: Proxy,
    pub(crate) admin: Api,
    pub(crate) db: Client,
    pub(crate) folder: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) key_id: String,
    pub(crate) harnesses: Harnesses,
    _database: Database,
    runners: AtomicU32,
}

impl Day {
    /// A stack with leases of 3 s, so that heartbeats come every second; but no reaper runs unless a test
    /// runs it.
    pub(crate) async fn begin(name: &str) -> Self {
        Self::begin_with(name, Options::default()).await
    }

    pub(crate) async fn begin_with(name: &str, options: Options) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("harness")).unwrap();
        let database = Database::create().await;
        let changes = Changes { unknown_field: true, poll_after_s: Some(1) };
        let mut proxy = Proxy::bind(0, changes).await.unwrap();
        let options = Options {
            port: 0,
            database_url: Some(database.owner_url().to_owned()),
            lease_ttl_s: 3,
            reap_every: Duration::from_secs(24 * 3600),
            public_url: Some(proxy.url.clone()),
            ..options
        };
        let stack = Stack::start(&options).await.unwrap();
        proxy.serve(&stack.url);
        let admin = Api::new(&stack.url);
        let key = folder.join("runner.pem");
        let harnesses = Harnesses { work: folder.join("work") };
        let public_key = RunnerKey::create(&key).unwrap().public_base64();
        let db = database.client().await;
        let mut day = Self {
            stack,
            proxy,
            admin,
            db,
            folder,
            key,
            key_id: String::new(),
            harnesses,
            _database: database,
            runners: AtomicU32::new(0),
        };
        day.key_id = day.allow(&public_key).await;
        day
    }

    pub(crate) async fn allow(&self, public_key: &str) -> String {
        let entry = json!({ "public_key": public_key, "label": "bench" });
        let reply = self.admin.admin_post("/api/admin/keys", &entry).await.unwrap();
        reply.expect_status(StatusCode::CREATED).unwrap();
        reply.text("key_id")
    }

    /// Enqueues a run of two tasks in which the stand-in does this.
    pub(crate) async fn enqueue(&self, stand_in: Value) -> Uuid {
        let mut run = fixture::run();
        run["tasks"] = json!([{ "id": "t0" }, { "id": "t1" }]);
        run["config"] = json!({
            "run": { "seed": 11 }, "dataset": { "n": 2, "domains": ["qa"] }, "stand_in": stand_in,
            "models": [{ "id": "m", "gguf": "m.gguf" }], "prompts": [{ "id": "plain", "system": "" }],
        });
        self.admin
            .admin_post("/api/admin/runs", &run)
            .await
            .unwrap()
            .expect_status(StatusCode::CREATED)
            .unwrap();
        run["run_id"].as_str().unwrap().parse().unwrap()
    }

    /// A command of the runner's program.
    pub(crate) fn program() -> Command {
        Command::new(env!("CARGO_BIN_EXE_bakeoff-runner"))
    }

    /// Starts a runner that works through the proxy, always in the same folder.
    pub(crate) fn runner(&self, arguments: &[&str]) -> Runner {
        let harness = self.folder.join("harness");
        let python = env!("CARGO_BIN_EXE_stand-in-harness");
        let harness = ["--python", python, "--harness", harness.to_str().unwrap()];
        self.runner_of_program(&[&harness, arguments].concat())
    }

    /// Starts a runner; the arguments say what runs the jobs.
    pub(crate) fn runner_of_program(&self, arguments: &[&str]) -> Runner {
        let number = self.runners.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.join(format!("runner.{number}.log"));
        let out = std::fs::File::create(&log).unwrap();
        let child = Self::program()
            .args(["work", "--json", "--runner-id", "bench", "--vram", "24", "--grace", "2"])
            .current_dir(&self.folder)
            .args(["--api", &self.proxy.url, "--key"])
            .arg(&self.key)
            .arg("--work")
            .arg(&self.harnesses.work)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .spawn()
            .unwrap();
        Runner { child, log }
    }

    /// A file that the stand-in waits for, and the stanza that says so.
    pub(crate) fn hold(&self, name: &str) -> (PathBuf, Value) {
        let path = self.folder.join(name);
        let stanza = json!({ "hold": path });
        (path, stanza)
    }

    pub(crate) fn release(&self, hold: &Path) {
        std::fs::write(hold, "").unwrap();
    }

    /// The row's status and how many attempts have failed.
    pub(crate) async fn row(&self, run_id: Uuid) -> (String, i32) {
        let sql = "SELECT status, attempt_count FROM run_queue WHERE run_id = $1";
        let row = self.db.query_one(sql, &[&run_id]).await.unwrap();
        (row.get(0), row.get(1))
    }

    pub(crate) async fn until_status(&self, run_id: Uuid, status: &str) {
        self.until(&format!("{run_id} {status}"), async || self.row(run_id).await.0 == status).await;
    }

    pub(crate) async fn until(&self, what: &str, mut come: impl AsyncFnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !come().await {
            if Instant::now() > until {
                panic!("{what} did not come; the logs are in {}", self.folder.display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How the harness was started for the run: `fresh` or `resumed`, in order.
    pub(crate) fn starts(&self, run_id: Uuid) -> Vec<String> {
        let starts = std::fs::read_to_string(self.folder.join("harness/starts")).unwrap_or_default();
        let run_id = run_id.to_string();
        let of_run = starts.lines().filter_map(|line| line.strip_prefix(run_id.as_str()));
        of_run.map(|how| how.trim().to_owned()).collect()
    }

    pub(crate) async fn until_started(&self, run_id: Uuid) {
        self.until("the harness", async || !self.starts(run_id).is_empty()).await;
    }

    /// What was asked of this kind, and answered or not.
    pub(crate) fn asked(&self, operation: Operation) -> Vec<Exchange> {
        let all = self.proxy.exchanges().into_iter();
        all.filter(|exchange| exchange.asked.operation == operation).collect()
    }

    /// Lets the leases of all live claims run out, and runs the reaper.
    pub(crate) async fn lapse_and_reap(&self) {
        let lapse = "UPDATE run_queue SET lease_expires_at = now() - interval '1 s' \
                     WHERE status IN ('CLAIMED', 'IN_PROGRESS')";
        assert!(self.db.execute(lapse, &[]).await.unwrap() > 0);
        let event = scheduled_event("reaper", OffsetDateTime::now_utc()).to_string();
        self.stack.functions["reaper"].invoke(event.into()).await.unwrap();
    }

    /// The processes of the harness that live, by whatever claim: those of this day only.
    pub(crate) fn children(&self) -> Vec<String> {
        let claims = self.harnesses.claims();
        claims
            .into_iter()
            .flat_map(bakeoff_runner::work::processes::of_claim)
            .map(|pid| {
                format!(
                    "{MARK}: {}",
                    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
                )
            })
            .collect()
    }

    /// Each job has ended, and once; no process is left.
    pub(crate) async fn end(self) {
        assert_eq!(self.children(), Vec::<String>::new());
        let twice = "SELECT count(*) FROM submissions GROUP BY run_id HAVING count(*) > 1";
        assert!(self.db.query(twice, &[]).await.unwrap().is_empty());
        self.stack.stop().await;
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// A running runner. Killed when it is dropped.
pub(crate) struct Runner {
    child: Child,
    log: PathBuf,
}

impl Runner {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the runner did not end:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn ended_well(&mut self) {
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.said());
    }

    /// What it has printed.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

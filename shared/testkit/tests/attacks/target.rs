//! The service under attack: one local stack for all tests of this process.

use std::sync::{Arc, Weak};

use bakeoff_local::stack::{Options, Stack};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::Machine;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Client;

use crate::request::{Attempt, post};

/// Processes of each function, so that simultaneous requests meet in the database and not in a queue.
const INSTANCES: usize = 4;

/// A running stack, on a database of its own.
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) database: Database,
    /// The service's own signing key: a test that bends a claim must not fail by the signature.
    pub(crate) service_key: SigningKey,
    pub(crate) kid: String,
    stack: Option<Stack>,
    runtime: Option<Runtime>,
    jobs: Mutex<()>,
}

/// The stack that the tests of this process share. It ends with the last test that uses it.
pub(crate) async fn target() -> Arc<Target> {
    static SHARED: Mutex<Weak<Target>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(target) = shared.upgrade() {
        return target;
    }
    let target = Arc::new(Target::start().await);
    *shared = Arc::downgrade(&target);
    target
}

impl Target {
    /// A stack of a test's own.
    pub(crate) async fn start() -> Self {
        let options = Options { port: 0, instances: INSTANCES, ..Options::default() };
        Self::start_with(options).await
    }

    /// A stack to measure: one process of each function.
    pub(crate) async fn start_single(release: bool) -> Self {
        Self::start_with(Options { port: 0, release, ..Options::default() }).await
    }

    async fn start_with(options: Options) -> Self {
        let database = Database::create().await;
        let options = Options { database_url: Some(database.owner_url().to_owned()), ..options };
        // Its tasks must outlive the test that started it, and with that test's runtime they would end.
        let runtime = Runtime::new().unwrap();
        let stack = runtime.spawn(async move { Stack::start(&options).await }).await.unwrap().unwrap();
        let keys = std::fs::read_to_string(stack.folder.join("signing-keys.json")).unwrap();
        let keys: Value = serde_json::from_str(&keys).unwrap();
        let seed = URL_SAFE_NO_PAD.decode(keys["keys"][0]["d"].as_str().unwrap()).unwrap();
        Self {
            url: stack.url.clone(),
            database,
            service_key: SigningKey::from_bytes(&seed.try_into().unwrap()),
            kid: keys["keys"][0]["kid"].as_str().unwrap().to_owned(),
            stack: Some(stack),
            runtime: Some(runtime),
            jobs: Mutex::new(()),
        }
    }

    pub(crate) fn stack(&self) -> &Stack {
        self.stack.as_ref().expect("it runs until it is dropped")
    }

    pub(crate) async fn client(&self) -> Client {
        self.database.client().await
    }

    /// The URL that proofs must be made for.
    pub(crate) fn register_url(&self) -> String {
        format!("{}/api/runners/register", self.url)
    }

    /// The claims of a good proof.
    pub(crate) fn proof_claims(&self, machine: &Machine) -> Value {
        let mut claims = machine.proof_claims();
        claims["htu"] = json!(self.register_url());
        claims
    }

    /// A registration that succeeds if the machine's key is allowed.
    pub(crate) fn registration(&self, machine: &Machine) -> Attempt {
        let proof = machine.proof(&self.proof_claims(machine));
        post("/api/runners/register").header("dpop", &proof).json(&machine.registration())
    }

    /// A machine whose key is allowed.
    pub(crate) async fn allowed(&self, name: &str) -> Machine {
        let machine = Machine::new(name);
        machine.allow(&self.client().await).await;
        machine
    }

    /// An allowed and registered runner, and its token.
    pub(crate) async fn runner(&self, name: &str) -> (Machine, String) {
        let machine = self.allowed(name).await;
        let registered = self.registration(&machine).send(self).await.success(200);
        (machine, registered["token"].as_str().unwrap().to_owned())
    }

    /// Waits until no other test has jobs in the queue: the runner of one would claim another's.
    pub(crate) async fn queue_of_its_own(&self) -> MutexGuard<'_, ()> {
        let guard = self.jobs.lock().await;
        let leave_none = "UPDATE run_queue SET status = 'CANCELLED', completed_at = now(), \
                          lease_expires_at = NULL, retry_after = NULL \
                          WHERE status IN ('PENDING', 'CLAIMED', 'IN_PROGRESS')";
        self.database.owner().await.execute(leave_none, &[]).await.unwrap();
        guard
    }

    /// The row count of a table, or of some of its rows: `audit_log WHERE …`.
    pub(crate) async fn count(&self, rows: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {rows}");
        self.client().await.query_one(&count, &[]).await.unwrap().get(0)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let (Some(runtime), Some(stack)) = (self.runtime.take(), self.stack.take()) else { return };
        let folder = (!std::thread::panicking()).then(|| stack.folder.clone());
        // A runtime cannot be dropped inside another, and the test's own is still running.
        let ending = std::thread::spawn(move || runtime.block_on(stack.stop()));
        let _ = ending.join();
        if let Some(folder) = folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

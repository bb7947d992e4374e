//! Carries out the schedule's faults.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_postgres::Client;

use bakeoff_core::runners::token::rotate_key_set;

use super::disk::Disk;
use super::log::{ReaperRun, now};
use super::proxy::Proxy;
use super::random::Random;
use super::schedule::Fault;
use super::world::World;
use crate::api_gateway::event::scheduled_event;
use crate::error::{Error, ErrorContext, Result};
use crate::postgres::{Cluster, connect};
use crate::stack::Stack;

/// The functions whose processes are killed, those that matter most named most often.
const VICTIMS: [&str; 9] =
    ["submit", "submit", "submit", "claim", "claim", "heartbeat", "release", "reaper", "runs"];

/// What faults are carried out on.
pub(super) struct Conductor {
    pub(super) world: Arc<World>,
    pub(super) stack: Stack,
    pub(super) proxy: Proxy,
    pub(super) disk: Option<Disk>,
    pub(super) runners: usize,
    /// Postgres itself, past the relay.
    pub(super) database_url: String,
    /// Held by what a crash of Postgres must not meet: recovery on a full disk cannot end.
    pub(super) cluster: tokio::sync::Mutex<Cluster>,
    pub(super) revoked: Mutex<Vec<usize>>,
    pub(super) migrating: AtomicBool,
}

impl Conductor {
    /// Carries out one fault, and whatever ends it; logged only if it struck.
    pub(super) async fn strike(&self, fault: Fault, mut random: Random) {
        let struck = match fault {
            Fault::KillFunction => self.kill_function(&mut random).await,
            Fault::TerminateBackends => self.terminate_backends(&mut random).await,
            Fault::CutDatabaseReply => {
                self.proxy.cut_next_reply();
                true
            }
            Fault::CrashPostgres => return self.crash_postgres(&mut random).await,
            Fault::RevokeKey => return self.revoke_key(&mut random).await,
            Fault::RotateSigningKeys => self.rotate_signing_keys(&mut random).is_ok(),
            Fault::CancelRun => match self.world.recent_run(random.next()) {
                Some((run_id, _)) => {
                    self.world.cancel(run_id).await;
                    true
                }
                None => false,
            },
            Fault::RequeueRun => self.requeue_run(&mut random).await,
            Fault::TwoReapers => {
                self.world.log.fault(fault.name());
                tokio::join!(self.reap(), self.reap());
                return;
            }
            Fault::Migrate => self.migrate().await.is_ok(),
            Fault::HoldSnapshot => self.hold_snapshot(&mut random).await.is_ok(),
            Fault::FillDisk => return self.fill_disk(&mut random).await,
        };
        if struck {
            self.world.log.fault(fault.name());
        }
    }

    async fn kill_function(&self, random: &mut Random) -> bool {
        for _ in 0..200 {
            let busy = self.stack.functions[random.pick(&VICTIMS)].busy();
            if !busy.is_empty() {
                let id = random.pick(&busy).to_string();
                let mut kill = Command::new("kill");
                kill.args(["-KILL", &id]).stdin(Stdio::null()).stderr(Stdio::null());
                return kill.status().is_ok_and(|status| status.success());
            }
            sleep(Duration::from_millis(5)).await;
        }
        false
    }

    async fn terminate_backends(&self, random: &mut Random) -> bool {
        let Ok(client) = self.database().await else { return false };
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE application_name = 'bakeoff' \
                         ORDER BY state = 'active' DESC, hashtext(pid::text || $1) LIMIT 3";
        let salt = random.next().to_string();
        client.query(terminate, &[&salt]).await.is_ok_and(|rows| !rows.is_empty())
    }

    async fn crash_postgres(&self, random: &mut Random) {
        let mut cluster = self.cluster.lock().await;
        self.world.log.fault(Fault::CrashPostgres.name());
        // Blocks this worker thread for a moment; moving the cluster to another would take it out of its lock.
        tokio::task::block_in_place(|| cluster.crash());
        sleep(Duration::from_millis(random.below(1500) as u64)).await;
        while let Err(error) = tokio::task::block_in_place(|| cluster.restart()) {
            eprintln!("{error}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn revoke_key(&self, random: &mut Random) {
        let number = random.below(self.runners);
        {
            let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
            if revoked.contains(&number) {
                return;
            }
            revoked.push(number);
        }
        self.world.log.fault(Fault::RevokeKey.name());
        self.world.revoke(number).await;
        sleep(Duration::from_millis(200 + random.below(3000) as u64)).await;
        self.world.allow(number).await;
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != number);
    }

    /// As the rotation function does it; written to a file of another name first, as no reader may see half.
    fn rotate_signing_keys(&self, random: &mut Random) -> Result<()> {
        let path = &self.world.keys_file;
        let current = std::fs::read_to_string(path).context("read the signing keys")?;
        let mut seed = [0; 32];
        seed.iter_mut().for_each(|byte| *byte = random.next() as u8);
        let set = rotate_key_set(&current, seed, OffsetDateTime::now_utc(), time::Duration::hours(1))
            .map_err(|refused| Error::Failed(refused.to_string()))?;
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, set).context("write the signing keys")?;
        std::fs::rename(&fresh, path).context("replace the signing keys")
    }

    async fn requeue_run(&self, random: &mut Random) -> bool {
        let cancelled = random.chance(0.5).then(|| self.world.take_cancelled()).flatten();
        let chosen = cancelled.map(|run_id| (run_id, true)).or_else(|| self.world.recent_run(random.next()));
        match chosen {
            Some((run_id, true)) => self.world.requeue(run_id).await,
            // The audit log does not say which rows of a split run were requeued; attempts could not be checked.
            _ => return false,
        }
        true
    }

    /// One run of the reaper; what it did goes to the log if its answer came.
    pub(super) async fn reap(&self) {
        let event = scheduled_event("reaper", OffsetDateTime::now_utc()).to_string();
        let started = now();
        let Ok(answer) = self.stack.functions["reaper"].invoke(Bytes::from(event)).await else { return };
        let Ok(answer) = serde_json::from_slice::<Value>(&answer) else { return };
        if let Some(finished) = answer["finished"].as_bool() {
            let grace = !answer["grace_until"].is_null();
            let audit_head = serde_json::from_value(answer["audit_head"].clone()).ok();
            self.world.log.reaper_run(ReaperRun { started, ended: now(), grace, finished, audit_head });
        }
    }

    /// A deploy's migration while the queue is in use: the functions replaced, the hot table altered.
    async fn migrate(&self) -> Result<()> {
        if self.migrating.swap(true, Ordering::Relaxed) {
            return Err(Error::Failed("a migration is under way".into()));
        }
        let migrated = self.apply_migrations().await;
        self.migrating.store(false, Ordering::Relaxed);
        migrated
    }

    async fn apply_migrations(&self) -> Result<()> {
        let mut client = self.database().await?;
        let applied = bakeoff_core::migrate::apply(&mut client).await;
        applied.map_err(|error| Error::Failed(error.to_string()))?;
        let expand = "ALTER TABLE run_queue ADD COLUMN IF NOT EXISTS storm text; \
                      CREATE INDEX IF NOT EXISTS run_queue_storm_idx ON run_queue (storm)";
        client.batch_execute(expand).await.context("expand the schema")?;
        sleep(Duration::from_millis(300)).await;
        let contract = "ALTER TABLE run_queue DROP COLUMN IF EXISTS storm";
        client.batch_execute(contract).await.context("contract the schema")
    }

    async fn hold_snapshot(&self, random: &mut Random) -> Result<()> {
        let client = self.database().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_snapshot()";
        client.batch_execute(begin).await.context("take a snapshot")?;
        sleep(Duration::from_millis(1500 + random.below(4000) as u64)).await;
        Ok(())
    }

    async fn fill_disk(&self, random: &mut Random) {
        let Some(disk) = &self.disk else { return };
        let _no_crash_meanwhile = self.cluster.lock().await;
        self.world.log.fault(Fault::FillDisk.name());
        if let Err(error) = tokio::task::block_in_place(|| disk.fill()) {
            eprintln!("{error}");
        }
        sleep(Duration::from_millis(1000 + random.below(2000) as u64)).await;
        disk.empty();
    }

    /// A connection past the relay.
    pub(super) async fn database(&self) -> Result<Client> {
        connect(&self.database_url).await
    }
}

/// Starts a cluster without holding up the runtime.
pub(super) async fn start_cluster(folder: std::path::PathBuf) -> Result<Cluster> {
    let started = spawn_blocking(move || Cluster::start(&folder)).await;
    started.map_err(|error| Error::Failed(error.to_string()))?
}

//! The admins: they allow and revoke keys, enqueue, cancel and requeue runs, and send again what failed.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::log::{Act, Acted, now};
use super::random::Random;
use super::results::Terms;
use super::world::{PATIENCE, World};
use crate::client::Reply;
use crate::demo::harness_run::base64;
use crate::signing_keys::thumbprint;

impl World {
    /// Allows the key of a runner.
    pub(super) async fn allow(&self, number: usize) {
        let key = self.key(number);
        let body = json!({
            "public_key": base64(key.verifying_key().as_bytes()), "label": format!("storm runner {number}"),
        });
        self.insist(Act::Allow, &thumbprint(&key), "/api/admin/keys", Some(&body)).await;
    }

    /// Revokes it.
    pub(super) async fn revoke(&self, number: usize) {
        let key_id = thumbprint(&self.key(number));
        let path = format!("/api/admin/keys/{key_id}");
        self.insist(Act::Revoke, &key_id, &path, None).await;
    }

    /// Enqueues one run; says how many rows it has.
    pub(super) async fn enqueue(&self, random: &mut Random) -> usize {
        let terms = Terms {
            priority: random.pick(&[50, 100, 100, 100, 150]),
            max_attempts: random.pick(&[1, 2, 5]),
            big: random.chance(0.3),
            split: random.chance(0.08),
        };
        let run_id = Uuid::new_v4();
        let body = self.template.enqueue(run_id, terms);
        self.insist(Act::Enqueue, &run_id.to_string(), "/api/admin/runs", Some(&body)).await;
        self.enqueued(run_id, !terms.split);
        if terms.split { 2 } else { 1 }
    }

    pub(super) async fn cancel(&self, run_id: Uuid) {
        let path = format!("/api/admin/runs/{run_id}/cancel");
        let reason = json!({"reason": "storm"});
        let done = self.insist(Act::Cancel, &run_id.to_string(), &path, Some(&reason)).await;
        if done {
            self.cancelled(run_id);
        }
    }

    pub(super) async fn requeue(&self, run_id: Uuid) {
        let path = format!("/api/admin/runs/{run_id}/requeue");
        self.insist(Act::Requeue, &run_id.to_string(), &path, Some(&json!({}))).await;
    }

    /// Sends a request until the service decides, a `DELETE` if it has no body; says whether it was done.
    async fn insist(&self, act: Act, subject: &str, path: &str, body: Option<&Value>) -> bool {
        loop {
            let sent = now();
            let answer = timeout(PATIENCE, async {
                match body {
                    Some(body) => self.api.admin_post(path, body).await,
                    None => self.api.admin_delete(path).await,
                }
            });
            let reply = answer.await.ok().and_then(Result::ok);
            let status = reply.as_ref().map_or(0, |reply| reply.status.as_u16());
            let changed = reply.as_ref().map_or(0, |reply| changed(act, reply));
            self.log.act(Acted { act, subject: subject.to_owned(), sent, received: now(), status, changed });
            if (200..500).contains(&status) {
                return status < 300;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// How many rows or keys the answer says were changed by this very request.
fn changed(act: Act, reply: &Reply) -> i64 {
    let status = reply.status.as_u16();
    match act {
        Act::Enqueue => reply.body["rows"].as_array().map_or(0, Vec::len) as i64,
        Act::Allow => i64::from(status == 201),
        // A repeated revocation is answered as the first was: the answer does not tell.
        Act::Revoke => i64::from(status == 200),
        Act::Cancel => reply.body["rows_cancelled"].as_i64().unwrap_or(0),
        Act::Requeue => reply.body["rows_requeued"].as_i64().unwrap_or(0),
    }
}

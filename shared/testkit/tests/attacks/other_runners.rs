//! What one allowed runner can do to the jobs, results and name of another.

use bakeoff_testkit::fixture::{Machine, enqueue_run, envelope, result_of, run};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::request::{get, post};
use crate::target::{Target, target};

/// A victim that holds a job, and an attacker with a token of its own.
struct Scene {
    victim: Machine,
    victims_token: String,
    attacker: Machine,
    token: String,
    run_id: Uuid,
    claim_id: Uuid,
}

async fn scene(target: &Target, name: &str) -> Scene {
    let (victim, victims_token) = target.runner(&format!("{name}-victim")).await;
    let (attacker, token) = target.runner(&format!("{name}-attacker")).await;
    let run_id = enqueue_run(&target.client().await, &run()).await.run_id;
    let claim_id = Uuid::new_v4();
    let claim = post("/api/queue/claim").bearer(&victims_token).json(&json!({ "claim_id": claim_id }));
    assert_eq!(claim.send(target).await.success(200)["run_id"], run_id.to_string());
    Scene { victim, victims_token, attacker, token, run_id, claim_id }
}

impl Scene {
    fn path(&self, action: &str) -> String {
        format!("/api/queue/{}/{action}", self.run_id)
    }

    fn result(&self) -> Value {
        result_of(&self.run_id.to_string(), &["m".to_owned()], &["plain".to_owned()])
    }

    fn submission(&self, signer: &Machine, claim_id: Uuid) -> String {
        let envelope = envelope(signer, &self.result());
        format!(r#"{{"claim_id": "{claim_id}", "envelope": {envelope}}}"#)
    }

    /// The victim's claim is live, and its result is still accepted.
    async fn nothing_was_taken(&self, target: &Target) {
        let heartbeat = post(&self.path("heartbeat")).bearer(&self.victims_token);
        let told = heartbeat.json(&json!({ "claim_id": self.claim_id })).send(target).await.success(200);
        assert_eq!(told["directive"], "continue");
        let submit = post(&self.path("submit")).bearer(&self.victims_token);
        submit.body(self.submission(&self.victim, self.claim_id)).send(target).await.success(201);
    }
}

#[tokio::test]
async fn ending_or_extending_another_runners_claim() {
    let target = target().await;
    let _alone = target.queue_of_its_own().await;
    let scene = scene(&target, "claims").await;
    let claim = json!({ "claim_id": scene.claim_id });
    let failure = json!({ "claim_id": scene.claim_id, "failure": { "code": "oom" } });
    for (action, body) in [("heartbeat", &claim), ("release", &claim), ("release", &failure)] {
        let attempt = post(&scene.path(action)).bearer(&scene.token).json(body);
        attempt.send(&target).await.refused(409, "claim_lost", action);
    }
    let taken = post("/api/queue/claim").bearer(&scene.token).json(&claim);
    taken.send(&target).await.refused(409, "claim_id_taken", "the same claim_id");
    scene.nothing_was_taken(&target).await;
}

#[tokio::test]
async fn submitting_under_another_runners_claim() {
    let target = target().await;
    let _alone = target.queue_of_its_own().await;
    let scene = scene(&target, "submit").await;
    let attempt = |body: String| post(&scene.path("submit")).bearer(&scene.token).body(body);
    let own = scene.submission(&scene.attacker, scene.claim_id);
    attempt(own).send(&target).await.refused(409, "claim_lost", "signed by the attacker");
    let made_up = scene.submission(&scene.attacker, Uuid::new_v4());
    attempt(made_up).send(&target).await.refused(409, "claim_lost", "a claim that nobody made");
    scene.nothing_was_taken(&target).await;
}

#[tokio::test]
async fn passing_off_another_runners_result() {
    let target = target().await;
    let _alone = target.queue_of_its_own().await;
    let scene = scene(&target, "pass-off").await;
    let stolen = scene.submission(&scene.victim, scene.claim_id);
    let attempt = post(&scene.path("submit")).bearer(&scene.token).body(stolen);
    attempt.send(&target).await.refused(422, "signature_invalid", "the victim's envelope");
    // The victim's own envelope, changed after it was signed.
    let changed = scene.submission(&scene.victim, scene.claim_id).replacen("50.0", "51.0", 1);
    let attempt = post(&scene.path("submit")).bearer(&scene.victims_token).body(changed);
    attempt.send(&target).await.refused(422, "signature_invalid", "one digit changed");
    // A result of this run, for another one.
    let other = enqueue_run(&target.client().await, &run()).await.run_id;
    let elsewhere = post(&format!("/api/queue/{other}/submit")).bearer(&scene.victims_token);
    let attempt = elsewhere.body(scene.submission(&scene.victim, scene.claim_id));
    attempt.send(&target).await.refused(422, "run_mismatch", "another run's");
    scene.nothing_was_taken(&target).await;
}

#[tokio::test]
async fn reading_another_runners_receipt() {
    let target = target().await;
    let _alone = target.queue_of_its_own().await;
    let scene = scene(&target, "receipt").await;
    scene.nothing_was_taken(&target).await;
    let path = format!("/api/queue/{}", scene.run_id);
    let seen = get(&path).bearer(&scene.token).send(&target).await.success(200);
    assert_eq!(seen["rows"][0]["submission"], Value::Null);
    assert!(!seen.to_string().contains(&scene.claim_id.to_string()), "a claim_id is a capability: {seen}");
    let own = get(&path).bearer(&scene.victims_token).send(&target).await.success(200);
    assert!(own["rows"][0]["submission"]["receipt"].is_string());
}

#[tokio::test]
async fn taking_another_runners_name() {
    let target = target().await;
    let (victim, _) = target.runner("names-victim").await;
    let mut attacker = target.allowed("names-attacker").await;
    attacker.name = victim.name.clone();
    target.registration(&attacker).send(&target).await.refused(409, "runner_id_taken", "a name in use");
    // A person would take these for the victim's name, and no one could tell them apart on a screen.
    for name in ["names-victim ", "names-victim\u{200b}", "names-\u{202e}mitciv"] {
        attacker.name = name.to_owned();
        target.registration(&attacker).send(&target).await.refused(
            422,
            "invalid_request",
            "an invisible difference",
        );
    }
    // A visible difference makes it another name, and another runner.
    attacker.name = "NAMES-VICTIM".to_owned();
    target.registration(&attacker).send(&target).await.success(200);
    let key = target.client().await;
    let of_victim = "SELECT key_id FROM runners WHERE runner_id = 'names-victim'";
    assert_eq!(key.query_one(of_victim, &[]).await.unwrap().get::<_, String>(0), victim.key_id());
}

//! Tests of the binding of a result to its claim, and of who gets a receipt.

use bakeoff_core::Error;
use bakeoff_core::queue::claim::{ClaimRequest, Job, claim};
use bakeoff_core::results::submission::verify_envelope;
use bakeoff_core::results::submit::{Accepted, SubmitTerms, submit};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Machine, Runner, SERVICE, TERMS};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

fn result_with(job: &Job, stanza: Value) -> Value {
    let mut result = fixture::result(job);
    result["config"]["queue"] = stanza;
    result
}

fn bound_result(job: &Job) -> Value {
    result_with(job, json!({ "claim_id": job.claim_id, "nonce": job.nonce }))
}

async fn submit_on_terms(
    client: &Client,
    runner: &Runner,
    job: &Job,
    result: &Value,
    require_bound: bool,
) -> Result<Accepted, Error> {
    let envelope = fixture::envelope(&runner.machine, result);
    let verified = verify_envelope(&runner.authenticated, &envelope)?;
    let keys = fixture::service_keys();
    let terms = SubmitTerms { keys: &keys, service: SERVICE, require_bound };
    submit(client, terms, &runner.authenticated, job.run_id, job.claim_id, &verified).await
}

#[tokio::test]
async fn a_result_with_its_claims_nonce_is_bound_and_the_receipt_says_so() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let accepted = submit_on_terms(&client, &runner, &job, &bound_result(&job), true).await.unwrap();
    assert!(accepted.bound);
    let receipt = fixture::service_keys().verify_receipt(&accepted.receipt).unwrap();
    assert!(receipt.bound);
    let again = submit_on_terms(&client, &runner, &job, &bound_result(&job), true).await.unwrap();
    assert!(again.bound && !again.new);
    let stored = client.query_one("SELECT bound FROM submissions", &[]).await.unwrap();
    assert!(stored.get::<_, bool>(0));
}

#[tokio::test]
async fn a_result_without_a_binding_is_accepted_unless_it_is_required() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let result = fixture::result(&job);
    let refused = submit_on_terms(&client, &runner, &job, &result, true).await;
    assert!(matches!(refused, Err(Error::BindingInvalid(_))), "{refused:?}");
    assert!(!submit_on_terms(&client, &runner, &job, &result, false).await.unwrap().bound);
}

#[tokio::test]
async fn another_claims_binding_is_refused_even_where_none_is_required() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    for stanza in [
        json!({ "claim_id": job.claim_id, "nonce": Uuid::new_v4() }),
        json!({ "claim_id": Uuid::new_v4(), "nonce": job.nonce }),
        json!({ "claim_id": job.claim_id }),
        json!({ "claim_id": job.claim_id, "nonce": "guessed" }),
        json!([]),
        json!("queue"),
    ] {
        let refused =
            submit_on_terms(&client, &runner, &job, &result_with(&job, stanza.clone()), false).await;
        assert!(matches!(refused, Err(Error::BindingInvalid(_))), "{stanza}: {refused:?}");
    }
    let submissions = client.query_one("SELECT count(*) FROM submissions", &[]).await.unwrap();
    assert_eq!(submissions.get::<_, i64>(0), 0);
    assert!(submit_on_terms(&client, &runner, &job, &bound_result(&job), false).await.unwrap().bound);
}

#[tokio::test]
async fn a_claim_keeps_its_nonce_and_the_next_one_has_another() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let same = ClaimRequest { claim_id: Some(job.claim_id), capabilities: None };
    let again = claim(&client, &runner.authenticated, TERMS, &same).await.unwrap().job().unwrap();
    assert_eq!(again.nonce, job.nonce);

    fixture::lapse_and_reap(&client, &job).await;
    let other = fixture::runner(&client, "other").await;
    let next = fixture::claim_next(&client, &other).await;
    assert_eq!(next.queue_id, job.queue_id);
    assert_ne!(next.nonce, job.nonce);
}

#[tokio::test]
async fn a_late_result_is_bound_to_the_lapsed_claim_that_it_was_computed_under() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    fixture::lapse_and_reap(&client, &job).await;
    let other = fixture::runner(&client, "other").await;
    let next = fixture::claim_next(&client, &other).await;

    // The claim that holds the row by now binds nothing of the runner before it.
    let foreign = result_with(&job, json!({ "claim_id": next.claim_id, "nonce": next.nonce }));
    let refused = submit_on_terms(&client, &runner, &job, &foreign, false).await;
    assert!(matches!(refused, Err(Error::BindingInvalid(_))), "{refused:?}");

    let accepted = submit_on_terms(&client, &runner, &job, &bound_result(&job), true).await.unwrap();
    assert!(accepted.late && accepted.bound);
    let receipt = fixture::service_keys().verify_receipt(&accepted.receipt).unwrap();
    assert!(receipt.late && receipt.bound);
    assert_eq!(receipt.claim_id, job.claim_id);
    let stored = client.query_one("SELECT late, bound FROM submissions", &[]).await.unwrap();
    assert_eq!((stored.get(0), stored.get(1)), (true, true));
}

#[tokio::test]
async fn a_receipt_goes_to_the_runner_that_submitted_and_to_no_other() {
    let database = Database::create().await;
    let client = database.client().await;
    let (runner, job) = fixture::runner_with_job(&client).await;
    let result = bound_result(&job);
    submit_on_terms(&client, &runner, &job, &result, false).await.unwrap();

    // The same key under another name: the signature verifies for it too.
    let namesake = Machine { name: "namesake".into(), key: runner.machine.key.clone() };
    let registration = namesake.registration();
    let namesake = namesake.register(&client, &registration).await;
    let refused = submit_on_terms(&client, &namesake, &job, &result, false).await;
    assert!(matches!(refused, Err(Error::RunFinished(_))), "{refused:?}");
    assert!(!submit_on_terms(&client, &runner, &job, &result, false).await.unwrap().new);
}

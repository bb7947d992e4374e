//! Why a claim found nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::Error;
use bakeoff_core::claim::{ClaimRequest, claim};
use bakeoff_core::explain::{Explanation, explain};
use bakeoff_core::revoke::revoke;
use bakeoff_testkit::Database;
use bakeoff_testkit::given::{self, TERMS};
use serde_json::json;

#[tokio::test]
async fn each_requirement_counts_the_rows_it_keeps_away() {
    let database = Database::create().await;
    let client = database.client().await;
    let small = given::runner_with(&client, "small", 8.0, &["q4_k_m"]).await;
    let other = given::runner_with(&client, "other", 8.0, &["q4_k_m"]).await;

    for (quantization, billions) in [("q4_k_m", 70.0), ("q4_k_m", 80.0), ("q8_0", 1.0), ("fp16", 70.0)] {
        let mut run = given::run();
        run["models"] = json!([given::model(&format!("{quantization}-{billions}"), quantization, billions)]);
        given::enqueued(&client, &run).await;
    }
    given::enqueued(&client, &given::run()).await;
    given::claimed(&client, &other).await;
    let deferred = given::enqueued(&client, &given::run()).await.rows[0].queue_id;
    let defer = "UPDATE run_queue SET retry_after = now() + interval '1 hour' WHERE queue_id = $1";
    client.execute(defer, &[&deferred]).await.unwrap();

    let request = ClaimRequest::default();
    assert!(claim(&client, &small.authenticated, TERMS, &request).await.unwrap().is_none());
    let explanation = explain(&client, &small.authenticated, &request).await.unwrap();
    let expected = Explanation { vram: 3, quantization: 2, deferred: 1, held_by_others: 1, eligible: 0 };
    assert_eq!(explanation, expected);

    given::enqueued(&client, &given::undemanding_run()).await;
    assert_eq!(explain(&client, &small.authenticated, &request).await.unwrap().eligible, 1);

    revoke(&client, &given::admin(), &small.machine.key_id(), None).await.unwrap();
    let refused = explain(&client, &small.authenticated, &request).await;
    assert!(matches!(refused, Err(Error::KeyNotAllowed)), "{refused:?}");
}

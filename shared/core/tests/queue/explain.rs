//! Tests of explaining why a claim found no job.

use bakeoff_core::Error;
use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::queue::explain::{Explanation, explain};
use bakeoff_core::runners::revoke::revoke;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, TERMS};
use serde_json::json;

#[tokio::test]
async fn explain_counts_the_rows_excluded_by_each_requirement() {
    let database = Database::create().await;
    let client = database.client().await;
    let small = fixture::runner_with(&client, "small", 8.0, &["q4_k_m"]).await;
    let other = fixture::runner_with(&client, "other", 8.0, &["q4_k_m"]).await;

    for (quantization, billions) in [("q4_k_m", 70.0), ("q4_k_m", 80.0), ("q8_0", 1.0), ("fp16", 70.0)] {
        let mut run = fixture::run();
        run["models"] =
            json!([fixture::model(&format!("{quantization}-{billions}"), quantization, billions)]);
        fixture::enqueue_run(&client, &run).await;
    }
    fixture::enqueue_run(&client, &fixture::run()).await;
    fixture::claim_next(&client, &other).await;
    let deferred = fixture::enqueue_run(&client, &fixture::run()).await.rows[0].queue_id;
    let defer = "UPDATE run_queue SET retry_after = now() + interval '1 hour' WHERE queue_id = $1";
    client.execute(defer, &[&deferred]).await.unwrap();

    let request = ClaimRequest::default();
    assert!(claim(&client, &small.authenticated, TERMS, &request).await.unwrap().job().is_none());
    let explanation = explain(&client, &small.authenticated, &request).await.unwrap();
    let expected = Explanation {
        vram: 3,
        quantization: 2,
        label: 0,
        deferred: 1,
        held_by_others: 1,
        eligible: 0,
        failures_in_a_row: 0,
        paused_until: None,
        nearest_miss: None,
    };
    let miss = explanation.nearest_miss.clone().unwrap();
    assert_eq!(miss.detail, "the nearest job needs 46 GB with q4_k_m; this runner has 8 GB");
    assert_eq!(Explanation { nearest_miss: None, ..explanation }, expected);

    fixture::undemanding_run(&client).await;
    assert_eq!(explain(&client, &small.authenticated, &request).await.unwrap().eligible, 1);

    revoke(&client, &fixture::admin(), &small.machine.key_id(), None).await.unwrap();
    let refused = explain(&client, &small.authenticated, &request).await;
    assert!(matches!(refused, Err(Error::KeyNotAllowed)), "{refused:?}");
}

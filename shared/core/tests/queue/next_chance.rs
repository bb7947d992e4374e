//! When a runner that found nothing should ask again.

use bakeoff_core::queue::claim::ClaimRequest;
use bakeoff_core::queue::next_chance::{NextChance, next_chance};
use bakeoff_core::runners::runner::Capabilities;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;

#[tokio::test]
async fn it_follows_from_what_the_runner_could_take() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let other = fixture::runner(&client, "other").await;
    let as_registered = ClaimRequest::default();
    let chance =
        async |request: &ClaimRequest| next_chance(&client, &runner.authenticated, request).await.unwrap();
    assert_eq!(chance(&as_registered).await, NextChance::Nothing);

    fixture::enqueue_run(&client, &fixture::run()).await;
    fixture::claim_next(&client, &other).await;
    assert_eq!(chance(&as_registered).await, NextChance::HeldByOthers);
    let too_small = ClaimRequest {
        capabilities: Some(Capabilities { vram_gb: 1.0, quantizations: vec!["q4_k_m".into()], labels: None }),
        ..ClaimRequest::default()
    };
    assert_eq!(chance(&too_small).await, NextChance::Nothing);

    let deferred = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    let defer = "UPDATE run_queue SET retry_after = now() + interval '30 s' WHERE run_id = $1";
    client.execute(defer, &[&deferred]).await.unwrap();
    assert!(matches!(chance(&as_registered).await, NextChance::Deferred(25..=30)));
    assert_eq!(chance(&too_small).await, NextChance::Nothing);
    let past = "UPDATE run_queue SET retry_after = now() - interval '30 s' WHERE run_id = $1";
    client.execute(past, &[&deferred]).await.unwrap();
    assert_eq!(chance(&as_registered).await, NextChance::Deferred(0));
    // What the runner holds itself is no chance.
    client.batch_execute("UPDATE run_queue SET retry_after = NULL").await.unwrap();
    fixture::claim_next(&client, &runner).await;
    let owner = database.owner().await;
    owner
        .batch_execute("DELETE FROM queue_jobs; DELETE FROM run_queue WHERE claimed_by = 'other'")
        .await
        .unwrap();
    assert_eq!(chance(&as_registered).await, NextChance::Nothing);
}

//! Jobs that ask for a label: only a runner that has it takes them, and all else stays as it was.

use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::queue::explain::explain;
use bakeoff_core::queue::overview::overview;
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runs::enqueue::NewRun;
use bakeoff_core::runs::listing::{Filter, list};
use bakeoff_core::runs::show::show;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Runner, TERMS};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

async fn enqueue_on(client: &Client, labels: Value) -> Uuid {
    let mut run = fixture::run();
    run["labels"] = labels;
    fixture::enqueue_run(client, &run).await.run_id
}

async fn claimed_run(client: &Client, runner: &Runner) -> Option<Uuid> {
    let job = claim(client, &runner.authenticated, TERMS, &ClaimRequest::default()).await.unwrap();
    job.map(|job| job.run_id)
}

#[tokio::test]
async fn a_job_goes_to_a_runner_with_its_labels_only() {
    let database = Database::create().await;
    let client = database.client().await;
    let plain = fixture::runner(&client, "bench-01").await;
    let amd = fixture::runner(&client, "bench-02").await;
    let label = r#"UPDATE runners SET labels = '{"gpu": "AMD", "rack": 7}' WHERE runner_id = 'bench-02'"#;
    client.batch_execute(label).await.unwrap();
    // Both classes have a cursor at the end of the order before any label is known.
    assert_eq!((claimed_run(&client, &plain).await, claimed_run(&client, &amd).await), (None, None));

    let on_amd = enqueue_on(&client, json!({ "gpu": "AMD" })).await;
    let in_rack = enqueue_on(&client, json!({ "gpu": "AMD", "rack": "7" })).await;
    let on_first = enqueue_on(&client, json!({ "runner_id": "bench-01" })).await;
    let on_nvidia = enqueue_on(&client, json!({ "gpu": "NVIDIA" })).await;
    let anywhere = fixture::enqueue_run(&client, &fixture::run()).await.run_id;

    let seen = overview(&client).await.unwrap();
    let capable: Vec<_> = seen
        .requirements
        .iter()
        .map(|depth| (depth.requirement.labels.len(), depth.capable_runners))
        .collect();
    assert_eq!(capable, [(1, 1), (2, 1), (1, 1), (1, 0), (0, 2)]);
    assert_eq!(seen.unsatisfiable.len(), 1);
    let measured = reap(&client, TERMS, Duration::from_secs(5)).await.unwrap().queue;
    assert_eq!((measured.depth, measured.unsatisfiable), (5, 1));
    let why = explain(&client, &plain.authenticated, &ClaimRequest::default()).await.unwrap();
    assert_eq!((why.eligible, why.nearest_miss), (2, None));

    assert_eq!(claimed_run(&client, &plain).await, Some(on_first));
    assert_eq!(claimed_run(&client, &plain).await, Some(anywhere));
    assert_eq!(claimed_run(&client, &plain).await, None);
    let why = explain(&client, &plain.authenticated, &ClaimRequest::default()).await.unwrap();
    let detail = "the nearest job needs 6 GB with q4_k_m on gpu = AMD; this runner is not gpu = AMD";
    assert_eq!(why.nearest_miss.unwrap().detail, detail);
    assert_eq!(claimed_run(&client, &amd).await, Some(on_amd));
    assert_eq!(claimed_run(&client, &amd).await, Some(in_rack));
    assert_eq!(claimed_run(&client, &amd).await, None);

    let waiting = show(&client, on_nvidia).await.unwrap();
    assert_eq!(waiting.rows[0].labels["gpu"], "NVIDIA");
    assert!(waiting.waiting.unwrap().detail.starts_with("needs 6 GB with q4_k_m on gpu = NVIDIA; "));
    let listed = list(&client, &Filter::default(), None, 10).await.unwrap().rows;
    let labelled = listed.iter().find(|row| row.run_id == in_rack).unwrap();
    assert_eq!(json!(labelled.labels), json!({ "gpu": "AMD", "rack": "7" }));
    assert_eq!(labelled.quantizations, ["q4_k_m"]);
    // Two jobs that ask for the same are in one lane.
    enqueue_on(&client, json!({ "gpu": "NVIDIA" })).await;
    let lanes = "SELECT count(DISTINCT lane_id) FROM run_queue";
    assert_eq!(client.query_one(lanes, &[]).await.unwrap().get::<_, i64>(0), 5);
}

#[tokio::test]
async fn unknown_quantizations_are_told_beside_labels() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner_with(&client, "bench", 24.0, &["q4_k_m", "q4_km"]).await;
    enqueue_on(&client, json!({ "runner_id": "bench" })).await;
    let job = fixture::claim_next(&client, &runner).await;
    assert_eq!(job.unknown_quantizations, ["q4_km"]);
}

#[test]
fn labels_are_few_short_readable_texts() {
    for wrong in [json!({ "gpu": 7 }), json!({ "": "x" }), json!({ "a": "b\u{202e}" }), json!([]), json!("x")]
    {
        let mut run = fixture::run();
        run["labels"] = wrong.clone();
        let errors = NewRun::parse(&run.to_string()).unwrap_err();
        assert!(errors[0].pointer.starts_with("/labels"), "{wrong}: {errors:?}");
    }
}

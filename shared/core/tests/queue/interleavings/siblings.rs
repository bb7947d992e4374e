//! Two rows of one run, submitted at once: each waits for what the other writes of the run, and the run is as good as
//! the worse of the two, whichever came first.

use super::stage::{Operation, Saved, Stage};
use bakeoff_core::queue::claim::Job;
use bakeoff_testkit::fixture::{self, Runner};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_postgres::Client;

const GATES: [(&str, &str); 4] = [
    ("queue_submit", "PERFORM queue_write_hardware(p_run_id, p_hardware);"),
    ("queue_write_hardware", "INSERT INTO run_hardware_metrics AS m"),
    ("queue_submit", "UPDATE runs r"),
    ("queue_submit", "RETURN 'accepted';"),
];

const TABLES: [&str; 8] = [
    "runs",
    "run_queue",
    "submissions",
    "submission_files",
    "run_model_metrics",
    "run_hardware_metrics",
    "system_hardware",
    "gpu_hardware",
];

fn submit(runner: &Arc<Runner>, job: &Job, result: Value) -> Operation {
    let (runner, job) = (Arc::clone(runner), job.clone());
    Box::new(move |client| {
        Box::pin(async move {
            let accepted = fixture::submit_result(&client, &runner, &job, &result).await;
            let outcome =
                accepted.map_or_else(|error| format!("{error:?}"), |accepted| accepted.status.to_owned());
            (client, outcome)
        })
    })
}

/// The same result with one cell that failed.
fn incomplete(mut result: Value) -> Value {
    let cell = &mut result["records"][0];
    cell["failure_code"] = json!("oom");
    cell["quality_heuristic"] = Value::Null;
    result
}

async fn status(client: &Client) -> (String, i64, i64) {
    let sql = "SELECT run_status, (SELECT count(*) FROM run_model_metrics), \
                      (SELECT count(*) FROM run_queue WHERE status = 'COMPLETE') FROM runs";
    let row = client.query_typed_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test]
async fn two_rows_of_a_run_submitted_at_once() {
    let mut stage = Stage::new(2, &GATES).await;
    let runner = Arc::new(fixture::runner(&stage.client, "bench").await);
    fixture::split_run(&stage.client).await;
    let jobs = [
        fixture::claim_next(&stage.client, &runner).await,
        fixture::claim_next(&stage.client, &runner).await,
    ];
    let results = [fixture::result(&jobs[0]), incomplete(fixture::result(&jobs[1]))];
    let saved = Saved::of(&stage.client, &TABLES).await;
    let orders = stage
        .explore(
            async |client| saved.restore(client).await,
            || (0..2).map(|at| submit(&runner, &jobs[at], results[at].clone())).collect(),
            async |client, outcomes, choices| {
                assert_eq!(outcomes, ["COMPLETE", "COMPLETE"], "{choices:?}");
                assert_eq!(status(client).await, ("incomplete".into(), 2, 2), "{choices:?}");
            },
        )
        .await;
    println!("two rows of a run: {orders} orders");
    assert!(orders > 20, "they were stepped through each other");
}

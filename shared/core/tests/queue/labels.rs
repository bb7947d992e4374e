//! Jobs that ask for a label: only a runner that has it takes them, and all else stays as it was.

use bakeoff_core::queue::claim::{ClaimRequest, claim};
use bakeoff_core::queue::explain::explain;
use bakeoff_core::queue::overview::overview;
use bakeoff_core::queue::public_overview::public_overview;
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runs::enqueue::NewRun;
use bakeoff_core::runs::enqueue_many::{NewRuns, enqueue_many};
use bakeoff_core::runs::listing::{Filter, list};
use bakeoff_core::runs::show::show;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, Machine, Runner, TERMS};
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
    let outcome = claim(client, &runner.authenticated, TERMS, &ClaimRequest::default()).await.unwrap();
    outcome.job().map(|job| job.run_id)
}

async fn runner_with_labels(client: &Client, name: &str, labels: Value) -> Runner {
    let machine = Machine::new(name);
    machine.allow(client).await;
    let mut body = machine.registration();
    body["capabilities"]["labels"] = labels;
    machine.register(client, &body).await
}

#[tokio::test]
async fn a_job_goes_to_a_runner_with_its_labels_only() {
    let database = Database::create().await;
    let client = database.client().await;
    let plain = fixture::runner(&client, "bench-01").await;
    let amd = runner_with_labels(&client, "bench-02", json!({ "gpu": "AMD", "rack": "7" })).await;
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
    for (with_names, shown) in [(false, "not shown"), (true, "bench-01")] {
        let public = public_overview(&client, with_names).await.unwrap();
        let named = public.requirements.iter().find_map(|depth| depth.requirement.labels.get("runner_id"));
        assert_eq!(named.map(String::as_str), Some(shown));
    }
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

/// What a runner says of itself cannot pass for its name, nor can a claim say more than the registration.
#[tokio::test]
async fn a_name_is_no_label_and_a_claim_adds_none() {
    let database = Database::create().await;
    let client = database.client().await;
    let liar = json!({ "runner_id": "bench-01", "rack": 7, "gpu": { "AMD": 1 }, "site": null });
    let liar = runner_with_labels(&client, "bench-02", liar).await;
    for labels in [json!({ "runner_id": "bench-01" }), json!({ "rack": "7" }), json!({ "site": "attic" })] {
        enqueue_on(&client, labels).await;
    }
    let capabilities = json!({
        "vram_gb": 24, "quantizations": ["q4_k_m"], "labels": { "site": "attic", "rack": "7" },
    });
    let request = ClaimRequest::parse(&json!({ "capabilities": capabilities }).to_string()).unwrap();
    let outcome = claim(&client, &liar.authenticated, TERMS, &request).await.unwrap();
    assert!(outcome.job().is_none());
    let why = explain(&client, &liar.authenticated, &request).await.unwrap();
    assert_eq!((why.vram, why.quantization, why.label, why.eligible), (0, 0, 3, 0));
    // Registered again with the label, under the same key: a class of its own, which has no cursor yet.
    let mut body = liar.machine.registration();
    body["capabilities"]["labels"] = json!({ "site": "attic" });
    let honest = liar.machine.register(&client, &body).await;
    assert!(claimed_run(&client, &honest).await.is_some());
    assert_eq!(claimed_run(&client, &honest).await, None);
}

/// A foreign tool may write any JSON into `runners.labels`.
#[tokio::test]
async fn labels_that_are_no_object_are_none() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    enqueue_on(&client, json!({ "gpu": "AMD" })).await;
    for labels in ["[\"gpu\"]", "\"AMD\"", "null", "7"] {
        client.batch_execute(&format!("UPDATE runners SET labels = '{labels}'")).await.unwrap();
        assert_eq!(claimed_run(&client, &runner).await, None);
        assert_eq!(overview(&client).await.unwrap().unsatisfiable.len(), 1);
        reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    }
}

/// T1 makes lane A, then B; T2 makes B, then A: with the unique indexes alone each waits for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_that_need_the_same_new_labels_are_enqueued_at_once() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    for round in 0..10 {
        let request = |lanes: &mut dyn Iterator<Item = usize>| {
            let mut runs: Vec<Value> = lanes
                .map(|lane| {
                    let mut run = fixture::run();
                    run["labels"] = json!({ "rack": format!("{round}-{lane}") });
                    run
                })
                .collect();
            // They are enqueued in the order of their ids.
            let mut ids: Vec<Value> = runs.iter().map(|run| run["run_id"].clone()).collect();
            ids.sort_by_key(ToString::to_string);
            for (run, id) in runs.iter_mut().zip(ids) {
                run["run_id"] = id;
            }
            NewRuns::parse(&json!({ "runs": runs }).to_string()).unwrap()
        };
        let (forth, back) = (request(&mut (0..20)), request(&mut (0..20).rev()));
        let admin = fixture::admin();
        let (forth, back) =
            tokio::join!(enqueue_many(&one, &admin, &forth), enqueue_many(&other, &admin, &back));
        assert!(forth.is_ok() && back.is_ok(), "{forth:?} {back:?}");
    }
    let lanes = "SELECT count(*), count(DISTINCT lane_id) FROM run_queue";
    let counted = one.query_one(lanes, &[]).await.unwrap();
    assert_eq!((counted.get::<_, i64>(0), counted.get::<_, i64>(1)), (400, 200));
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
    let many: Value = (0..17).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    let long = json!({ "a": "x".repeat(201) });
    let unreadable = json!({ "a": "b\u{202e}" });
    for wrong in [json!({ "gpu": 7 }), json!({ "": "x" }), unreadable, many, long, json!([]), json!("x")] {
        let mut run = fixture::run();
        run["labels"] = wrong.clone();
        let errors = NewRun::parse(&run.to_string()).unwrap_err();
        assert!(errors[0].pointer.starts_with("/labels"), "{wrong}: {errors:?}");
    }
}

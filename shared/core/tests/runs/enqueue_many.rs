//! Several runs in one request: all or none, and safe to send again.

use bakeoff_core::Error;
use bakeoff_core::runs::enqueue_many::{EnqueuedMany, NewRuns, enqueue_many};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

fn runs(runs: &[Value]) -> NewRuns {
    NewRuns::parse(&json!({ "runs": runs }).to_string()).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

async fn send(client: &Client, request: &NewRuns) -> Result<EnqueuedMany, Error> {
    enqueue_many(client, &fixture::admin(), request).await
}

async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM run_queue", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_same_request_again_returns_the_same_rows() {
    let database = Database::create().await;
    let client = database.client().await;
    let mut split = fixture::run();
    split["prompts"] = ["c", "a", "b"].map(fixture::prompt).into_iter().collect();
    split["split_by"] = json!("prompt");
    let request = runs(&[fixture::run(), split, fixture::run()]);
    let first = send(&client, &request).await.unwrap();
    assert!(first.created);
    assert_eq!(first.runs.iter().map(|run| run.rows.len()).collect::<Vec<_>>(), [1, 3, 1]);
    let again = send(&client, &request).await.unwrap();
    assert!(!again.created);
    assert_eq!(json!(again), json!(first));
    assert_eq!(count(&client).await, 5);
}

#[tokio::test]
async fn one_refused_run_keeps_all_of_them_out() {
    let database = Database::create().await;
    let client = database.client().await;
    let (one, two) = (fixture::run(), fixture::run());
    let mut unknown = fixture::run();
    unknown["models"] = json!([{ "id": "m", "model_id": Uuid::new_v4() }]);
    let refused = send(&client, &runs(&[one.clone(), unknown, two.clone()])).await;
    assert!(
        matches!(&refused, Err(Error::Invalid(errors)) if errors[0].pointer == "/runs/1/models/0"),
        "{refused:?}"
    );
    let mut unknown = fixture::run();
    unknown["models"] = json!([fixture::model("m", "q4_km", 1.0)]);
    let refused = send(&client, &runs(&[one.clone(), unknown])).await;
    let pointer = "/runs/1/models/0/descriptor/quantization";
    assert!(matches!(&refused, Err(Error::Invalid(errors)) if errors[0].pointer == pointer), "{refused:?}");
    assert_eq!(count(&client).await, 0);

    // A run that another request made, and one of this request with other content.
    let first = runs(std::slice::from_ref(&one));
    send(&client, &first).await.unwrap();
    let refused = send(&client, &runs(&[two.clone(), one.clone()])).await;
    let run_id: Uuid = serde_json::from_value(one["run_id"].clone()).unwrap();
    assert!(matches!(refused, Err(Error::AnotherRunExists(id)) if id == run_id), "{refused:?}");
    let mut changed = one;
    changed["priority"] = json!(1);
    let refused = send(&client, &runs(&[changed])).await;
    assert!(matches!(refused, Err(Error::AnotherRunExists(_))), "{refused:?}");
    assert_eq!(count(&client).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_sent_twice_at_once_is_served_once() {
    let database = Database::create().await;
    let (one, other) = (database.client().await, database.client().await);
    for _ in 0..10 {
        let many: Vec<Value> = (0..10).map(|_| fixture::run()).collect();
        let request = runs(&many);
        let (a, b) = tokio::join!(send(&one, &request), send(&other, &request));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(a.created != b.created);
        assert_eq!(json!(a), json!(b));
    }
    assert_eq!(count(&one).await, 100);
}

#[test]
fn every_invalid_field_is_listed_where_it_stands() {
    let mut wrong = fixture::run();
    wrong["priority"] = json!(-1);
    wrong["models"] = json!([]);
    let mut unnamed = fixture::run();
    unnamed["run_id"] = Value::Null;
    let twice = fixture::run();
    let pointers = |body: Value| -> Vec<String> {
        let errors = NewRuns::parse(&body.to_string()).unwrap_err();
        errors.into_iter().map(|error| error.pointer).collect()
    };
    assert_eq!(
        pointers(json!({ "runs": [wrong, unnamed, twice, twice], "more": 1 })),
        ["/more", "/runs/0/priority", "/runs/0/models", "/runs/1/run_id", "/runs/3/run_id"]
    );
    assert_eq!(pointers(json!({ "runs": [] })), ["/runs"]);
    assert_eq!(pointers(json!({ "runs": vec![1; 1001] })), ["/runs"]);
}

//! Tests of listing the queue's rows.

use bakeoff_core::Error;
use bakeoff_core::queue::reap::reap;
use bakeoff_core::runs::listing::{Filter, list};
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture::{self, TERMS};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

fn of_status(status: &str) -> Filter {
    Filter { status: Some(status.to_owned()), ..Filter::default() }
}

#[tokio::test]
async fn pages_are_newest_first_and_neither_skip_nor_repeat_rows() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    // The rows of a split run have the same created_at; queue_id breaks the tie.
    fixture::split_run(&client).await;
    fixture::split_run(&client).await;
    let newest = fixture::enqueue_run(&client, &fixture::run()).await.rows[0].queue_id;
    fixture::claim_next(&client, &runner).await;

    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = list(&client, &Filter::default(), cursor.as_deref(), 2).await.unwrap();
        rows.extend(page.rows);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
        // A row enqueued between two pages belongs before the first page and must not appear.
        fixture::enqueue_run(&client, &fixture::run()).await;
    }
    assert_eq!(rows.len(), 7);
    assert_eq!(rows[0].queue_id, newest);
    assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse((row.created_at, row.queue_id))));
    let mut ids: Vec<Uuid> = rows.iter().map(|row| row.queue_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7);

    let claimed = list(&client, &of_status("CLAIMED"), None, 10).await.unwrap();
    assert_eq!((claimed.rows.len(), claimed.next_cursor), (1, None));
    let row = &claimed.rows[0];
    assert_eq!((row.claimed_by.as_deref(), row.required_vram_gb), (Some("bench"), 6));
    assert_eq!(row.quantizations, ["q4_k_m"]);
    assert!(row.lease_expires_at.is_some());
    assert!(list(&client, &of_status("FAILED"), None, 10).await.unwrap().rows.is_empty());
    for (status, cursor) in
        [(Some("claimed"), None), (None, Some("x")), (None, Some("2026-01-01T00:00:00Z~x"))]
    {
        let filter = Filter { status: status.map(str::to_owned), ..Filter::default() };
        let refused = list(&client, &filter, cursor, 10).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn each_filter_keeps_what_it_says() {
    let database = Database::create().await;
    let client = database.client().await;
    let runner = fixture::runner(&client, "bench").await;
    let mut other = fixture::run();
    other["publisher_id"] = json!("other");
    other["models"] = json!([fixture::model("n", "q4_k_m", 1.0), fixture::model("o", "q8_0", 1.0)]);
    let other = fixture::enqueue_run(&client, &other).await.run_id;
    let first = fixture::claim_next(&client, &runner).await;
    fixture::submit_result(&client, &runner, &first, &fixture::result(&first)).await.unwrap();
    let lapsed = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    let job = fixture::claim_next(&client, &runner).await;
    fixture::expire_lease(&client, &job).await;
    reap(&client, TERMS, Duration::from_secs(5)).await.unwrap();
    let old = fixture::enqueue_run(&client, &fixture::run()).await.run_id;
    let age = "UPDATE run_queue SET created_at = now() - interval '2 days' WHERE run_id = $1";
    database.owner().await.execute(age, &[&old]).await.unwrap();

    let model_id = client.query_one("SELECT model_id::text FROM models WHERE name = 'o'", &[]).await.unwrap();
    let filter = |set: &dyn Fn(&mut Filter)| {
        let mut filter = Filter::default();
        set(&mut filter);
        filter
    };
    let cases = [
        (filter(&|f| f.model = Some("o".into())), vec![other]),
        (filter(&|f| f.model = Some(model_id.get(0))), vec![other]),
        (filter(&|f| f.model = Some("p".into())), vec![]),
        (filter(&|f| f.publisher_id = Some("other".into())), vec![other]),
        (filter(&|f| f.runner_id = Some("bench".into())), vec![lapsed, other]),
        (filter(&|f| f.newer_than_s = Some(3600)), vec![lapsed, other]),
        (filter(&|f| f.older_than_s = Some(3600)), vec![old]),
        (filter(&|f| (f.older_than_s, f.newer_than_s) = (Some(3600), Some(90_000))), vec![]),
        (filter(&|f| (f.status, f.runner_id) = (Some("COMPLETE".into()), Some("bench".into()))), vec![other]),
    ];
    for (filter, expected) in cases {
        let page = list(&client, &filter, None, 10).await.unwrap();
        let found: Vec<Uuid> = page.rows.iter().map(|row| row.run_id).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    let page = list(&client, &of_status("COMPLETE"), None, 1).await.unwrap();
    assert_eq!(
        (page.rows[0].publisher_id.as_str(), page.rows[0].models.as_slice()),
        ("other", ["n", "o"].map(str::to_owned).as_slice())
    );
}

/// A page reads a bounded number of rows, however many are in the queue, with and without a status.
#[tokio::test]
async fn a_page_reads_no_more_rows_than_it_may_return_of_each_status() {
    let database = Database::create().await;
    let client = database.client().await;
    fixture::enqueue_run(&client, &fixture::run()).await;
    client
        .batch_execute(
            "INSERT INTO run_queue (run_id, prompt_id, status, completed_at, created_at)
             SELECT run_id, prompt_id, CASE WHEN n % 2 = 0 THEN 'PENDING' ELSE 'COMPLETE' END, now(),
                    created_at - n * interval '1 s'
               FROM run_queue, generate_series(1, 20000) n",
        )
        .await
        .unwrap();
    database.owner().await.batch_execute("ANALYZE run_queue").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    let cursor = list(&client, &Filter::default(), None, 50).await.unwrap().next_cursor;
    for filter in [Filter::default(), of_status("PENDING"), of_status("COMPLETE"), of_status("FAILED")] {
        for cursor in [None, cursor.as_deref()] {
            let before = rows_read(&client).await;
            let page = list(&client, &filter, cursor, 50).await.unwrap();
            assert_eq!(page.rows.len(), if filter.status.as_deref() == Some("FAILED") { 0 } else { 50 });
            let read = rows_read(&client).await - before;
            assert!(read <= 4 * 51, "a page of {filter:?} read {read} rows");
        }
    }
}

/// Rows of the queue that this session has read, by index or in sequence, since the server last collected its
/// statistics, which it does between transactions.
async fn rows_read(client: &Client) -> i64 {
    let read = "SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read FROM pg_stat_xact_user_tables
                 WHERE relname = 'run_queue'";
    client.query_one(read, &[]).await.unwrap().get(0)
}

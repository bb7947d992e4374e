//! Tests of listing the queue's rows.

use bakeoff_core::Error;
use bakeoff_core::runs::listing::list;
use bakeoff_testkit::Database;
use bakeoff_testkit::fixture;
use uuid::Uuid;

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
        let page = list(&client, None, cursor.as_deref(), 2).await.unwrap();
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

    let claimed = list(&client, Some("CLAIMED"), None, 10).await.unwrap();
    assert_eq!((claimed.rows.len(), claimed.next_cursor), (1, None));
    let row = &claimed.rows[0];
    assert_eq!((row.claimed_by.as_deref(), row.required_vram_gb), (Some("bench"), 6));
    assert_eq!(row.quantizations, ["q4_k_m"]);
    assert!(row.lease_expires_at.is_some());
    assert!(list(&client, Some("FAILED"), None, 10).await.unwrap().rows.is_empty());
    for (status, cursor) in
        [(Some("claimed"), None), (None, Some("x")), (None, Some("2026-01-01T00:00:00Z~x"))]
    {
        let refused = list(&client, status, cursor, 10).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
}

//! A network that goes away, and tokens that end.

use bakeoff_local::sandbox::proxy::{Fault, Operation};
use bakeoff_local::stack::Options;
use http::StatusCode;
use serde_json::json;

use crate::day::Day;

#[tokio::test(flavor = "multi_thread")]
async fn a_result_outlives_a_network_that_is_gone_for_longer_than_the_lease() {
    let day = Day::begin("outage").await;
    let (hold, stanza) = day.hold("hold");
    let run_id = day.enqueue(stanza).await;
    let mut runner = day.runner(&["--once"]);
    day.until_status(run_id, "IN_PROGRESS").await;

    day.proxy.direct(|_| Fault::LoseRequest);
    day.lapse_and_reap().await;
    assert_eq!(day.row(run_id).await, ("PENDING".to_owned(), 1), "the lapse counts an attempt");
    day.release(&hold);
    // It has tried to submit, and the network is still gone.
    day.until("a try", async || !day.asked(Operation::Submit).is_empty()).await;

    day.proxy.direct(|_| Fault::None);
    runner.ended_well().await;
    assert_eq!(day.row(run_id).await.0, "COMPLETE");
    let stored = day.db.query_one("SELECT late, bound FROM submissions", &[]).await.unwrap();
    assert_eq!((stored.get(0), stored.get(1)), (true, true));
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_claim_is_worked_on_until_another_has_the_result() {
    let day = Day::begin("lapsed").await;
    let run_id = day.enqueue(json!({ "do": "hang" })).await;
    let mut runner = day.runner(&[]);
    day.until_status(run_id, "IN_PROGRESS").await;
    day.lapse_and_reap().await;
    let lost = async || {
        let beats = day.asked(Operation::Heartbeat);
        beats.iter().filter(|beat| beat.status == Some(StatusCode::CONFLICT)).count() >= 2
    };
    day.until("two heartbeats under the lapsed claim", lost).await;
    assert!(!day.children().is_empty(), "it works on: a late result counts");
    let complete = "UPDATE run_queue SET status = 'COMPLETE', completed_at = now(), retry_after = NULL \
                    WHERE run_id = $1";
    day.db.execute(complete, &[&run_id]).await.unwrap();
    day.until("the end of the harness", async || day.children().is_empty()).await;
    runner.signal("INT");
    runner.ended_well().await;
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_in_mid_job_is_renewed() {
    let options = Options { token_ttl_s: 2, ..Options::default() };
    let day = Day::begin_with("token", options).await;
    let (hold, stanza) = day.hold("hold");
    let run_id = day.enqueue(stanza).await;
    let mut runner = day.runner(&["--once"]);
    day.until("a renewal", async || day.asked(Operation::Register).len() >= 3).await;
    // And one that the service ends before its time: its key was rotated away.
    day.proxy.direct(|asked| match (asked.operation, asked.number) {
        (Operation::Submit, 1) => Fault::Answer {
            status: StatusCode::UNAUTHORIZED,
            retry_after: None,
            body: json!({ "code": "token_invalid", "status": 401, "detail": "unknown key" }),
        },
        _ => Fault::None,
    });
    day.release(&hold);
    runner.ended_well().await;
    assert_eq!(day.row(run_id).await, ("COMPLETE".to_owned(), 0));
    assert_eq!(day.starts(run_id), ["fresh"]);
    day.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_corrected_by_the_services() {
    let day = Day::begin("clock").await;
    let run_id = day.enqueue(json!({})).await;
    let ahead = time::OffsetDateTime::now_utc() + time::Duration::seconds(40);
    let server_time = ahead.format(&time::format_description::well_known::Rfc3339).unwrap();
    day.proxy.direct(move |asked| match (asked.operation, asked.number) {
        (Operation::Register, 1) => Fault::Answer {
            status: StatusCode::UNAUTHORIZED,
            retry_after: None,
            body: json!({ "code": "proof_stale", "status": 401, "detail": "", "server_time": server_time }),
        },
        _ => Fault::None,
    });
    day.runner(&["--once"]).ended_well().await;
    assert_eq!(day.row(run_id).await.0, "COMPLETE");
    assert_eq!(day.asked(Operation::Register).len(), 2);
    day.end().await;
}

use super::run;
use bakeoff_testkit::event::Service;
use std::time::Duration;

#[tokio::test]
async fn a_lapsed_claim_goes_back_and_the_queue_is_measured() {
    let service = Service::start().await;
    let token = service.register_runner().await;
    service.enqueue_run().await;
    service.claim_job(&token).await;
    let minute = Duration::from_secs(60);
    let reaped = run(service.app(), minute).await.unwrap();
    assert_eq!((reaped.returned, reaped.queue.live_claims), (0, 1));

    let client = service.database.client().await;
    client.batch_execute("UPDATE run_queue SET lease_expires_at = now() - interval '1 day'").await.unwrap();
    let reaped = run(service.app(), minute).await.unwrap();
    assert_eq!((reaped.returned, reaped.queue.live_claims), (1, 0));
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let service = Service::start().await;
    let lost = service.app().database().await.unwrap();
    let _ = lost.batch_execute("SET default_transaction_read_only = on").await;
    drop(lost);
    run(service.app(), Duration::from_secs(60)).await.unwrap();
}

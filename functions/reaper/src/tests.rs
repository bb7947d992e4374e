use super::run;
use bakeoff_testkit::event::Service;
use std::time::Duration;

#[tokio::test]
async fn an_expired_claim_is_returned_and_the_queue_is_measured() {
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
async fn the_reaper_reconnects_after_a_failover() {
    let service = Service::start().await;
    let connection = service.app().database().await.unwrap();
    let _ = connection.batch_execute("SET default_transaction_read_only = on").await;
    drop(connection);
    run(service.app(), Duration::from_secs(60)).await.unwrap();
}

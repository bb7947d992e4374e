use crate::Overview;
use bakeoff_lambda::admin::answer;
use bakeoff_testkit::event::{Event, Service, members};
use serde_json::json;

#[tokio::test]
async fn an_admin_sees_depth_claims_and_runners() {
    let (service, _) = Service::with_claim("heartbeat").await;
    let event = Event::sample("queue-overview");
    let seen = service.send(answer::<Overview>, &event).await.expect(200);
    assert_eq!(seen["rows"]["claimed"], 1);
    assert_eq!(seen["requirements"][0]["quantizations"], json!(["q4_k_m"]));
    assert_eq!(seen["live_claims"][0]["runner_id"], "runner-amd-8060s");
    assert_eq!(seen["runners"][0]["holds"], 1);
    assert_eq!(
        members(&seen),
        ["live_claims", "oldest_ready_s", "requirements", "rows", "runners", "server_time", "unsatisfiable"]
    );
    let invoked = service.invoke::<Overview>(&json!({ "overview": {} })).await.unwrap();
    assert_eq!(invoked["live_claims"].as_array().unwrap().len(), 1);
    let wrong = service.invoke::<Overview>(&json!({ "overview": { "limit": 1 } })).await.unwrap();
    assert_eq!(wrong["errors"][0]["pointer"], "/overview/limit");

    service.send(answer::<Overview>, &event.clone().without_iam()).await.problem(403, "not_an_admin");
    service
        .send(answer::<Overview>, &event.route("GET /api/admin/other"))
        .await
        .problem(404, "no_such_route");
}

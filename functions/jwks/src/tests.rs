use super::answer;
use bakeoff_testkit::event::{Event, Service, app, members, serve};
use serde_json::json;

#[tokio::test]
async fn anyone_gets_the_public_keys_and_nothing_else() {
    let service = Service::start().await;
    let set = service.send(answer, &Event::sample("jwks")).await.expect(200);
    let key = &set["keys"][0];
    assert_eq!(members(key), ["alg", "crv", "kid", "kty", "use", "x"]);
    assert_eq!((&key["kty"], &key["alg"]), (&json!("OKP"), &json!("EdDSA")));
}

#[tokio::test]
async fn without_keys_the_cause_stays_here() {
    let answer =
        serve(&app(&[("SIGNING_KEYS_FILE", "/nowhere/keys.json")]), answer, &Event::sample("jwks")).await;
    assert!(!answer.problem(500, "internal").to_string().contains("nowhere"));
}

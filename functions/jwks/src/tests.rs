use super::answer;
use bakeoff_core::runners::token::public_set;
use bakeoff_lambda::App;
use bakeoff_lambda::config::Config;
use bakeoff_testkit::event::{Event, Service, app, members, serve};
use bakeoff_testkit::fixture::key_set;
use bakeoff_testkit::secrets::{Answer, secrets_with_answers};
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

/// What the function reads in the cloud, where its permissions end at the public set.
#[tokio::test]
async fn the_public_set_is_enough() {
    let set = public_set(&key_set([7; 32])).unwrap();
    let (secrets, _) = secrets_with_answers(&[Answer::Secret(&set)]);
    let config =
        Config::from_variables(&|name| (name == "VERIFYING_KEYS_SECRET_ARN").then(|| "public".to_owned()));
    let app = App::with_secrets(config.unwrap(), secrets);
    let from_public = serve(&app, answer, &Event::sample("jwks")).await.expect(200);
    let service = Service::start().await;
    assert_eq!(from_public, service.send(answer, &Event::sample("jwks")).await.expect(200));
}

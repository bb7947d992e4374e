//! Secrets: read through the SDK, kept for a while, and never shown.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_lambda::config::{Config, DatabaseSource, SigningKeysSource};
use bakeoff_lambda::database::Database;
use bakeoff_lambda::secrets::{Secrets, SigningKeys, client_from_env};
use bakeoff_lambda::{App, Reply, Request};
use bakeoff_testkit::event::{Event, serve};
use bakeoff_testkit::fixture::key_set;
use bakeoff_testkit::secrets::{Answer, answering, requests, silent};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, advance};
use tokio_postgres::config::SslMode;

const SECOND: Duration = Duration::from_secs(1);

fn signing_keys() -> SigningKeys {
    SigningKeys::new(SigningKeysSource::Secret("signing-keys".into()))
}

/// Which of two sets it is.
fn first_kid(keys: &bakeoff_core::runners::token::ServiceKeys) -> String {
    keys.public_keys().next().unwrap().kid().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_key_set_is_kept_for_five_minutes() {
    let (old, new) = (key_set([1; 32]), key_set([2; 32]));
    let (secrets, replay) = answering(&[Answer::Secret(&old), Answer::Secret(&new)]);
    let keys = signing_keys();
    let first = first_kid(&keys.current(&secrets).await.unwrap());
    advance(299 * SECOND).await;
    assert_eq!(first_kid(&keys.current(&secrets).await.unwrap()), first);
    assert_eq!(requests(&replay), 1);
    advance(SECOND).await;
    assert_ne!(first_kid(&keys.current(&secrets).await.unwrap()), first);
    assert_eq!(requests(&replay), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_early_but_not_at_any_rate() {
    let (old, new) = (key_set([1; 32]), key_set([2; 32]));
    let (secrets, replay) = answering(&[Answer::Secret(&old), Answer::Secret(&new)]);
    let keys = signing_keys();
    let first = first_kid(&keys.current(&secrets).await.unwrap());
    advance(9 * SECOND).await;
    assert_eq!(first_kid(&keys.newest(&secrets).await.unwrap()), first);
    advance(SECOND).await;
    assert_ne!(first_kid(&keys.newest(&secrets).await.unwrap()), first);
    for _ in 0..9 {
        advance(SECOND).await;
        keys.newest(&secrets).await.unwrap();
    }
    assert_eq!(requests(&replay), 2);
}

/// Anyone can send a token with a `kid` of their own.
#[tokio::test(start_paused = true)]
async fn tokens_of_unknown_keys_cannot_make_us_read_at_will() {
    let set = key_set([1; 32]);
    let (secrets, replay) = answering(&[Answer::Secret(&set); 3]);
    let app = App::with_secrets(settings(&[("SIGNING_KEYS_SECRET_ARN", "signing-keys")]), secrets);
    let handler = async |app: &'_ App, request: Request| {
        let _ = app.runner(&request).await?;
        Reply::json(200, &json!({}))
    };
    for second in 0..30 {
        // The sample's token is by a key that is not in the set.
        serve(&app, handler, &Event::sample("claim")).await.problem(401, "token_invalid");
        assert_eq!(requests(&replay), 1 + second / 10);
        advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn old_keys_serve_while_secrets_manager_is_away() {
    let set = key_set([1; 32]);
    let away = Answer::Error(503, "ServiceUnavailable");
    let broken = Answer::Secret("{}");
    let (secrets, replay) = answering(&[Answer::Secret(&set), away, away, away, broken]);
    let keys = signing_keys();
    let first = first_kid(&keys.current(&secrets).await.unwrap());
    for read in [4, 5, 5] {
        advance(300 * SECOND).await;
        assert_eq!(first_kid(&keys.current(&secrets).await.unwrap()), first);
        // It is not asked again before its time.
        assert_eq!(first_kid(&keys.current(&secrets).await.unwrap()), first);
        assert_eq!(requests(&replay), read);
    }
}

#[tokio::test(start_paused = true)]
async fn without_keys_there_is_an_error_and_soon() {
    let started = Instant::now();
    let error = signing_keys().current(&silent()).await.unwrap_err();
    assert_eq!(error.to_string(), "internal: reading signing-keys: no answer");
    assert!(started.elapsed() < 5 * SECOND);
    // The next request asks again.
    let set = key_set([1; 32]);
    let (secrets, _) = answering(&[Answer::Error(400, "ResourceNotFoundException"), Answer::Secret(&set)]);
    let keys = signing_keys();
    let error = keys.current(&secrets).await.unwrap_err().to_string();
    assert!(error.contains("signing-keys") && error.contains("ResourceNotFoundException"), "{error}");
    keys.current(&secrets).await.unwrap();
}

#[tokio::test]
async fn what_is_no_text_is_no_secret_of_ours() {
    let (secrets, _) = answering(&[Answer::Bytes]);
    let error = secrets.read("signing-keys").await.unwrap_err();
    assert_eq!(error.to_string(), "internal: signing-keys holds no text");
}

#[tokio::test]
async fn database_credentials_come_from_rdss_secret() {
    let secret = json!({ "username": "bakeoff", "password": "p@ss/w:rd", "engine": "postgres" }).to_string();
    let (secrets, _) = answering(&[Answer::Secret(&secret)]);
    let config = database().config(&secrets).await.unwrap();
    assert_eq!((config.get_user(), config.get_password()), (Some("bakeoff"), Some(&b"p@ss/w:rd"[..])));
    assert_eq!((config.get_dbname(), config.get_ports()), (Some("queue"), &[6432][..]));
    assert_eq!(config.get_ssl_mode(), SslMode::Require);
}

fn database() -> Database {
    Database::new(DatabaseSource::Secret {
        host: "127.0.0.1".into(),
        port: 6432,
        name: "queue".into(),
        secret: "database".into(),
    })
}

fn settings(settings: &[(&str, &str)]) -> Config {
    let value =
        |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Config::from(&value).unwrap()
}

/// The real SDK, set up from the environment as in Lambda, against a server. `.ci/run` starts one.
#[tokio::test]
#[ignore = "needs moto_server at AWS_ENDPOINT_URL, as .ci/run starts it"]
async fn the_sdk_reads_a_served_secret() {
    let client = client_from_env().unwrap();
    let put = async |name: &str, value: &str| {
        client.create_secret().name(name).secret_string(value).send().await.unwrap();
    };
    put("signing-keys", &key_set([1; 32])).await;
    put("database", &json!({ "username": "bakeoff", "password": "s3cret" }).to_string()).await;

    let secrets = Secrets::default();
    let keys = signing_keys().current(&secrets).await.unwrap();
    assert_eq!(keys.public_keys().count(), 1);
    let config = database().config(&secrets).await.unwrap();
    assert_eq!(config.get_password(), Some(&b"s3cret"[..]));
    let error = secrets.read("absent").await.unwrap_err().to_string();
    assert!(error.contains("ResourceNotFoundException"), "{error}");

    // Rotated: whoever starts now has the new set.
    client.put_secret_value().secret_id("signing-keys").secret_string(key_set([2; 32])).send().await.unwrap();
    let rotated = signing_keys().current(&secrets).await.unwrap();
    assert_ne!(first_kid(&rotated), first_kid(&keys));
}

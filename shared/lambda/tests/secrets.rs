//! Reading secrets through the SDK, and the cache of the signing keys.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_core::runners::token::ServiceKeys;
use bakeoff_lambda::config::{Config, DatabaseSource, KeySource};
use bakeoff_lambda::database::Database;
use bakeoff_lambda::secrets::{KeyCache, Secrets, client_from_env};
use bakeoff_lambda::tls::Roots;
use bakeoff_lambda::{App, Reply, Request};
use bakeoff_testkit::event::{Event, serve};
use bakeoff_testkit::fixture::key_set;
use bakeoff_testkit::secrets::{Answer, requests, secrets_with_answers, secrets_without_response};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, advance};
use tokio_postgres::config::SslMode;

const SECOND: Duration = Duration::from_secs(1);

fn signing_keys() -> KeyCache<ServiceKeys> {
    KeyCache::new(KeySource::Secret("signing-keys".into()), ServiceKeys::from_jwk_set)
}

/// Returns the first key's id, which identifies a set.
fn first_kid(keys: &ServiceKeys) -> String {
    keys.public_keys().next().unwrap().kid().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_key_set_is_cached_for_five_minutes() {
    let (old, new) = (key_set([1; 32]), key_set([2; 32]));
    let (secrets, replay) = secrets_with_answers(&[Answer::Secret(&old), Answer::Secret(&new)]);
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
async fn a_refresh_reads_the_key_set_at_most_every_ten_seconds() {
    let (old, new) = (key_set([1; 32]), key_set([2; 32]));
    let (secrets, replay) = secrets_with_answers(&[Answer::Secret(&old), Answer::Secret(&new)]);
    let keys = signing_keys();
    let first = first_kid(&keys.current(&secrets).await.unwrap());
    advance(9 * SECOND).await;
    assert_eq!(first_kid(&keys.refresh(&secrets).await.unwrap()), first);
    advance(SECOND).await;
    assert_ne!(first_kid(&keys.refresh(&secrets).await.unwrap()), first);
    for _ in 0..9 {
        advance(SECOND).await;
        keys.refresh(&secrets).await.unwrap();
    }
    assert_eq!(requests(&replay), 2);
}

/// Anyone can send a token with an unknown `kid`.
#[tokio::test(start_paused = true)]
async fn tokens_with_unknown_keys_cause_at_most_one_read_in_ten_seconds() {
    let set = key_set([1; 32]);
    let (secrets, replay) = secrets_with_answers(&[Answer::Secret(&set); 3]);
    let app = App::with_secrets(settings(&[("SIGNING_KEYS_SECRET_ARN", "signing-keys")]), secrets);
    let handler = async |app: &'_ App, request: Request| {
        let _ = app.runner(&request).await?;
        Reply::json(200, &json!({}))
    };
    for second in 0..30 {
        // The key that signed the sample's token is not in the set.
        serve(&app, handler, &Event::sample("claim")).await.problem(401, "token_invalid");
        assert_eq!(requests(&replay), 1 + second / 10);
        advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cached_keys_are_used_while_secrets_manager_is_unavailable() {
    let set = key_set([1; 32]);
    let unavailable = Answer::Error(503, "ServiceUnavailable");
    let malformed = Answer::Secret("{}");
    let (secrets, replay) =
        secrets_with_answers(&[Answer::Secret(&set), unavailable, unavailable, unavailable, malformed]);
    let keys = signing_keys();
    let first = first_kid(&keys.current(&secrets).await.unwrap());
    for read in [4, 5, 5] {
        advance(300 * SECOND).await;
        assert_eq!(first_kid(&keys.current(&secrets).await.unwrap()), first);
        // The failed read also counts: the next one follows after five minutes.
        assert_eq!(first_kid(&keys.current(&secrets).await.unwrap()), first);
        assert_eq!(requests(&replay), read);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_read_is_an_error_within_five_seconds() {
    let started = Instant::now();
    let error = signing_keys().current(&secrets_without_response()).await.unwrap_err();
    assert_eq!(error.to_string(), "internal: reading signing-keys: no response within 4 s");
    assert!(started.elapsed() < 5 * SECOND);
    // The next request reads again.
    let set = key_set([1; 32]);
    let (secrets, _) =
        secrets_with_answers(&[Answer::Error(400, "ResourceNotFoundException"), Answer::Secret(&set)]);
    let keys = signing_keys();
    let error = keys.current(&secrets).await.unwrap_err().to_string();
    assert!(error.contains("signing-keys") && error.contains("ResourceNotFoundException"), "{error}");
    keys.current(&secrets).await.unwrap();
}

#[tokio::test]
async fn a_binary_secret_is_an_error() {
    let (secrets, _) = secrets_with_answers(&[Answer::Bytes]);
    let error = secrets.read("signing-keys").await.unwrap_err();
    assert_eq!(error.to_string(), "internal: signing-keys is not a string secret");
}

#[tokio::test]
async fn database_credentials_come_from_the_rds_secret() {
    let secret = json!({ "username": "bakeoff", "password": "p@ss/w:rd", "engine": "postgres" }).to_string();
    let (secrets, _) = secrets_with_answers(&[Answer::Secret(&secret)]);
    let config = database().config(&secrets).await.unwrap();
    assert_eq!((config.get_user(), config.get_password()), (Some("bakeoff"), Some(&b"p@ss/w:rd"[..])));
    assert_eq!((config.get_dbname(), config.get_ports()), (Some("queue"), &[6432][..]));
    assert_eq!(config.get_ssl_mode(), SslMode::Require);
}

fn database() -> Database {
    let source = DatabaseSource::Secret {
        host: "127.0.0.1".into(),
        port: 6432,
        name: "queue".into(),
        secret: "database".into(),
    };
    Database::new(source, Roots::Aws)
}

fn settings(settings: &[(&str, &str)]) -> Config {
    let value =
        |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Config::from_variables(&value).unwrap()
}

/// Uses the real SDK, configured from the environment as in Lambda. `.ci/run` starts the server.
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

    // After a rotation, a new execution environment reads the new set.
    client.put_secret_value().secret_id("signing-keys").secret_string(key_set([2; 32])).send().await.unwrap();
    let rotated = signing_keys().current(&secrets).await.unwrap();
    assert_ne!(first_kid(&rotated), first_kid(&keys));
}

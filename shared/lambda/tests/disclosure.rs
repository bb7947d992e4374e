//! What is logged and shown. In a process of its own: there is one log for all threads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_lambda::config::Config;
use bakeoff_lambda::database::Database;
use bakeoff_lambda::{App, Refusal, Request};
use bakeoff_testkit::event::Event;
use bakeoff_testkit::fixture::key_set;
use bakeoff_testkit::secrets::{Answer, answering};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};

/// The private half of the key that [`key_set`] makes of a seed.
fn private_half(seed: [u8; 32]) -> String {
    let set: Value = serde_json::from_str(&key_set(seed)).unwrap();
    set["keys"][0]["d"].as_str().unwrap().to_owned()
}

/// Everything that is logged, down to the SDK's and the runtime's finest words.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_logged_or_shown() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = lambda_http::tracing::subscriber::fmt()
        .with_max_level(lambda_http::tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let set = key_set([1; 32]);
    // Cut off in the middle of the key, and with a password that is no text.
    let broken = &set[..set.len() - 9];
    let credentials = json!({ "username": "bakeoff", "password": "hunter2-hunter2" }).to_string();
    let unreadable = json!({ "username": ["hunter2-hunter2"] }).to_string();
    let (secrets, _) = answering(&[broken, &set, &credentials].map(Answer::Secret));
    let settings = [
        ("SIGNING_KEYS_SECRET_ARN", "signing-keys"),
        ("DATABASE_SECRET_ARN", "database"),
        ("DATABASE_HOST", "127.0.0.1"),
        // Port 1 is never served.
        ("DATABASE_PORT", "1"),
        ("DATABASE_NAME", "queue"),
    ];
    let app = App::with_secrets(
        Config::from(&|name| {
            settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
        .unwrap(),
        secrets,
    );
    let mut shown = String::new();
    let mut show = |refusal: Refusal| {
        shown += &format!("{refusal:?} {refusal}");
        shown += &format!("{:?}", refusal.into_reply());
    };
    show(app.signing_keys().await.unwrap_err());
    app.signing_keys().await.unwrap();
    show(app.database().await.unwrap_err());
    let (secrets, _) = answering(&[Answer::Secret(&unreadable)]);
    let database = Database::new(app.config().database.clone());
    show(database.config(&secrets).await.unwrap_err().into());
    shown += &format!("{app:?}");
    let request =
        Request::from(lambda_http::request::from_str(&Event::sample("claim").json().to_string()).unwrap());
    shown += &format!("{request:?}");

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("aws_smithy_runtime"), "the SDK logs too: {logged}");
    assert!(shown.contains("SigningKeys") && shown.contains("127.0.0.1"), "{shown}");
    let token = "Bearer eyJ";
    for secret in [private_half([1; 32]).as_str(), "hunter2", token] {
        assert!(!logged.contains(secret), "{secret} was logged");
        assert!(!shown.contains(secret), "{secret} was shown");
    }
}

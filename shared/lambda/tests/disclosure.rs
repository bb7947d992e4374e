//! Secrets must not appear in logs, errors or debug output. A separate test binary, because the log
//! subscriber is global to the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_lambda::config::Config;
use bakeoff_lambda::database::Database;
use bakeoff_lambda::tls::Roots;
use bakeoff_lambda::{App, Refusal, Request};
use bakeoff_testkit::event::Event;
use bakeoff_testkit::fixture::key_set;
use bakeoff_testkit::secrets::{Answer, secrets_with_answers};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};

/// Returns the private half of the key that [`key_set`] derives from a seed.
fn private_half(seed: [u8; 32]) -> String {
    let set: Value = serde_json::from_str(&key_set(seed)).unwrap();
    set["keys"][0]["d"].as_str().unwrap().to_owned()
}

/// Captures all log output at level `TRACE`, including the SDK's and the runtime's.
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
async fn secrets_appear_in_neither_logs_nor_debug_output() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = lambda_http::tracing::subscriber::fmt()
        .with_max_level(lambda_http::tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let set = key_set([1; 32]);
    // A key set truncated inside the key; then a user name that is not a string.
    let truncated = &set[..set.len() - 9];
    let credentials = json!({ "username": "bakeoff", "password": "hunter2-hunter2" }).to_string();
    let unreadable = json!({ "username": ["hunter2-hunter2"] }).to_string();
    let (secrets, _) = secrets_with_answers(&[truncated, &set, &credentials].map(Answer::Secret));
    let settings = [
        ("SIGNING_KEYS_SECRET_ARN", "signing-keys"),
        ("DATABASE_SECRET_ARN", "database"),
        ("DATABASE_HOST", "127.0.0.1"),
        // No server listens on port 1.
        ("DATABASE_PORT", "1"),
        ("DATABASE_NAME", "queue"),
    ];
    let app = App::with_secrets(
        Config::from_variables(&|name| {
            settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
        .unwrap(),
        secrets,
    );
    let mut output = String::new();
    let mut format_refusal = |refusal: Refusal| {
        output += &format!("{refusal:?} {refusal}");
        output += &format!("{:?}", refusal.into_reply());
    };
    format_refusal(app.signing_keys().await.unwrap_err());
    app.signing_keys().await.unwrap();
    format_refusal(app.database().await.unwrap_err());
    let (secrets, _) = secrets_with_answers(&[Answer::Secret(&unreadable)]);
    let database = Database::new(app.config().database.clone(), Roots::Aws);
    format_refusal(database.config(&secrets).await.unwrap_err().into());
    output += &format!("{app:?}");
    let request =
        Request::from(lambda_http::request::from_str(&Event::sample("claim").json().to_string()).unwrap());
    output += &format!("{request:?}");

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("aws_smithy_runtime"), "the log lacks the SDK's lines: {logged}");
    assert!(output.contains("KeyCache") && output.contains("127.0.0.1"), "{output}");
    let token = "Bearer eyJ";
    for secret in [private_half([1; 32]).as_str(), "hunter2", token] {
        assert!(!logged.contains(secret), "{secret} was logged");
        assert!(!output.contains(secret), "{secret} is in the debug output");
    }
}

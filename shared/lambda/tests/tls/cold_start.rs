//! Cold starts over TLS: from the start of claim's process to its first response.

use super::secrets_manager::{self, Scheme};
use super::server::{TlsServer, fixture};
use bakeoff_core::migrate::apply;
use bakeoff_local::api_gateway::template;
use bakeoff_local::lambda::runtime_api::{Function, Settings};
use bakeoff_testkit::event::Event;
use bakeoff_testkit::fixture::{SERVICE, key_set, runner};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ROUNDS: usize = 40;

/// Measures, by turns, claim without TLS, with TLS to PostgreSQL and Secrets Manager, and as in the cloud, where
/// the database's credentials are a second secret. Prints medians and p90.
///
/// ```sh
/// cargo build --release --workspace --bin claim
/// COLD_START_BINARY=target/release/claim cargo test --workspace --test tls -- --ignored --nocapture cold_start
/// ```
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; needs a release build of claim in COLD_START_BINARY"]
async fn cold_starts_with_and_without_tls() {
    let binary = PathBuf::from(std::env::var("COLD_START_BINARY").unwrap()).canonicalize();
    let binary = binary.expect("COLD_START_BINARY, relative to shared/lambda, is a program");
    let server = TlsServer::start("cold-start", "password").await;
    let mut admin = server.admin().await;
    apply(&mut admin).await.unwrap();
    admin.batch_execute("ALTER ROLE function SUPERUSER").await.unwrap();
    let token = runner(&admin, "measured").await.token;
    let event = Event::sample("claim").bearer(&token).json().to_string();

    let keys = key_set([42; 32]);
    let credentials = json!({ "username": "function", "password": "password" }).to_string();
    let values = [("keys", keys.as_str()), ("database", credentials.as_str())];
    let http = secrets_manager::start(Scheme::Http, &values).await;
    let https = secrets_manager::start(Scheme::Https, &values).await;
    let port = server.port.to_string();
    let tls_url = format!("postgres://function:password@localhost:{port}/postgres?sslmode=require");
    let common =
        |endpoint: String| [("SIGNING_KEYS_SECRET_ARN", "keys".to_owned()), ("AWS_ENDPOINT_URL", endpoint)];
    let over_https = common(format!("https://localhost:{https}"));
    let variants = [
        (
            "plain",
            [common(format!("http://localhost:{http}")).to_vec(), vec![("DATABASE_URL", server.url.clone())]],
        ),
        ("TLS", [over_https.to_vec(), vec![("DATABASE_URL", tls_url)]]),
        (
            "TLS, two secrets",
            [
                over_https.to_vec(),
                vec![
                    ("DATABASE_HOST", "localhost".to_owned()),
                    ("DATABASE_PORT", port.clone()),
                    ("DATABASE_NAME", "postgres".to_owned()),
                    ("DATABASE_SECRET_ARN", "database".to_owned()),
                ],
            ],
        ),
    ];
    let mut times = vec![Vec::new(); variants.len()];
    for _ in 0..ROUNDS {
        for ((_, environment), times) in variants.iter().zip(&mut times) {
            let function = Function::new(settings(&binary, &environment.concat()));
            let start = Instant::now();
            let answer = function.invoke(event.clone().into()).await.unwrap();
            times.push(start.elapsed());
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["statusCode"], 204, "{answer}");
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| at(times, 50)).collect();
    for ((name, _), times) in variants.iter().zip(&mut times) {
        let (median, p90) = (at(times, 50), at(times, 90));
        println!("{name}: median {median:.1} ms, p90 {p90:.1} ms, {:.2} × plain", median / medians[0]);
    }
}

fn settings(binary: &std::path::Path, environment: &[(&str, String)]) -> Settings {
    let fixed = [
        ("PUBLIC_URL", SERVICE.to_owned()),
        ("PGSSLROOTCERT", fixture("ca.pem")),
        ("AWS_CA_BUNDLE", fixture("ca.pem")),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
    ];
    let all = fixed.iter().chain(environment).map(|(name, value)| ((*name).to_owned(), value.clone()));
    Settings {
        function: template::Function {
            name: "claim".into(),
            timeout: Duration::from_secs(10),
            memory_mb: 256,
        },
        binary: binary.to_owned(),
        environment: all.collect::<BTreeMap<_, _>>(),
        log: std::env::temp_dir().join("bakeoff-cold-start.log"),
        instances: 1,
    }
}

/// The percentile, in milliseconds.
fn at(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[times.len() * percent / 100].as_secs_f64() * 1e3
}

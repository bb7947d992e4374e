//! TLS to a PostgreSQL and to a Secrets Manager with a private certificate authority, as on AWS: refusals, a
//! rotated password, a failover.
//!
//! `server.pem` is for `localhost` and was signed by `ca.pem`; the key beside it protects nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cold_start;
mod secrets_manager;
mod server;

use bakeoff_core::Error;
use bakeoff_lambda::config::Config;
use bakeoff_lambda::secrets::Secrets;
use bakeoff_lambda::{App, Reply, Request};
use bakeoff_testkit::event::{Answer, Event, serve};
use bakeoff_testkit::secrets;
use secrets_manager::Scheme;
use serde_json::{Value, json};
use server::{Relay, TlsServer, fixture};

const PASSWORD: &str = "the first password";

fn credentials(password: &str) -> String {
    json!({ "username": "function", "password": password }).to_string()
}

/// An app whose database is at `host:port`, certified by an authority in `roots`, with these secrets.
fn app(host: &str, port: u16, roots: Option<&str>, secrets: Secrets) -> App {
    let settings = |name: &str| match name {
        "DATABASE_HOST" => Some(host.to_owned()),
        "DATABASE_PORT" => Some(port.to_string()),
        "DATABASE_NAME" => Some("postgres".to_owned()),
        "DATABASE_SECRET_ARN" => Some("database".to_owned()),
        "PGSSLROOTCERT" => roots.map(fixture),
        _ => None,
    };
    App::with_secrets(Config::from_variables(&settings).unwrap(), secrets)
}

fn with_password(host: &str, port: u16, roots: Option<&str>) -> App {
    let (secrets, _) = secrets::secrets_with_answers(&[secrets::Answer::Secret(&credentials(PASSWORD)); 2]);
    app(host, port, roots, secrets)
}

/// Serves one request, which asks the server how it is connected.
async fn ask(app: &App) -> Answer {
    let handler = async |app: &'_ App, _: Request| {
        let client = app.database().await?;
        let connection =
            "SELECT inet_server_port(), ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let row = client.query_one(connection, &[]).await.map_err(Error::Database)?;
        let (port, tls, version): (i32, bool, Option<String>) = (row.get(0), row.get(1), row.get(2));
        Reply::json(200, &json!({ "port": port, "tls": tls, "version": version }))
    };
    serve(app, handler, &Event::outside_the_api()).await
}

/// A refused server is a 503 that says nothing of the reason, which is in the log.
async fn assert_refused(app: &App) {
    let answer = ask(app).await;
    let problem = answer.problem(503, "unavailable").to_string();
    assert!(!problem.contains("localhost") && !problem.contains("certificate"), "{problem}");
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn only_a_server_with_the_right_name_and_authority_is_connected_to() {
    let server = TlsServer::start("refusals", PASSWORD).await;
    let served = ask(&with_password("localhost", server.port, Some("ca.pem"))).await.expect(200);
    assert_eq!((&served["tls"], &served["version"]), (&json!(true), &json!("TLSv1.3")));

    // The certificate names localhost, not the address.
    assert_refused(&with_password("127.0.0.1", server.port, Some("ca.pem"))).await;
    assert_refused(&with_password("localhost", server.port, Some("other_ca.pem"))).await;
    // Without PGSSLROOTCERT only AWS may certify a server.
    assert_refused(&with_password("localhost", server.port, None)).await;

    // Neither side speaks plain text: not this server, which has force_ssl's rule, …
    assert!(server.plain_text_error().await.contains("pg_hba.conf rejects connection"));
    // … and not the function, even if the server offers nothing else.
    server.turn_tls_off().await;
    assert_refused(&with_password("localhost", server.port, Some("ca.pem"))).await;
}

/// RDS offers SCRAM with channel binding, RDS Proxy without it.
#[tokio::test]
async fn scram_works_with_and_without_channel_binding() {
    use tokio_postgres::config::ChannelBinding;
    let server = TlsServer::start("scram", PASSWORD).await;
    let app = with_password("localhost", server.port, Some("ca.pem"));
    let mut config = app.database_config().await.unwrap();
    for binding in [ChannelBinding::Require, ChannelBinding::Disable] {
        config.channel_binding(binding);
        let connector = app.config().database_roots.postgres_connector().unwrap();
        let (client, connection) = config.connect(connector).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.unwrap();
    }
}

#[tokio::test]
async fn a_password_rotated_under_a_running_function_is_read_again() {
    const NEW: &str = "the second password";
    let server = TlsServer::start("rotation", PASSWORD).await;
    let (old, new) = (credentials(PASSWORD), credentials(NEW));
    let (secrets, replay) =
        secrets::secrets_with_answers(&[secrets::Answer::Secret(&old), secrets::Answer::Secret(&new)]);
    let app = app("localhost", server.port, Some("ca.pem"), secrets);
    ask(&app).await.expect(200);

    server.set_password(NEW).await;
    ask(&app).await.expect(200);
    assert_eq!(secrets::requests(&replay), 1, "an open connection outlives its password");
    server.terminate_backends().await;
    ask(&app).await.expect(200);
    assert_eq!(secrets::requests(&replay), 2);
}

/// On a failover the endpoint's name leads to the other server, and connections to the old one die.
#[tokio::test]
async fn a_failover_costs_no_request() {
    let (old, new) =
        (TlsServer::start("primary", PASSWORD).await, TlsServer::start("standby", PASSWORD).await);
    let endpoint = Relay::to(old.port).await;
    let app = with_password("localhost", endpoint.port, Some("ca.pem"));
    let port = |answer: Value| u16::try_from(answer["port"].as_i64().unwrap()).unwrap();
    assert_eq!(port(ask(&app).await.expect(200)), old.port);

    endpoint.fail_over_to(new.port);
    assert_eq!(port(ask(&app).await.expect(200)), new.port);
}

#[tokio::test]
async fn secrets_are_read_only_from_a_certified_endpoint() {
    let endpoint = secrets_manager::start(Scheme::Https, &[("database", &credentials(PASSWORD))]).await;
    let read = async |host: &str, roots: Option<&str>| {
        secrets_manager::client(&format!("https://{host}:{endpoint}"), roots.map(fixture))
            .read("database")
            .await
    };
    assert_eq!(read("localhost", Some("ca.pem")).await.unwrap(), credentials(PASSWORD));
    for (host, roots) in
        [("127.0.0.1", Some("ca.pem")), ("localhost", Some("other_ca.pem")), ("localhost", None)]
    {
        let refused = read(host, roots).await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{host} {roots:?}: {refused}");
    }
}

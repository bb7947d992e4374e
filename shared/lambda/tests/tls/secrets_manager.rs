//! A Secrets Manager on loopback, over HTTP or over HTTPS with the fixture's certificate.

use super::server::fixture;
use bakeoff_lambda::secrets::{Secrets, client_from_variables};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A client as a function makes it, for this endpoint and these roots.
pub(crate) fn client(endpoint: &str, roots: Option<String>) -> Secrets {
    let variable = |name: &str| match name {
        "AWS_REGION" => Some("us-east-1".to_owned()),
        "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("test".to_owned()),
        "AWS_ENDPOINT_URL" => Some(endpoint.to_owned()),
        "AWS_CA_BUNDLE" => roots.clone(),
        _ => None,
    };
    Secrets::with_client(client_from_variables(&variable).unwrap())
}

/// How an endpoint speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Answers requests for these secrets, by name; returns the port.
pub(crate) async fn start(scheme: Scheme, secrets: &[(&str, &str)]) -> u16 {
    let acceptor = acceptor();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let secrets: Arc<Vec<(String, String)>> =
        Arc::new(secrets.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, secrets) = (acceptor.clone(), Arc::clone(&secrets));
            tokio::spawn(async move {
                match scheme {
                    Scheme::Http => answer(stream, &secrets).await,
                    // A client that refuses the certificate ends the handshake.
                    Scheme::Https => match acceptor.accept(stream).await {
                        Ok(stream) => answer(stream, &secrets).await,
                        Err(_) => Some(()),
                    },
                }
            });
        }
    });
    port
}

fn acceptor() -> TlsAcceptor {
    let certificates = CertificateDer::pem_file_iter(fixture("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers one request for a secret. `None` if the client goes away.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, secrets: &[(String, String)]) -> Option<()> {
    let mut received = String::new();
    // The body is the JSON object with the secret's name.
    while !received.ends_with('}') {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        received.push_str(std::str::from_utf8(&buffer[..read]).ok()?);
    }
    let (_, body) = received.split_once("\r\n\r\n")?;
    let asked: Value = serde_json::from_str(body).ok()?;
    let (name, value) = secrets.iter().find(|(name, _)| asked["SecretId"] == name.as_str())?;
    let body = json!({ "Name": name, "SecretString": value }).to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

//! A blocking HTTP/1.1 client: one request on one connection.
//!
//! A runner sends a request a minute, so a pool would hold connections that middleboxes drop. Each request
//! runs on a runtime of its own on the calling thread: the heartbeat's thread and the main one share nothing.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bakeoff_core::error::error_chain;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a connection may take to come up, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take, besides the time for sending. API Gateway gives up after 30 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// The slowest upload that is waited for, in bytes a second.
const SLOWEST_UPLOAD: u64 = 16 * 1024;

/// A request that got no answer.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A client for one server.
#[derive(Debug)]
pub struct Http {
    host: String,
    port: u16,
    encrypted: bool,
    authority: HeaderValue,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Http {
    /// Creates a client for the server of `base`: an `http` or `https` URL. Opens no connection.
    ///
    /// # Errors
    /// When it is no such URL; the text says why.
    pub fn new(base: &Uri) -> Result<Self, String> {
        let encrypted = match base.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{base} does not begin with https:// or http://")),
        };
        let authority = base.authority().ok_or_else(|| format!("{base} names no host"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
        Ok(Self { host, port, encrypted, authority, tls: OnceLock::new() })
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Sends a request whose URI is a path, and reads the answer to its end.
    ///
    /// # Errors
    /// When no whole answer came in time; the text says what went wrong. A status is no error.
    pub fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        request.headers_mut().insert(HOST, self.authority.clone());
        let sending = Duration::from_secs(request.body().len() as u64 / SLOWEST_UPLOAD);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let answer = runtime.block_on(async {
            match timeout(ANSWER_TIMEOUT + sending, self.exchange(request.map(Full::new))).await {
                Ok(answer) => answer.map_err(|cause| error_chain(&*cause)),
                Err(_) => Err("no answer in time".to_owned()),
            }
        });
        // A name look-up that hangs must not hold us.
        runtime.shutdown_background();
        answer
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Cause> {
        let no_connection = || format!("no connection to {}:{} in time", self.host, self.port);
        if !self.encrypted {
            let connect = TcpStream::connect((self.host.as_str(), self.port));
            let stream = timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| no_connection())??;
            return exchange_over(stream, request).await;
        }
        let stream = timeout(CONNECT_TIMEOUT, async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            let tls = TlsConnector::from(self.tls()?);
            Ok::<_, Cause>(tls.connect(self.host.clone().try_into()?, stream).await?)
        });
        exchange_over(stream.await.map_err(|_| no_connection())??, request).await
    }

    /// The system's certificates, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Read at the first
    /// use: parsing them takes longer than all the rest of a start.
    fn tls(&self) -> Result<Arc<ClientConfig>, Cause> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(
                "this machine has no CA certificates: install ca-certificates or set SSL_CERT_FILE".into()
            );
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

async fn exchange_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, Cause> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its failure shows in the answer; it ends with the runtime.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

//! HTTP/1.1 client for AWS endpoints: one request per connection.
//!
//! This suffices for the few calls a function makes (a secret every few minutes, one response to
//! CloudFormation). The SDK's own client adds HTTP/2, proxies and the system's certificates to every binary.

use crate::tls::Roots;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Timeout for establishing a connection, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// An error in connecting, sending or receiving.
pub type SendError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a request to an absolute URL and reads the whole response. `https` URLs are verified against
/// Amazon's roots only.
///
/// # Errors
/// No connection within 3 s, or a broken connection. A response of any status is `Ok`.
pub async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, SendError> {
    send_trusting(&Roots::Aws, request).await
}

/// [`send`], with the roots that an `https` server's certificate must lead to.
async fn send_trusting(roots: &Roots, request: Request<Bytes>) -> Result<Response<Bytes>, SendError> {
    let uri = request.uri();
    let host = uri.host().ok_or("the URL has no host")?.to_owned();
    let encrypted = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let request = in_origin_form(request)?;
    let connect = TcpStream::connect((host.trim_matches(['[', ']']), port));
    if encrypted {
        let stream = timeout(CONNECT_TIMEOUT, async {
            let tls = TlsConnector::from(Arc::new(roots.https_client_config()?));
            Ok::<_, SendError>(tls.connect(host.clone().try_into()?, connect.await?).await?)
        });
        send_over(stream.await??, request).await
    } else {
        send_over(timeout(CONNECT_TIMEOUT, connect).await??, request).await
    }
}

/// Puts the path into the request line and the authority into `Host` (RFC 9112, section 3.2.1).
fn in_origin_form(mut request: Request<Bytes>) -> Result<Request<Full<Bytes>>, SendError> {
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(authority)?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path: Uri = path.parse()?;
    *request.uri_mut() = path;
    request.headers_mut().insert(HOST, host);
    Ok(request.map(Full::new))
}

async fn send_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, SendError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The task ends when the sender is dropped; a connection error also surfaces in the response.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

/// [`send`] as an HTTP client of the AWS SDK.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    /// The roots that a server's certificate must lead to.
    pub(crate) roots: Roots,
}

impl HttpClient for Sender {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Sender {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let roots = self.roots.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            // `bytes` is `None` only for a streamed body, which no call here has.
            let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
            let response = send_trusting(&roots, request).await.map_err(ConnectorError::io)?;
            HttpResponse::try_from(response.map(Into::into))
                .map_err(|error| ConnectorError::user(error.into()))
        })
    }
}

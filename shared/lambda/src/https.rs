//! HTTP/1.1 to AWS's own endpoints: one request on one connection.
//!
//! For the few calls a function makes (a secret now and then, one answer to CloudFormation) this is all it
//! takes; the SDK's own client brings HTTP/2, proxies and the system's certificates into every binary.

use crate::tls::{AMAZON_ROOTS, client_config};
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

/// How long a connection may take to come up, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Whatever went wrong on the way.
pub type SendError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a request to an absolute URL and reads the answer to its end. Behind `https` stands whom Amazon's
/// own roots vouch for, and nobody else.
///
/// # Errors
/// When there is no connection within 3 s, or it breaks. A status is none.
pub async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, SendError> {
    let uri = request.uri();
    let host = uri.host().ok_or("the URL names no host")?.to_owned();
    let encrypted = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let request = in_origin_form(request)?;
    let connect = TcpStream::connect((host.trim_matches(['[', ']']), port));
    if encrypted {
        let stream = timeout(CONNECT_TIMEOUT, async {
            let tls = TlsConnector::from(Arc::new(client_config(&[AMAZON_ROOTS])));
            Ok::<_, SendError>(tls.connect(host.clone().try_into()?, connect.await?).await?)
        });
        send_over(stream.await??, request).await
    } else {
        send_over(timeout(CONNECT_TIMEOUT, connect).await??, request).await
    }
}

/// The path in the request line and the authority in `Host` (RFC 9112, section 3.2.1).
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
    // Its end shows in the answer; it ends with the sender.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

/// [`send`], as the SDK wants it.
#[derive(Clone, Debug)]
pub(crate) struct Sender;

impl HttpClient for Sender {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Sender {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            // A streamed body has none at hand; the calls made here have none of that kind.
            let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
            let response = send(request).await.map_err(ConnectorError::io)?;
            HttpResponse::try_from(response.map(Into::into))
                .map_err(|error| ConnectorError::user(error.into()))
        })
    }
}

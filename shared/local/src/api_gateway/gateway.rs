//! The HTTP server that plays API Gateway on loopback.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::api_gateway::event::{ReceivedRequest, gateway_message, http_event, http_response};
use crate::api_gateway::route::{self, Route};
use crate::api_gateway::sigv4::{self, Credentials};
use crate::lambda::runtime_api::{Function, InvocationError};

/// API Gateway's limit on a request body, in bytes.
const BODY_LIMIT: usize = 10 * 1024 * 1024;
/// Lambda's limit on an invocation's payload and on its result, in bytes.
const PAYLOAD_LIMIT: usize = 6_291_556;

/// An error response of API Gateway itself.
struct GatewayError(StatusCode, &'static str);

/// Routes with their functions.
pub struct ApiGateway {
    routes: Vec<Route>,
    functions: HashMap<String, Arc<Function>>,
    credentials: Credentials,
    /// Whether failures are printed on standard error.
    verbose: bool,
}

impl ApiGateway {
    /// Creates a gateway for these routes. `functions` must contain each function that a route names.
    pub fn new(
        routes: Vec<Route>,
        functions: HashMap<String, Arc<Function>>,
        credentials: Credentials,
    ) -> Self {
        Self { routes, functions, credentials, verbose: true }
    }

    /// Prints no failures, for a caller that causes thousands of them.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self { verbose: false, ..self }
    }

    /// Serves HTTP/1.1 until the future is dropped, which also drops the requests in progress.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                // The process may be out of file descriptors, which ending connections release.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let gateway = Arc::clone(&self);
            let service = service_fn(move |request| {
                let gateway = Arc::clone(&gateway);
                async move { Ok::<_, Infallible>(gateway.handle(request, peer).await.map(Full::new)) }
            });
            connections.spawn(async move {
                let mut server = http1::Builder::new();
                let _ = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Bytes> {
        let request_id = Uuid::new_v4();
        let answer = self.route(request, peer, request_id).await;
        let mut response =
            answer.unwrap_or_else(|GatewayError(status, message)| gateway_message(status, message));
        let id = request_id.to_string().try_into().expect("a UUID is a valid header");
        response.headers_mut().insert("apigw-requestid", id);
        response
    }

    /// Invokes the function of the matching route.
    async fn route(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        request_id: Uuid,
    ) -> Result<Response<Bytes>, GatewayError> {
        let (parts, body) = request.into_parts();
        let route_match = route::find(&self.routes, parts.method.as_str(), parts.uri.path())
            .ok_or(GatewayError(StatusCode::NOT_FOUND, "Not Found"))?;
        let body = read_body(body).await?;
        let at = OffsetDateTime::now_utc();
        let access_key = match route_match.route.iam {
            true => Some(self.iam_caller(&parts, &body, at)?),
            false => None,
        };
        let received = ReceivedRequest { parts: &parts, body: &body, peer, at, request_id };
        let event = Bytes::from(http_event(&received, &route_match, access_key).to_string());
        if event.len() > PAYLOAD_LIMIT {
            return Err(too_large());
        }
        self.invoke(&route_match.route.function, event).await
    }

    /// Verifies the request's signature and returns the signer's access key.
    fn iam_caller(
        &self,
        parts: &http::request::Parts,
        body: &[u8],
        at: OffsetDateTime,
    ) -> Result<&str, GatewayError> {
        sigv4::verify(parts, body, &self.credentials, at).map_err(|refusal| {
            eprintln!("{} {}: {refusal}", parts.method, parts.uri.path());
            GatewayError(StatusCode::FORBIDDEN, "Forbidden")
        })?;
        Ok(&self.credentials.access_key)
    }

    async fn invoke(&self, name: &str, event: Bytes) -> Result<Response<Bytes>, GatewayError> {
        let internal_error = || GatewayError(StatusCode::BAD_GATEWAY, "Internal Server Error");
        let function = self.functions.get(name).ok_or_else(internal_error)?;
        let invoked = Arc::clone(function);
        // A separate task, so that the function continues if the client disconnects, as in Lambda.
        let invocation = tokio::spawn(async move { invoked.invoke(event).await });
        let returned = invocation.await.map_err(|_| internal_error())?.map_err(|error| {
            if self.verbose {
                eprintln!("{name}: {error}; see its log, {}", function.log().display());
            }
            match error {
                InvocationError::TimedOut(_) => {
                    GatewayError(StatusCode::GATEWAY_TIMEOUT, "Endpoint request timed out")
                }
                _ => internal_error(),
            }
        })?;
        if returned.len() > PAYLOAD_LIMIT {
            eprintln!("{name}: the result has {} bytes; Lambda's limit is {PAYLOAD_LIMIT}", returned.len());
            return Err(internal_error());
        }
        http_response(&returned).ok_or_else(|| {
            eprintln!("{name}: the result is not valid payload format 2.0");
            internal_error()
        })
    }
}

/// Reads the complete body, up to API Gateway's limit.
async fn read_body(mut body: Incoming) -> Result<Bytes, GatewayError> {
    let (mut buffered, mut length) = (BytesMut::new(), 0);
    // Reads and drops up to four times the limit: a client that is still sending when the server closes the
    // connection sees a broken connection instead of the 413.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| GatewayError(StatusCode::BAD_REQUEST, "Bad Request"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len();
        if length <= BODY_LIMIT {
            buffered.extend_from_slice(&data);
        } else if length > 4 * BODY_LIMIT {
            break;
        }
    }
    if length > BODY_LIMIT { Err(too_large()) } else { Ok(buffered.freeze()) }
}

fn too_large() -> GatewayError {
    GatewayError(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large")
}

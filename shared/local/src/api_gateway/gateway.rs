//! The HTTP front: API Gateway on loopback.

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

use crate::api_gateway::event::{Received, gateway_message, http_event, http_response};
use crate::api_gateway::route::{self, Route};
use crate::api_gateway::sigv4::{self, Credentials};
use crate::lambda::runtime_api::{Function, InvocationError};

/// API Gateway's own limit on a request's body, in bytes.
const BODY_LIMIT: usize = 10 * 1024 * 1024;
/// Lambda's limit on an invocation's payload and on its answer, in bytes.
const PAYLOAD_LIMIT: usize = 6_291_556;

/// What API Gateway answers without the function, or in its place.
struct Refused(StatusCode, &'static str);

/// Routes with functions behind them.
pub struct ApiGateway {
    routes: Vec<Route>,
    functions: HashMap<String, Arc<Function>>,
    credentials: Credentials,
}

impl ApiGateway {
    /// A front for these routes; `functions` holds every one they name.
    pub fn new(
        routes: Vec<Route>,
        functions: HashMap<String, Arc<Function>>,
        credentials: Credentials,
    ) -> Self {
        Self { routes, functions, credentials }
    }

    /// Serves HTTP/1.1 until it is dropped; requests under way are dropped with it.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                // Out of file descriptors, for one: they come back as connections end.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let front = Arc::clone(&self);
            let service = service_fn(move |request| {
                let front = Arc::clone(&front);
                async move { Ok::<_, Infallible>(front.answer(request, peer).await.map(Full::new)) }
            });
            connections.spawn(async move {
                let mut server = http1::Builder::new();
                let _ = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Bytes> {
        let request_id = Uuid::new_v4();
        let answer = self.routed(request, peer, request_id).await;
        let mut response = answer.unwrap_or_else(|Refused(status, message)| gateway_message(status, message));
        let id = request_id.to_string().try_into().expect("a UUID is a valid header");
        response.headers_mut().insert("apigw-requestid", id);
        response
    }

    /// What the function answers, or else what API Gateway says by itself.
    async fn routed(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        request_id: Uuid,
    ) -> Result<Response<Bytes>, Refused> {
        let (parts, body) = request.into_parts();
        let matched = route::find(&self.routes, parts.method.as_str(), parts.uri.path())
            .ok_or(Refused(StatusCode::NOT_FOUND, "Not Found"))?;
        let body = read(body).await?;
        let at = OffsetDateTime::now_utc();
        let access_key = match matched.route.iam {
            true => Some(self.iam_caller(&parts, &body, at)?),
            false => None,
        };
        let received = Received { parts: &parts, body: &body, peer, at, request_id };
        let event = Bytes::from(http_event(&received, &matched, access_key).to_string());
        if event.len() > PAYLOAD_LIMIT {
            return Err(too_large());
        }
        self.invoke(&matched.route.function, event).await
    }

    /// The access key of the request's signer.
    fn iam_caller(
        &self,
        parts: &http::request::Parts,
        body: &[u8],
        at: OffsetDateTime,
    ) -> Result<&str, Refused> {
        sigv4::verify(parts, body, &self.credentials, at).map_err(|refusal| {
            eprintln!("{} {}: {refusal}", parts.method, parts.uri.path());
            Refused(StatusCode::FORBIDDEN, "Forbidden")
        })?;
        Ok(&self.credentials.access_key)
    }

    async fn invoke(&self, name: &str, event: Bytes) -> Result<Response<Bytes>, Refused> {
        let internal_error = || Refused(StatusCode::BAD_GATEWAY, "Internal Server Error");
        let function = self.functions.get(name).ok_or_else(internal_error)?;
        let invoked = Arc::clone(function);
        // In a task of its own: as in Lambda, a client that hangs up does not stop the function.
        let invocation = tokio::spawn(async move { invoked.invoke(event).await });
        let returned = invocation.await.map_err(|_| internal_error())?.map_err(|error| {
            eprintln!("{name}: {error}; its log is {}", function.log().display());
            match error {
                InvocationError::TimedOut(_) => {
                    Refused(StatusCode::GATEWAY_TIMEOUT, "Endpoint request timed out")
                }
                _ => internal_error(),
            }
        })?;
        if returned.len() > PAYLOAD_LIMIT {
            eprintln!("{name}: its answer of {} bytes is over Lambda's limit", returned.len());
            return Err(internal_error());
        }
        http_response(&returned).ok_or_else(|| {
            eprintln!("{name}: its answer is no payload of format 2.0");
            internal_error()
        })
    }
}

/// The whole body, if it is within the gateway's limit.
async fn read(mut body: Incoming) -> Result<Bytes, Refused> {
    let (mut kept, mut length) = (BytesMut::new(), 0);
    // What is over the limit is read on, within reason, and dropped: a client that is still sending
    // when we hang up sees a broken connection instead of the refusal.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refused(StatusCode::BAD_REQUEST, "Bad Request"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len();
        if length <= BODY_LIMIT {
            kept.extend_from_slice(&data);
        } else if length > 4 * BODY_LIMIT {
            break;
        }
    }
    if length > BODY_LIMIT { Err(too_large()) } else { Ok(kept.freeze()) }
}

fn too_large() -> Refused {
    Refused(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large")
}

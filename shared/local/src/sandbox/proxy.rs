//! A proxy between a runner and the API that loses requests and answers on demand, and writes down what it saw.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::error::{Error, ErrorContext as _, Result};

/// What a runner asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /api/runners/register`
    Register,
    /// `POST /api/queue/claim`
    Claim,
    /// `POST /api/queue/{run_id}/heartbeat`
    Heartbeat,
    /// `POST /api/queue/{run_id}/submit`
    Submit,
    /// `POST /api/queue/{run_id}/release`
    Release,
    /// `GET /api/queue/{run_id}`
    Status,
    /// Anything else.
    Other,
}

impl Operation {
    fn of_path(path: &str) -> Self {
        match path.rsplit('/').next().unwrap_or_default() {
            "register" => Self::Register,
            "claim" => Self::Claim,
            "heartbeat" => Self::Heartbeat,
            "submit" => Self::Submit,
            "release" => Self::Release,
            _ if path.starts_with("/api/queue/") => Self::Status,
            _ => Self::Other,
        }
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What for.
    pub operation: Operation,
    /// Which one of its operation this is, from 1.
    pub number: u32,
    /// The run in the path.
    pub run_id: Option<String>,
    /// The body, inflated and read; null if it is no JSON.
    pub body: Value,
    /// The `DPoP` header.
    pub proof: Option<String>,
    /// When it had arrived.
    pub at: Instant,
}

/// A request and what became of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The request.
    pub asked: Asked,
    /// The API's status, also where its answer was lost on purpose; absent when the request was.
    pub status: Option<StatusCode>,
    /// The API's body; null if it is no JSON.
    pub answer: Value,
    /// What the runner was sent; absent when the connection was cut.
    pub sent: Option<StatusCode>,
    /// `Retry-After` in what it was sent, in seconds.
    pub retry_after: Option<u64>,
    /// When that was.
    pub sent_at: Instant,
}

/// What to do with a request.
pub enum Fault {
    /// Forward it, and the answer.
    None,
    /// Cut the connection. The API never sees the request.
    LoseRequest,
    /// Forward the request and cut the connection: the API has done what the runner does not know of.
    LoseAnswer,
    /// Do something once the API has answered, and cut the connection.
    LoseAnswerAnd(Box<dyn FnOnce() + Send>),
    /// Answer in place of the API.
    Answer {
        /// The status.
        status: StatusCode,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
        /// A problem document.
        body: Value,
    },
    /// Forward it, and the answer after this time.
    Slow(Duration),
}

/// Decides over each request.
pub type Script = Box<dyn FnMut(&Asked) -> Fault + Send>;

/// How answers are changed on their way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes {
    /// Adds a field that the contract does not know to each answer: a newer service may.
    pub unknown_field: bool,
    /// Replaces `Retry-After` of an empty claim, in seconds.
    pub poll_after_s: Option<u64>,
}

/// The running proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    shared: Arc<Shared>,
    listener: Option<TcpListener>,
    tasks: JoinSet<()>,
}

struct Shared {
    script: Mutex<Script>,
    counts: Mutex<HashMap<Operation, u32>>,
    exchanges: Mutex<Vec<Exchange>>,
    client: Client<HttpConnector, Full<Bytes>>,
    changes: Changes,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("changes", &self.changes).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Takes a port; serves once [`Proxy::serve`] says what is behind it. The address comes first, because the
    /// API must know it: proofs are made for it.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn bind(port: u16, changes: Changes) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.context(format!("listen on port {port}"))?;
        let address: SocketAddr = listener.local_addr().context("ask for the port")?;
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(|_| Fault::None)),
            counts: Mutex::default(),
            exchanges: Mutex::default(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            changes,
        });
        Ok(Self { url: format!("http://{address}"), shared, listener: Some(listener), tasks: JoinSet::new() })
    }

    /// Serves HTTP/1.1 in front of the API at `upstream`.
    pub fn serve(&mut self, upstream: &str) {
        let Some(listener) = self.listener.take() else { return };
        let (shared, upstream) = (Arc::clone(&self.shared), upstream.to_owned());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, upstream) = (Arc::clone(&shared), upstream.clone());
                let service = service_fn(move |request| {
                    let (shared, upstream) = (Arc::clone(&shared), upstream.clone());
                    // A task of its own: a request is written down although its runner has hung up meanwhile.
                    let answer = tokio::spawn(async move { shared.answer(&upstream, request).await });
                    async move { answer.await.map_err(failed)? }
                });
                connections.spawn(async move {
                    // An error is how a connection is cut.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
    }

    /// Decides over the requests from now on, and counts them anew.
    pub fn direct(&self, script: impl FnMut(&Asked) -> Fault + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
        lock(&self.shared.counts).clear();
    }

    /// What was seen so far, in the order of the answers.
    pub fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.shared.exchanges).clone()
    }
}

impl Shared {
    async fn answer(&self, upstream: &str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        let asked = self.asked(&parts, &body);
        let fault = (lock(&self.script))(&asked);
        let answered = match fault {
            Fault::LoseRequest | Fault::Answer { .. } => None,
            _ => Some(self.forward(upstream, parts, body).await?),
        };
        let sent = match fault {
            Fault::None => answered.as_ref().map(|answer| self.change(answer)),
            Fault::Slow(time) => {
                tokio::time::sleep(time).await;
                answered.as_ref().map(|answer| self.change(answer))
            }
            Fault::Answer { status, retry_after, body } => Some(in_place(status, retry_after, &body)),
            Fault::LoseAnswerAnd(then) => {
                then();
                None
            }
            Fault::LoseRequest | Fault::LoseAnswer => None,
        };
        let retry_after =
            sent.as_ref().and_then(|sent| sent.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok());
        lock(&self.exchanges).push(Exchange {
            asked,
            status: answered.as_ref().map(Response::status),
            answer: answered.as_ref().map(|answer| json_of(answer.body())).unwrap_or_default(),
            sent: sent.as_ref().map(Response::status),
            retry_after,
            sent_at: Instant::now(),
        });
        sent.map(|sent| sent.map(Full::new)).ok_or_else(|| Error::Failed("cut on purpose".into()))
    }

    fn asked(&self, parts: &http::request::Parts, body: &[u8]) -> Asked {
        let path = parts.uri.path();
        let operation = Operation::of_path(path);
        let number = *lock(&self.counts).entry(operation).and_modify(|count| *count += 1).or_insert(1);
        let run_id = path.strip_prefix("/api/queue/").and_then(|rest| rest.split('/').next());
        let proof = parts.headers.get("dpop").and_then(|value| value.to_str().ok()).map(str::to_owned);
        Asked {
            operation,
            number,
            run_id: run_id.filter(|id| *id != "claim").map(str::to_owned),
            body: json_of(body),
            proof,
            at: Instant::now(),
        }
    }

    async fn forward(
        &self,
        upstream: &str,
        parts: http::request::Parts,
        body: Bytes,
    ) -> Result<Response<Bytes>> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = parts.method;
        *request.uri_mut() = format!("{upstream}{path}").parse().map_err(failed)?;
        *request.headers_mut() = parts.headers;
        request.headers_mut().remove(HOST);
        let (head, body) = self.client.request(request).await.map_err(failed)?.into_parts();
        Ok(Response::from_parts(head, body.collect().await.map_err(failed)?.to_bytes()))
    }

    fn change(&self, answer: &Response<Bytes>) -> Response<Bytes> {
        let mut sent = Response::new(answer.body().clone());
        *sent.status_mut() = answer.status();
        *sent.headers_mut() = answer.headers().clone();
        if let (Some(seconds), StatusCode::NO_CONTENT) = (self.changes.poll_after_s, answer.status()) {
            sent.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.changes.unknown_field
            && let Value::Object(mut fields) = json_of(answer.body())
        {
            fields.insert("from_a_newer_service".into(), true.into());
            *sent.body_mut() = Value::Object(fields).to_string().into();
            sent.headers_mut().remove(CONTENT_LENGTH);
        }
        sent
    }
}

fn in_place(status: StatusCode, retry_after: Option<u64>, body: &Value) -> Response<Bytes> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.extend(retry_after.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds))));
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// The JSON of a body, inflated if it begins as gzip does (RFC 1952, section 2.3.1).
fn json_of(body: &[u8]) -> Value {
    let mut inflated = Vec::new();
    let text = match body.starts_with(&[0x1f, 0x8b]) {
        true if GzDecoder::new(body).read_to_end(&mut inflated).is_ok() => &inflated,
        _ => body,
    };
    serde_json::from_slice(text).unwrap_or_default()
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}

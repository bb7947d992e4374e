//! Function processes, and the Lambda Runtime API (2018-06-01) they live on.
//!
//! Every process has an API of its own, on a port of its own, so that a process that dies takes down
//! exactly the invocation it held and nothing else.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::api_gateway::event::{ACCOUNT_ID, epoch_ms};
use crate::api_gateway::template;
use crate::error::{Result, While};

/// A function: up to `instances` processes of its binary, started when there is work for them.
#[derive(Debug)]
pub struct Function {
    settings: Settings,
    permits: Semaphore,
    /// The most recently used last, and taken first: spare processes stay cold, as in Lambda.
    idle: Mutex<Vec<Instance>>,
}

/// What a function's processes are started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name, timeout and memory, from the template.
    pub function: template::Function,
    /// The program.
    pub binary: PathBuf,
    /// Set in addition to our own environment.
    pub environment: BTreeMap<String, String>,
    /// Where its standard output and error go.
    pub log: PathBuf,
    /// At most this many processes, at least one.
    pub instances: usize,
}

/// An invocation without an answer.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    /// The process could not be started.
    #[error("{0}")]
    NotStarted(#[from] crate::Error),
    /// The process ended before it answered.
    #[error("the process ended in mid-request ({0})")]
    Died(ExitStatus),
    /// The function's timeout passed; its process was killed.
    #[error("no answer within {} s; the process was killed", .0.as_secs())]
    TimedOut(Duration),
    /// The function returned an error, with this report.
    #[error("the function failed: {0}")]
    Failed(Value),
}

impl Function {
    /// A function without a process yet.
    pub fn new(settings: Settings) -> Self {
        let permits = Semaphore::new(settings.instances.max(1));
        Self { settings, permits, idle: Mutex::default() }
    }

    /// Its name in the template.
    pub fn name(&self) -> &str {
        &self.settings.function.name
    }

    /// What its processes are started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where its processes write what they have to say.
    pub fn log(&self) -> &Path {
        &self.settings.log
    }

    /// Gives a payload to a process and waits for what it returns. Waits for a process when all are
    /// busy; that time is not counted.
    ///
    /// # Errors
    /// See [`InvocationError`]. After each of them the next invocation gets a fresh process, unless the
    /// function itself reported the error.
    pub async fn invoke(&self, payload: Bytes) -> std::result::Result<Bytes, InvocationError> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let mut instance = match self.take_idle() {
            Some(instance) => instance,
            None => Instance::start(&self.settings).await?,
        };
        let answer = instance.invoke(payload, self.settings.function.timeout).await;
        if matches!(answer, Ok(_) | Err(InvocationError::Failed(_))) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        }
        answer
    }

    /// An idle process that still lives.
    fn take_idle(&self) -> Option<Instance> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut instance) = idle.pop() {
            if matches!(instance.process.try_wait(), Ok(None)) {
                return Some(instance);
            }
        }
        None
    }
}

/// One process and its Runtime API. Dropping it kills the process.
#[derive(Debug)]
struct Instance {
    process: Child,
    invocations: mpsc::Sender<Invocation>,
    /// Its server; a set ends its tasks when it is dropped.
    _api: JoinSet<()>,
}

impl Instance {
    async fn start(settings: &Settings) -> Result<Self> {
        let name = &settings.function.name;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.while_("open a port for a function")?;
        let address = listener.local_addr().while_("open a port for a function")?;
        let (invocations, next) = mpsc::channel(1);
        let arn = format!("arn:aws:lambda:us-east-1:{ACCOUNT_ID}:function:{name}");
        let api = RuntimeApi { arn, next: next.into(), current: Mutex::default() };
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::new(api)));
        let log = append_to(&settings.log)?;
        let process = Command::new(&settings.binary)
            .envs(lambda_environment(&settings.function))
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .envs(&settings.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().while_("share a function's log")?)
            .stderr(log)
            // A Ctrl-C at the terminal is for us alone, or it would look like a crash of them all.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .while_(format!("start {}", settings.binary.display()))?;
        Ok(Self { process, invocations, _api: server })
    }

    async fn invoke(
        &mut self,
        payload: Bytes,
        timeout: Duration,
    ) -> std::result::Result<Bytes, InvocationError> {
        let (answer, answered) = oneshot::channel();
        let deadline = OffsetDateTime::now_utc() + timeout;
        let invocation = Invocation { id: Uuid::new_v4(), payload, deadline, answer };
        // The receiver lives in the API's task, which lives as long as we do.
        let _ = self.invocations.send(invocation).await;
        tokio::select! {
            // A process may answer and end at once; the answer counts.
            biased;
            Ok(answer) = answered => answer.map_err(InvocationError::Failed),
            status = self.process.wait() => match status {
                Ok(status) => Err(InvocationError::Died(status)),
                Err(source) => {
                    let doing = "wait for a function's process".to_owned();
                    Err(crate::Error::Io { doing, source }.into())
                }
            },
            () = tokio::time::sleep(timeout) => Err(InvocationError::TimedOut(timeout)),
        }
    }
}

/// The variables that Lambda defines (“Using Lambda environment variables”, Developer Guide).
fn lambda_environment(function: &template::Function) -> [(&'static str, String); 9] {
    let name = function.name.clone();
    [
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function.memory_mb.to_string()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".into()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".into()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "local".into()),
        ("AWS_LAMBDA_FUNCTION_NAME", name),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_DEFAULT_REGION", "us-east-1".into()),
        ("TZ", ":UTC".into()),
    ]
}

fn append_to(log: &Path) -> Result<File> {
    File::options().create(true).append(true).open(log).while_(format!("open {}", log.display()))
}

struct Invocation {
    id: Uuid,
    payload: Bytes,
    deadline: OffsetDateTime,
    answer: oneshot::Sender<Answer>,
}

/// What a process posts: a response, or an error report.
type Answer = std::result::Result<Bytes, Value>;

/// The Runtime API of one process.
struct RuntimeApi {
    arn: String,
    next: tokio::sync::Mutex<mpsc::Receiver<Invocation>>,
    /// The invocation the process works on.
    current: Mutex<Option<(Uuid, oneshot::Sender<Answer>)>>,
}

async fn serve(listener: TcpListener, api: Arc<RuntimeApi>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let api = Arc::clone(&api);
        let service = service_fn(move |request| {
            let api = Arc::clone(&api);
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        // A process that is killed drops its connection; there is nobody to tell.
        connections.spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

impl RuntimeApi {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let Some(path) = path.strip_prefix("/2018-06-01/runtime/") else {
            return api_error(StatusCode::NOT_FOUND, "no such path");
        };
        match (request.method(), path.split('/').collect::<Vec<_>>().as_slice()) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", id, "response"]) => self.finish(id, request, Ok).await,
            (&Method::POST, ["invocation", id, "error"]) => {
                self.finish(id, request, |report| Err(error_report(&report))).await
            }
            // The process ends by itself after this, which is what the invocation waits for.
            (&Method::POST, ["init", "error"]) => accepted(),
            _ => api_error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    /// Holds the answer back until there is work.
    async fn next(&self) -> Response<Full<Bytes>> {
        let Some(invocation) = self.next.lock().await.recv().await else {
            return api_error(StatusCode::GONE, "the instance is being stopped");
        };
        let id = invocation.id;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, invocation.answer));
        let trace = format!(
            "Root=1-{:08x}-{:024x};Sampled=0",
            epoch_ms(invocation.deadline) / 1000,
            id.as_u128() >> 32
        );
        Response::builder()
            .header(header::CONTENT_TYPE, "application/json")
            .header("lambda-runtime-aws-request-id", id.to_string())
            .header("lambda-runtime-deadline-ms", epoch_ms(invocation.deadline).to_string())
            .header("lambda-runtime-invoked-function-arn", &self.arn)
            .header("lambda-runtime-trace-id", trace)
            .body(invocation.payload.into())
            .expect("these are valid headers")
    }

    async fn finish(
        &self,
        id: &str,
        request: Request<Incoming>,
        answer: impl FnOnce(Bytes) -> Answer,
    ) -> Response<Full<Bytes>> {
        // Read whole before the invocation is taken: a process that dies half-way has not answered.
        let Ok(body) = request.into_body().collect().await else {
            return api_error(StatusCode::BAD_REQUEST, "the body did not arrive");
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match current.take_if(|(current, _)| current.to_string() == id) {
            Some((_, invocation)) => {
                // The caller may have given up.
                let _ = invocation.send(answer(body.to_bytes()));
                accepted()
            }
            None => api_error(StatusCode::BAD_REQUEST, "not the current request"),
        }
    }
}

/// The function's own report, or its text where that is no JSON.
fn error_report(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| json!(String::from_utf8_lossy(body)))
}

fn accepted() -> Response<Full<Bytes>> {
    api_message(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}

fn api_error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    api_message(status, &json!({"errorType": "InvalidRequest", "errorMessage": message}))
}

fn api_message(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response
}

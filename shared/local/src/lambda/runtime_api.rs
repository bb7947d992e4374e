//! Function processes and their Lambda Runtime API (2018-06-01).
//!
//! Each process has its own API on its own port, so that a process that dies affects only its current
//! invocation.

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
use crate::error::{ErrorContext, Result};

/// A function: up to `instances` processes of its binary, started on demand.
#[derive(Debug)]
pub struct Function {
    settings: Settings,
    permits: Semaphore,
    /// Idle processes, most recently used last. The last one is reused first, so that spare processes stay
    /// idle, as in Lambda.
    idle: Mutex<Vec<Instance>>,
    /// Process ids of the invocations in progress.
    busy: Mutex<Vec<u32>>,
}

/// Settings of a function's processes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name, timeout and memory, from the template.
    pub function: template::Function,
    /// Path of the executable.
    pub binary: PathBuf,
    /// Variables added to the inherited environment.
    pub environment: BTreeMap<String, String>,
    /// File for standard output and standard error.
    pub log: PathBuf,
    /// Maximum number of processes, at least 1.
    pub instances: usize,
}

/// A failed invocation.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    /// The process could not be started.
    #[error("{0}")]
    NotStarted(#[from] crate::Error),
    /// The process ended before it returned a result.
    #[error("the process ended during the request ({0})")]
    Died(ExitStatus),
    /// The function exceeded its timeout and its process was killed.
    #[error("no result within {} s; the process was killed", .0.as_secs())]
    TimedOut(Duration),
    /// The function reported an error.
    #[error("the function reported an error: {0}")]
    Failed(Value),
}

impl Function {
    /// Creates a function without starting a process.
    pub fn new(settings: Settings) -> Self {
        let permits = Semaphore::new(settings.instances.max(1));
        Self { settings, permits, idle: Mutex::default(), busy: Mutex::default() }
    }

    /// Returns the function's name in the template.
    pub fn name(&self) -> &str {
        &self.settings.function.name
    }

    /// Returns the settings of the function's processes.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the path of the log file.
    pub fn log(&self) -> &Path {
        &self.settings.log
    }

    /// Invokes a process with a payload and returns the result. If all processes are busy, waits for one;
    /// this time does not count towards the timeout.
    ///
    /// # Errors
    /// See [`InvocationError`]. Except after an error that the function reported itself, the next invocation
    /// starts a new process.
    pub async fn invoke(&self, payload: Bytes) -> std::result::Result<Bytes, InvocationError> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let mut instance = match self.take_idle() {
            Some(instance) => instance,
            None => Instance::start(&self.settings).await?,
        };
        let answer = {
            let _busy = Busy::new(&self.busy, &instance);
            instance.invoke(payload, self.settings.function.timeout).await
        };
        if matches!(answer, Ok(_) | Err(InvocationError::Failed(_))) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        }
        answer
    }

    /// Returns the ids of the processes that are serving an invocation.
    pub fn busy(&self) -> Vec<u32> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes an idle process that is still running.
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

/// Lists a process as busy until dropped.
struct Busy<'a> {
    list: &'a Mutex<Vec<u32>>,
    id: Option<u32>,
}

impl<'a> Busy<'a> {
    fn new(list: &'a Mutex<Vec<u32>>, instance: &Instance) -> Self {
        let id = instance.process.id();
        list.lock().unwrap_or_else(PoisonError::into_inner).extend(id);
        Self { list, id }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| Some(*id) != self.id);
    }
}

/// A process with its Runtime API. Dropping it kills the process.
#[derive(Debug)]
struct Instance {
    process: Child,
    invocations: mpsc::Sender<Invocation>,
    /// The API's server task, which ends when the set is dropped.
    _api: JoinSet<()>,
}

impl Instance {
    async fn start(settings: &Settings) -> Result<Self> {
        let name = &settings.function.name;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("open a port for a function")?;
        let address = listener.local_addr().context("open a port for a function")?;
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
            .stdout(log.try_clone().context("share a function's log")?)
            .stderr(log)
            // A process group of its own: Ctrl-C at the terminal must not end the function processes first,
            // which would look like crashes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context(format!("start {}", settings.binary.display()))?;
        Ok(Self { process, invocations, _api: server })
    }

    async fn invoke(
        &mut self,
        payload: Bytes,
        timeout: Duration,
    ) -> std::result::Result<Bytes, InvocationError> {
        let (answer, result) = oneshot::channel();
        let deadline = OffsetDateTime::now_utc() + timeout;
        let invocation = Invocation { id: Uuid::new_v4(), payload, deadline, answer };
        // Cannot fail: the receiver is in the API's task, which ends with this instance.
        let _ = self.invocations.send(invocation).await;
        tokio::select! {
            // Polls the result first, because a process may return it and end immediately.
            biased;
            Ok(answer) = result => answer.map_err(InvocationError::Failed),
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

/// Returns the variables that Lambda defines (“Using Lambda environment variables”, Developer Guide).
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
    File::options().create(true).append(true).open(log).context(format!("open {}", log.display()))
}

struct Invocation {
    id: Uuid,
    payload: Bytes,
    deadline: OffsetDateTime,
    answer: oneshot::Sender<Answer>,
}

/// A process's result: a response or an error report.
type Answer = std::result::Result<Bytes, Value>;

/// The Runtime API of one process.
struct RuntimeApi {
    arn: String,
    next: tokio::sync::Mutex<mpsc::Receiver<Invocation>>,
    /// The process's current invocation.
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
        // An error means that the process was killed; `Instance::invoke` detects that itself.
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
            return api_error(StatusCode::NOT_FOUND, "unknown path");
        };
        match (request.method(), path.split('/').collect::<Vec<_>>().as_slice()) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", id, "response"]) => self.finish(id, request, Ok).await,
            (&Method::POST, ["invocation", id, "error"]) => {
                self.finish(id, request, |report| Err(error_report(&report))).await
            }
            // The process ends after this report, and the invocation detects its end.
            (&Method::POST, ["init", "error"]) => accepted(),
            _ => api_error(StatusCode::NOT_FOUND, "unknown path"),
        }
    }

    /// Waits for the next invocation and returns it.
    async fn next(&self) -> Response<Full<Bytes>> {
        let Some(invocation) = self.next.lock().await.recv().await else {
            return api_error(StatusCode::GONE, "the instance is stopping");
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
        // Reads the whole body before it takes the invocation: a process that dies while sending has no
        // result.
        let Ok(body) = request.into_body().collect().await else {
            return api_error(StatusCode::BAD_REQUEST, "the body is incomplete");
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match current.take_if(|(current, _)| current.to_string() == id) {
            Some((_, invocation)) => {
                // The caller may have stopped waiting.
                let _ = invocation.send(answer(body.to_bytes()));
                accepted()
            }
            None => api_error(StatusCode::BAD_REQUEST, "this id is not the current invocation"),
        }
    }
}

/// Parses the function's error report, or returns it as a string if it is not JSON.
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

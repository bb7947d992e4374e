//! Measures cold starts, from the start of a function's process to its first response, against a minimal
//! function.
//!
//! Each measurement is a process that serves one request and is killed. Each function is measured with two
//! requests: one that it refuses without database or secret, and one that it serves.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::api_gateway::event::{ReceivedRequest, http_event};
use crate::api_gateway::route;
use crate::api_gateway::sigv4::Credentials;
use crate::client::{Api, REGISTER};
use crate::demo::harness_run::{self, HarnessRun};
use crate::error::{Error, ErrorContext, Result};
use crate::lambda::build;
use crate::lambda::runtime_api::{Function, Settings};
use crate::stack::{Options, Stack};
use crate::workspace;

/// The minimal function, an example of shared/lambda, that serves as the baseline.
const HELLO: &str = "hello";

/// Goals: function, maximum time to refuse a request as a multiple of [`HELLO`]'s median, and maximum binary
/// size in megabytes (10⁶ bytes).
const GOALS: [(&str, f64, f64); 2] = [("claim", 1.5, 8.0), ("submit", 2.0, 12.0)];

const LIMITS: &str = "\
Time from the start of the process to its first response over a Runtime API on loopback. Each process is used
once, and the functions alternate. “Refused” is a request without credentials (401 or 403), which needs neither
database nor secret. “Served” is a valid request, with the signing keys in a file and Postgres on loopback without
TLS. The ratios hold for this machine: no function has a microVM or a code download, and this project's functions
use neither Secrets Manager nor TLS to the database.";

/// Measures `rounds` cold starts of each function on a new stack and prints a table in Markdown.
///
/// # Errors
/// If the stack does not start, or a function returns an unexpected response.
pub async fn measure(rounds: u32) -> Result<()> {
    let root = workspace::root()?;
    let hello = tokio::task::spawn_blocking(move || build::example(&root, HELLO));
    let hello = hello.await.map_err(failed)??;
    let stack = Stack::start(&Options { port: 0, release: true, ..Options::default() }).await?;
    let measured = measure_on(&stack, hello, rounds).await;
    print!("{}", stack.stop_after(measured).await?);
    Ok(())
}

async fn measure_on(stack: &Stack, hello: PathBuf, rounds: u32) -> Result<String> {
    let fixture = Fixture::create(stack).await?;
    let mut hello = Measurements::hello(stack, hello)?;
    let mut measurements = Vec::new();
    for request in fixture.requests()? {
        measurements.push(Measurements::of(stack, &request)?);
    }
    for _ in 0..rounds {
        hello.served.push(
            measure_first_response(&hello.settings, &jwks_request().event(stack, true)?, StatusCode::OK)
                .await?,
        );
        for (request, measurements) in fixture.requests()?.iter().zip(&mut measurements) {
            if let Some(refusal) = request.refusal {
                let event = request.event(stack, false)?;
                measurements
                    .refused
                    .push(measure_first_response(&measurements.settings, &event, refusal).await?);
            }
            let event = request.event(stack, true)?;
            measurements
                .served
                .push(measure_first_response(&measurements.settings, &event, request.answer).await?);
        }
    }
    let hello = Row::of(hello);
    let rows: Vec<Row> = measurements.into_iter().map(Row::of).collect();
    table(&hello, &rows, rounds)
}

/// Starts a process for one event and measures the time until its response.
async fn measure_first_response(
    settings: &Settings,
    event: &Bytes,
    expected: StatusCode,
) -> Result<Duration> {
    let function = Function::new(settings.clone());
    let start = Instant::now();
    let answer = function.invoke(event.clone()).await;
    let took = start.elapsed();
    let answer: Value = serde_json::from_slice(&answer.map_err(failed)?).map_err(failed)?;
    match answer["statusCode"] == expected.as_u16() {
        true => Ok(took),
        false => Err(Error::Failed(format!("{}: {answer} instead of {expected}", function.name()))),
    }
}

/// The state that the requests use: a runner with a live claim, and an accepted result.
struct Fixture {
    api: Api,
    token: String,
    claimed: Claim,
    submitted: Claim,
    submission: Box<RawValue>,
}

struct Claim {
    run_id: String,
    claim_id: String,
}

impl Fixture {
    async fn create(stack: &Stack) -> Result<Self> {
        let api = Api::new(&stack.url);
        let token = register_runner(&api).await?;

        let runs = harness_run::all()?;
        for run in &runs {
            let enqueued = api.admin_post("/api/admin/runs", &run.enqueue_request()?).await?;
            enqueued.expect_status(StatusCode::CREATED)?;
        }
        let submitted = Claim::create(&api, &token).await?;
        let claimed = Claim::create(&api, &token).await?;
        let submission = submitted.submission(&runs)?;
        let accepted = api.post(&submitted.path("submit"), &token, &submission).await?;
        accepted.expect_status(StatusCode::CREATED)?;
        Ok(Self { api, token, claimed, submitted, submission })
    }

    /// Returns one repeatable request for each function that has a route.
    fn requests(&self) -> Result<Vec<ProbeRequest>> {
        let claim_id = json!({"claim_id": self.claimed.claim_id});
        let unknown = json!({"claim_id": Uuid::nil()});
        let (status, heartbeat, release) =
            (self.claimed.path(""), self.claimed.path("heartbeat"), self.claimed.path("release"));
        Ok(vec![
            // Repeats the id of a live claim, which returns the same job.
            self.runner_request("POST /api/queue/claim", &claim_id)?,
            self.runner_request(&format!("POST {heartbeat}"), &claim_id)?,
            // Repeats an accepted result, which is verified again and returns the same receipt.
            self.runner_request(&format!("POST {}", self.submitted.path("submit")), &self.submission)?,
            ProbeRequest {
                answer: StatusCode::CONFLICT,
                ..self.runner_request(&format!("POST {release}"), &unknown)?
            },
            self.runner_request(&format!("GET {status}"), &Value::Null)?,
            self.registration_request()?,
            admin_request("GET /api/admin/runs"),
            admin_request("GET /api/admin/keys"),
            jwks_request(),
        ])
    }

    fn runner_request(&self, request: &str, body: &impl serde::Serialize) -> Result<ProbeRequest> {
        Ok(ProbeRequest {
            credentials: Some((header::AUTHORIZATION.as_str(), format!("Bearer {}", self.token))),
            body: serde_json::to_string(body).map_err(failed)?,
            refusal: Some(StatusCode::UNAUTHORIZED),
            ..ProbeRequest::plain(request)
        })
    }

    fn registration_request(&self) -> Result<ProbeRequest> {
        Ok(ProbeRequest {
            credentials: Some(("dpop", self.api.proof(&harness_run::runner_key()?))),
            body: registration()?.to_string(),
            refusal: Some(StatusCode::UNAUTHORIZED),
            ..ProbeRequest::plain(&format!("POST {REGISTER}"))
        })
    }
}

fn admin_request(request: &str) -> ProbeRequest {
    ProbeRequest { iam: true, refusal: Some(StatusCode::FORBIDDEN), ..ProbeRequest::plain(request) }
}

/// Returns the request for the public keys, which needs no credentials.
fn jwks_request() -> ProbeRequest {
    ProbeRequest::plain("GET /api/jwks.json")
}

/// Allows and registers a runner with 24 GB of VRAM, and returns its token.
pub(crate) async fn register_runner(api: &Api) -> Result<String> {
    let key = json!({"public_key": public_key()?, "label": "measurement"});
    api.admin_post("/api/admin/keys", &key).await?.expect_status(StatusCode::CREATED)?;
    let registered = api.register(&harness_run::runner_key()?, &registration()?).await?;
    registered.expect_status(StatusCode::OK)?;
    Ok(registered.text("token"))
}

fn public_key() -> Result<String> {
    Ok(harness_run::base64(harness_run::runner_key()?.verifying_key().as_bytes()))
}

fn registration() -> Result<Value> {
    let capabilities = json!({"vram_gb": 24, "quantizations": ["q4_k_m"]});
    Ok(json!({"public_key": public_key()?, "runner_id": "measured", "capabilities": capabilities}))
}

impl Claim {
    async fn create(api: &Api, token: &str) -> Result<Self> {
        let job = api.post("/api/queue/claim", token, &json!({})).await?;
        job.expect_status(StatusCode::OK)?;
        Ok(Self { run_id: job.text("run_id"), claim_id: job.text("claim_id") })
    }

    fn path(&self, action: &str) -> String {
        format!("/api/queue/{}/{action}", self.run_id).trim_end_matches('/').to_owned()
    }

    /// Returns the request body with the harness's signed result for this run.
    fn submission(&self, runs: &[HarnessRun]) -> Result<Box<RawValue>> {
        let run = runs.iter().find(|run| run.id() == self.run_id);
        let run =
            run.ok_or_else(|| Error::Failed(format!("the run {} is not one of the demo's", self.run_id)))?;
        run.submission(&self.claim_id)
    }
}

/// A request that can be sent with or without credentials.
struct ProbeRequest {
    method: String,
    path: String,
    /// Name and value of the header with the credentials.
    credentials: Option<(&'static str, String)>,
    /// Whether the credentials are API Gateway's IAM context.
    iam: bool,
    body: String,
    /// Expected status without credentials; `None` if the route needs none.
    refusal: Option<StatusCode>,
    /// Expected status with credentials.
    answer: StatusCode,
}

impl ProbeRequest {
    /// Creates a request without credentials or body. `request` is the method and path.
    fn plain(request: &str) -> Self {
        let (method, path) = request.split_once(' ').unwrap_or((request, ""));
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            credentials: None,
            iam: false,
            body: String::new(),
            refusal: None,
            answer: StatusCode::OK,
        }
    }

    /// Returns the event that the function receives.
    fn event(&self, stack: &Stack, with_credentials: bool) -> Result<Bytes> {
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(&self.path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some((name, value)) = self.credentials.as_ref().filter(|_| with_credentials) {
            request = request.header(*name, value);
        }
        let (parts, ()) = request.body(()).map_err(failed)?.into_parts();
        let received = ReceivedRequest {
            parts: &parts,
            body: self.body.as_bytes(),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            at: OffsetDateTime::now_utc(),
            request_id: Uuid::new_v4(),
        };
        let credentials = Credentials::local();
        let caller = (self.iam && with_credentials).then_some(credentials.access_key.as_str());
        let event = http_event(&received, &self.route(stack)?, caller);
        Ok(Bytes::from(event.to_string()))
    }

    fn route<'a>(&self, stack: &'a Stack) -> Result<route::RouteMatch<'a>> {
        let matched = route::find(&stack.routes, &self.method, &self.path);
        matched.ok_or_else(|| {
            Error::Failed(format!("template.yaml has no route for {} {}", self.method, self.path))
        })
    }
}

/// A function with its measurements.
struct Measurements {
    settings: Settings,
    bytes: u64,
    refused: Vec<Duration>,
    served: Vec<Duration>,
}

impl Measurements {
    fn of(stack: &Stack, request: &ProbeRequest) -> Result<Self> {
        let name = &request.route(stack)?.route.function;
        let function = stack.functions.get(name);
        let function = function.ok_or_else(|| Error::Failed(format!("the stack has no function {name}")))?;
        Self::with(function.settings().clone())
    }

    /// Creates the measurements of [`HELLO`], in the same environment as the other functions.
    fn hello(stack: &Stack, binary: PathBuf) -> Result<Self> {
        let mut settings = Self::of(stack, &jwks_request())?.settings;
        settings.function.name = HELLO.to_owned();
        Self::with(Settings { binary, ..settings })
    }

    fn with(settings: Settings) -> Result<Self> {
        let binary = &settings.binary;
        let bytes = fs::metadata(binary).context(format!("read {}", binary.display()))?.len();
        Ok(Self { settings, bytes, refused: Vec::new(), served: Vec::new() })
    }
}

/// Median and upper percentiles of a series, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    p90: f64,
    pub(crate) p99: f64,
}

impl Summary {
    /// Returns `None` for an empty series.
    pub(crate) fn of(times: &mut [Duration]) -> Option<Self> {
        times.sort_unstable();
        let at =
            |percent| times.get(times.len() * percent / 100).map(|time: &Duration| time.as_secs_f64() * 1e3);
        Some(Self { median: at(50)?, p90: at(90)?, p99: at(99)? })
    }
}

/// A function's row of the table.
struct Row {
    name: String,
    megabytes: f64,
    refused: Option<Summary>,
    served: Option<Summary>,
}

impl Row {
    fn of(mut measurements: Measurements) -> Self {
        Self {
            name: measurements.settings.function.name,
            megabytes: measurements.bytes as f64 / 1e6,
            refused: Summary::of(&mut measurements.refused),
            served: Summary::of(&mut measurements.served),
        }
    }
}

/// Formats the measurements as a Markdown table, followed by the conditions and goals.
fn table(hello: &Row, rows: &[Row], rounds: u32) -> Result<String> {
    let base = hello.served.ok_or_else(|| Error::Failed("no measurements".into()))?.median;
    let mut text = format!(
        "\n| function ({rounds} cold starts each) | stripped MB | refused, ms: median | p90 | × hello \
         | served, ms: median | p90 | × hello |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for row in std::iter::once(hello).chain(rows) {
        let (refused, served) = (cells(row.refused, base), cells(row.served, base));
        text += &format!("| {} | {:.1} | {refused} | {served} |\n", row.name, row.megabytes);
    }
    text += &format!("\n{LIMITS}\n\n");
    for (name, times_hello, megabytes) in GOALS {
        let row = rows.iter().find(|row| row.name == name);
        let (Some(row), Some(refused)) = (row, row.and_then(|row| row.refused)) else { continue };
        let is_met = refused.median <= times_hello * base && row.megabytes <= megabytes;
        let verdict = if is_met { "met" } else { "MISSED" };
        text += &format!("Goal for {name}, at most {times_hello} × hello and {megabytes} MB: {verdict}.\n");
    }
    Ok(text)
}

fn cells(summary: Option<Summary>, base: f64) -> String {
    summary.map_or("– | – | –".to_owned(), |Summary { median, p90, .. }| {
        format!("{median:.1} | {p90:.1} | {:.2}", median / base)
    })
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_do_not_depend_on_the_order() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        let summary = Summary::of(&mut times).unwrap();
        assert_eq!((summary.median, summary.p90, summary.p99), (51.0, 91.0, 100.0));
        assert!(Summary::of(&mut []).is_none());
    }

    #[test]
    fn a_goal_covers_the_refusals_and_the_size() {
        let summary = |median| Some(Summary { median, p90: 9.0, p99: 9.5 });
        let row = |name: &str, megabytes, refused| Row {
            name: name.to_owned(),
            megabytes,
            refused,
            served: summary(2.0),
        };
        let hello = row("hello", 2.0, None);
        let table = table(&hello, &[row("claim", 7.0, summary(3.0)), row("submit", 13.0, summary(3.0))], 1);
        let table = table.unwrap();
        assert!(table.contains("| claim | 7.0 | 3.0 | 9.0 | 1.50 | 2.0 | 9.0 | 1.00 |"), "{table}");
        assert!(table.contains("Goal for claim, at most 1.5 × hello and 8 MB: met."), "{table}");
        assert!(table.contains("Goal for submit, at most 2 × hello and 12 MB: MISSED."), "{table}");
    }
}

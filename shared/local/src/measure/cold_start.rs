//! Cold starts: from the start of a function's process to its first response, beside a function that
//! does nothing.
//!
//! Each figure is one process that serves one request and is killed. Twice for each function: a request
//! that it refuses by itself, which needs neither database nor secret, and one that it serves.

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

use crate::api_gateway::event::{Received, http_event};
use crate::api_gateway::route;
use crate::api_gateway::sigv4::Credentials;
use crate::client::{Api, REGISTER};
use crate::demo::harness_run::{self, HarnessRun};
use crate::error::{Error, Result, While};
use crate::lambda::build;
use crate::lambda::runtime_api::{Function, Settings};
use crate::stack::{Options, Stack};
use crate::workspace;

/// The example of shared/lambda that everything is held against.
const HELLO: &str = "hello";

/// Of each function that has goals: the most that it may take, as a multiple of [`HELLO`]'s median, to
/// refuse a request; and its most megabytes (10⁶ bytes).
const GOALS: [(&str, f64, f64); 2] = [("claim", 1.5, 8.0), ("submit", 2.0, 12.0)];

const LIMITS: &str = "\
From the start of the process to its first response over a Runtime API on loopback, each process used
once, all functions by turns. “Refused” is a request without credentials (401 or 403): no database, no
secret. “Served” is a real one, with the signing keys in a file and Postgres on loopback without TLS.
The ratios are of this machine: no microVM and no download of the code for any of them; no Secrets Manager
and no TLS to the database for ours.";

/// Measures `rounds` cold starts of each function on a stack of its own, and prints a table in Markdown.
///
/// # Errors
/// When the stack does not come up, or a function does not answer as it should.
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
    let scene = Scene::set(stack).await?;
    let mut hello = Figures::hello(stack, hello)?;
    let mut figures = Vec::new();
    for asked in scene.requests()? {
        figures.push(Figures::of(stack, &asked)?);
    }
    for _ in 0..rounds {
        hello
            .served
            .push(first_response(&hello.settings, &keys().event(stack, true)?, StatusCode::OK).await?);
        for (asked, figures) in scene.requests()?.iter().zip(&mut figures) {
            if let Some(refusal) = asked.refusal {
                let event = asked.event(stack, false)?;
                figures.refused.push(first_response(&figures.settings, &event, refusal).await?);
            }
            let event = asked.event(stack, true)?;
            figures.served.push(first_response(&figures.settings, &event, asked.answer).await?);
        }
    }
    let hello = Row::of(hello);
    let rows: Vec<Row> = figures.into_iter().map(Row::of).collect();
    table(&hello, &rows, rounds)
}

/// Starts a process for one event and takes the time until it has answered.
async fn first_response(settings: &Settings, event: &Bytes, expected: StatusCode) -> Result<Duration> {
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

/// What the requests are about: a runner with a live claim, and a result accepted before.
struct Scene {
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

impl Scene {
    async fn set(stack: &Stack) -> Result<Self> {
        let api = Api::new(&stack.url);
        let token = admitted(&api).await?;

        let runs = harness_run::all()?;
        for run in &runs {
            let enqueued = api.admin_post("/api/admin/runs", &run.enqueue_request()?).await?;
            enqueued.must_be(StatusCode::CREATED)?;
        }
        let submitted = Claim::make(&api, &token).await?;
        let claimed = Claim::make(&api, &token).await?;
        let submission = submitted.submission(&runs)?;
        let accepted = api.post(&submitted.path("submit"), &token, &submission).await?;
        accepted.must_be(StatusCode::CREATED)?;
        Ok(Self { api, token, claimed, submitted, submission })
    }

    /// One request to each function behind a route, which may be sent again and again.
    fn requests(&self) -> Result<Vec<Asked>> {
        let claim_id = json!({"claim_id": self.claimed.claim_id});
        let unknown = json!({"claim_id": Uuid::nil()});
        let (status, beat, back) =
            (self.claimed.path(""), self.claimed.path("heartbeat"), self.claimed.path("release"));
        Ok(vec![
            // The id of a live claim again: the same job.
            self.runners("POST /api/queue/claim", &claim_id)?,
            self.runners(&format!("POST {beat}"), &claim_id)?,
            // The same result again: verified, found, the same receipt.
            self.runners(&format!("POST {}", self.submitted.path("submit")), &self.submission)?,
            Asked { answer: StatusCode::CONFLICT, ..self.runners(&format!("POST {back}"), &unknown)? },
            self.runners(&format!("GET {status}"), &Value::Null)?,
            self.registration()?,
            admins("GET /api/admin/runs"),
            admins("GET /api/admin/keys"),
            keys(),
        ])
    }

    fn runners(&self, asked: &str, body: &impl serde::Serialize) -> Result<Asked> {
        Ok(Asked {
            credentials: Some((header::AUTHORIZATION.as_str(), format!("Bearer {}", self.token))),
            body: serde_json::to_string(body).map_err(failed)?,
            refusal: Some(StatusCode::UNAUTHORIZED),
            ..Asked::plain(asked)
        })
    }

    fn registration(&self) -> Result<Asked> {
        Ok(Asked {
            credentials: Some(("dpop", self.api.proof(&harness_run::runner_key()?))),
            body: registration()?.to_string(),
            refusal: Some(StatusCode::UNAUTHORIZED),
            ..Asked::plain(&format!("POST {REGISTER}"))
        })
    }
}

fn admins(asked: &str) -> Asked {
    Asked { iam: true, refusal: Some(StatusCode::FORBIDDEN), ..Asked::plain(asked) }
}

/// Has no credentials to leave out.
fn keys() -> Asked {
    Asked::plain("GET /api/jwks.json")
}

/// Allows and registers a runner with 24 GB; its token.
pub(crate) async fn admitted(api: &Api) -> Result<String> {
    let key = json!({"public_key": public_key()?, "label": "measuring"});
    api.admin_post("/api/admin/keys", &key).await?.must_be(StatusCode::CREATED)?;
    let registered = api.register(&harness_run::runner_key()?, &registration()?).await?;
    registered.must_be(StatusCode::OK)?;
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
    async fn make(api: &Api, token: &str) -> Result<Self> {
        let job = api.post("/api/queue/claim", token, &json!({})).await?;
        job.must_be(StatusCode::OK)?;
        Ok(Self { run_id: job.text("run_id"), claim_id: job.text("claim_id") })
    }

    fn path(&self, action: &str) -> String {
        format!("/api/queue/{}/{action}", self.run_id).trim_end_matches('/').to_owned()
    }

    /// What the harness signed for this run.
    fn submission(&self, runs: &[HarnessRun]) -> Result<Box<RawValue>> {
        let run = runs.iter().find(|run| run.id() == self.run_id);
        let run = run.ok_or_else(|| Error::Failed(format!("{} was not enqueued here", self.run_id)))?;
        run.submission(&self.claim_id)
    }
}

/// A request, with credentials or without.
struct Asked {
    method: String,
    path: String,
    /// Header and value.
    credentials: Option<(&'static str, String)>,
    /// Whether the gateway's IAM authorizer is the credentials.
    iam: bool,
    body: String,
    /// The status without credentials.
    refusal: Option<StatusCode>,
    /// The status with them.
    answer: StatusCode,
}

impl Asked {
    /// Without credentials or body; `asked` is method and path.
    fn plain(asked: &str) -> Self {
        let (method, path) = asked.split_once(' ').unwrap_or((asked, ""));
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

    /// As the function gets it.
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
        let received = Received {
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

    fn route<'a>(&self, stack: &'a Stack) -> Result<route::Matched<'a>> {
        let matched = route::find(&stack.routes, &self.method, &self.path);
        matched.ok_or_else(|| Error::Failed(format!("no route for {} {}", self.method, self.path)))
    }
}

/// A function and what was measured of it.
struct Figures {
    settings: Settings,
    bytes: u64,
    refused: Vec<Duration>,
    served: Vec<Duration>,
}

impl Figures {
    fn of(stack: &Stack, asked: &Asked) -> Result<Self> {
        let name = &asked.route(stack)?.route.function;
        let function = stack.functions.get(name);
        let function = function.ok_or_else(|| Error::Failed(format!("the stack has no function {name}")))?;
        Self::with(function.settings().clone())
    }

    /// In the environment of the others.
    fn hello(stack: &Stack, binary: PathBuf) -> Result<Self> {
        let mut settings = Self::of(stack, &keys())?.settings;
        settings.function.name = HELLO.to_owned();
        Self::with(Settings { binary, ..settings })
    }

    fn with(settings: Settings) -> Result<Self> {
        let binary = &settings.binary;
        let bytes = fs::metadata(binary).while_(format!("read {}", binary.display()))?.len();
        Ok(Self { settings, bytes, refused: Vec::new(), served: Vec::new() })
    }
}

/// Median and upper percentiles, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    p90: f64,
    pub(crate) p99: f64,
}

impl Summary {
    /// None of nothing.
    pub(crate) fn of(times: &mut [Duration]) -> Option<Self> {
        times.sort_unstable();
        let at =
            |percent| times.get(times.len() * percent / 100).map(|time: &Duration| time.as_secs_f64() * 1e3);
        Some(Self { median: at(50)?, p90: at(90)?, p99: at(99)? })
    }
}

/// What the table says of a function.
struct Row {
    name: String,
    megabytes: f64,
    refused: Option<Summary>,
    served: Option<Summary>,
}

impl Row {
    fn of(mut figures: Figures) -> Self {
        Self {
            name: figures.settings.function.name,
            megabytes: figures.bytes as f64 / 1e6,
            refused: Summary::of(&mut figures.refused),
            served: Summary::of(&mut figures.served),
        }
    }
}

/// A table in Markdown, its limits and the goals below it.
fn table(hello: &Row, rows: &[Row], rounds: u32) -> Result<String> {
    let base = hello.served.ok_or_else(|| Error::Failed("nothing was measured".into()))?.median;
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
        let met = refused.median <= times_hello * base && row.megabytes <= megabytes;
        let met = if met { "met" } else { "MISSED" };
        text += &format!("Goal for {name}, at most {times_hello} × hello and {megabytes} MB: {met}.\n");
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
    fn a_goal_counts_the_refusals_and_the_size() {
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

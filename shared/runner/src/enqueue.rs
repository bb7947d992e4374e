//! `enqueue`: from the harness's own `config.yaml` to a queued run.
//!
//! The request is signed with AWS credentials (SigV4): admin routes are guarded by IAM.

use std::path::{Path, PathBuf};
use std::process::Command;

use bakeoff_sigv4::{Credentials, sign};
use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName};
use http::{HeaderValue, Method, Uri};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::api::Client;
use crate::command_line::EnqueueOptions;
use crate::error::{Error, Result, While as _};
use crate::machine;
use crate::work::config::{self, read_yaml};
use crate::work::program::python_of;

const RUNS: &str = "/api/admin/runs";
const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Runs `bakeoff-runner enqueue`: prints the run's id, and where to look.
///
/// # Errors
/// When something is missing or the API refuses; the text says what to do.
pub fn enqueue(options: &EnqueueOptions) -> Result<()> {
    let text = read(&options.config)?;
    let config = read_yaml(&text).map_err(|why| failed(format!("{}: {why}", options.config.display())))?;
    let client = Client::new(&options.api).map_err(|why| failed(format!("--api: {why}")))?;
    let signer = Signer::from_environment(client.authority())?;
    let tasks = match &options.tasks {
        Some(file) => parse_tasks(&read(file)?)?,
        None => tasks_of_dry_run(options)?,
    };
    let body = request(options, &config, tasks)?.to_string();
    let headers = signer.sign(&client, body.as_bytes())?;
    let answer = client.post(RUNS, headers, Bytes::from(body))?;
    let enqueued: Enqueued = serde_json::from_slice(answer.body())
        .map_err(|error| failed(format!("the API's answer: {error}")))?;
    for row in &enqueued.rows {
        let quantizations = row.quantizations.join(", ");
        eprintln!("job {}: needs {} GB and {quantizations}", row.queue_id, row.required_vram_gb);
    }
    eprintln!("Look at it: GET {}?run_id={} (IAM)", client.url(RUNS), enqueued.run_id);
    println!("{}", enqueued.run_id);
    Ok(())
}

#[derive(Deserialize)]
struct Enqueued {
    run_id: String,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    queue_id: String,
    required_vram_gb: f64,
    quantizations: Vec<String>,
}

/// The body of `POST /api/admin/runs`.
fn request(options: &EnqueueOptions, config: &Value, tasks: Vec<Value>) -> Result<Value> {
    let models = models(options, config)?;
    let commit = commit_of(&options.harness)?;
    let prompts: Vec<Value> = ids(config, "prompts")?
        .iter()
        .map(|id| {
            json!({
                "id": id, "file_path": options.prompt_path.replace("{id}", id), "git_commit_hash": commit,
            })
        })
        .collect();
    let config: Map<String, Value> = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !config::MACHINE_STANZAS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let publisher = options.publisher.clone().or_else(machine::user_name);
    let mut request = json!({
        "publisher_id": publisher.ok_or_else(|| failed("who publishes the run? --publisher ID"))?,
        "models": models, "prompts": prompts, "tasks": tasks, "config": config,
    });
    let labels: Map<_, _> = options.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let optional = [
        ("run_id", json!(options.run_id)),
        ("priority", json!(options.priority)),
        ("max_attempts", json!(options.max_attempts)),
        ("labels", json!((!options.labels.is_empty()).then_some(labels))),
        ("split_by", json!(options.split_by_prompt.then_some("prompt"))),
    ];
    for (name, value) in optional.into_iter().filter(|(_, value)| !value.is_null()) {
        request[name] = value;
    }
    Ok(request)
}

/// Each model of the config with its descriptor: all of them, and no others.
fn models(options: &EnqueueOptions, config: &Value) -> Result<Vec<Value>> {
    let ids = ids(config, "models")?;
    if let Some((id, _)) = options.models.iter().find(|(id, _)| !ids.contains(id)) {
        return Err(failed(format!("the config has no model {id:?}; it has {}", ids.join(", "))));
    }
    let described = |id: &String| {
        let named = options.models.iter().find(|(named, _)| named == id);
        let (_, file) = named.ok_or_else(|| {
            failed(format!("the model {id:?} has no descriptor: --model {id}=DESCRIPTOR.json"))
        })?;
        let descriptor: Value = serde_json::from_str(&read(file)?)
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        Ok(json!({ "id": id, "descriptor": descriptor }))
    };
    ids.iter().map(described).collect()
}

fn ids(config: &Value, list: &str) -> Result<Vec<String>> {
    let items = config[list].as_array().filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| failed(format!("the config has no {list}")))?;
    let id = |item: &Value| item["id"].as_str().map(str::to_owned);
    items.iter().map(|item| id(item).ok_or_else(|| failed(format!("one of the {list} has no id")))).collect()
}

/// The commit that the checkout is at: what the prompts' text is.
fn commit_of(checkout: &Path) -> Result<String> {
    let output = Command::new("git").arg("-C").arg(checkout).args(["rev-parse", "HEAD"]).output();
    let output = output.while_(|| "run git".to_owned())?;
    if !output.status.success() {
        return Err(failed(format!("{} is not a git checkout: --harness DIR", checkout.display())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The tasks that the harness makes from this config: the same each time.
fn tasks_of_dry_run(options: &EnqueueOptions) -> Result<Vec<Value>> {
    let config = options.config.canonicalize().while_(|| format!("find {}", options.config.display()))?;
    let python = python_of(&options.harness, options.python.as_deref())?;
    let output = Command::new(&python)
        .current_dir(&options.harness)
        .args(["-m", "bench.runner", "--dry-run", "--config"])
        .arg(config)
        .output()
        .while_(|| format!("run {}", python.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(failed(format!("the harness's dry run failed ({}):\n{}", output.status, said.trim())));
    }
    let dataset = said.lines().find_map(|line| line.strip_prefix("[dataset]")?.split_once("-> "));
    let (_, path) = dataset.ok_or_else(|| failed("the harness's dry run named no dataset"))?;
    parse_tasks(&read(&options.harness.join(path.trim()))?)
}

/// JSON lines, each with an `id`.
fn parse_tasks(text: &str) -> Result<Vec<Value>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let tasks: std::result::Result<Vec<Value>, _> = lines.map(serde_json::from_str).collect();
    let tasks = tasks.map_err(|error| failed(format!("the tasks are not JSON lines: {error}")))?;
    match tasks.iter().all(|task| task["id"].is_string()) && !tasks.is_empty() {
        true => Ok(tasks),
        false => Err(failed("there are no tasks, or one of them has no id")),
    }
}

/// AWS credentials, from the variables that the AWS CLI reads too.
struct Signer {
    credentials: Credentials,
    session_token: Option<HeaderValue>,
}

impl Signer {
    fn from_environment(host: &HeaderValue) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let required = |name: &str| {
            variable(name).ok_or_else(|| failed(format!("set {name}: admin routes want AWS credentials")))
        };
        let region = variable("AWS_REGION")
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .or_else(|| region_of_host(host.to_str().ok()?))
            .ok_or_else(|| failed("set AWS_REGION: the API's address does not say it"))?;
        let session_token = variable("AWS_SESSION_TOKEN").map(HeaderValue::try_from).transpose();
        Ok(Self {
            credentials: Credentials {
                access_key: required("AWS_ACCESS_KEY_ID")?,
                secret_key: required("AWS_SECRET_ACCESS_KEY")?,
                region,
                service: "execute-api".into(),
            },
            session_token: session_token.map_err(|_| failed("AWS_SESSION_TOKEN is not a header value"))?,
        })
    }

    fn sign(&self, client: &Client, body: &[u8]) -> Result<HeaderMap> {
        let uri: Uri = client.url(RUNS).parse().map_err(|error| failed(format!("{error}")))?;
        let mut headers = HeaderMap::new();
        headers.insert(HOST, client.authority().clone());
        if let Some(token) = &self.session_token {
            headers.insert(SESSION_TOKEN, token.clone());
        }
        let now = OffsetDateTime::now_utc();
        let signed = sign(&Method::POST, &uri, &headers, body, &self.credentials, now);
        for (name, text) in signed.map_err(|error| failed(error.to_string()))? {
            let value = HeaderValue::try_from(text).map_err(|error| failed(error.to_string()))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(headers)
    }
}

/// `ID.execute-api.REGION.amazonaws.com`.
fn region_of_host(host: &str) -> Option<String> {
    let (_, rest) = host.split_once(".execute-api.")?;
    rest.split_once(".amazonaws.com").map(|(region, _)| region.to_owned())
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path).while_(|| format!("read {}", path.display()))
}

fn failed(text: impl Into<String>) -> Error {
    Error::Failed(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_stands_in_an_api_gateway_host() {
        assert_eq!(region_of_host("abc.execute-api.eu-west-1.amazonaws.com").as_deref(), Some("eu-west-1"));
        assert_eq!(region_of_host("queue.example.org"), None);
    }

    #[test]
    fn tasks_are_lines_with_ids() {
        assert_eq!(parse_tasks("{\"id\": \"a\"}\n\n{\"id\": \"b\", \"n\": 1.5}\n").unwrap().len(), 2);
        assert!(parse_tasks("").is_err());
        assert!(parse_tasks("{\"name\": \"a\"}").is_err());
        assert!(parse_tasks("[").is_err());
    }
}

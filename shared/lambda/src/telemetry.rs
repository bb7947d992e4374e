//! Logs, and CloudWatch metrics in the embedded metric format (EMF), both on standard output.

use lambda_http::tracing::level_filters::LevelFilter;
use lambda_http::tracing::subscriber::fmt;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The CloudWatch namespace, one per stack, so that a test stack does not trigger another stack's alarms. The
/// template names each function STACK-FUNCTION.
static NAMESPACE: LazyLock<String> = LazyLock::new(|| {
    let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    function.rsplit_once('-').map_or_else(|| "Bakeoff".to_owned(), |(stack, _)| format!("Bakeoff/{stack}"))
});

/// A value of a metric.
#[derive(Clone, Debug)]
pub struct Metric {
    name: &'static str,
    value: f64,
    unit: &'static str,
    dimension: Option<(&'static str, String)>,
}

impl Metric {
    /// Creates a count of 1.
    pub fn count(name: &'static str) -> Self {
        Self::gauge(name, 1.0, "Count")
    }

    /// Creates a value in a CloudWatch unit, such as `Seconds`.
    pub fn gauge(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, dimension: None }
    }

    /// Sets the metric's dimension.
    pub fn by(mut self, dimension: &'static str, value: impl Into<String>) -> Self {
        self.dimension = Some((dimension, value.into()));
        self
    }

    /// Returns the EMF line for the time `now_ms`, in milliseconds since the Unix epoch.
    fn line(&self, now_ms: u128) -> String {
        let dimensions: Vec<&str> = self.dimension.iter().map(|(name, _)| *name).collect();
        let mut line = Map::new();
        line.insert(
            "_aws".into(),
            json!({
                "Timestamp": u64::try_from(now_ms).unwrap_or_default(),
                "CloudWatchMetrics": [{
                    "Namespace": *NAMESPACE,
                    "Dimensions": [dimensions],
                    "Metrics": [{ "Name": self.name, "Unit": self.unit }],
                }],
            }),
        );
        line.insert(self.name.into(), json!(self.value));
        if let Some((name, value)) = &self.dimension {
            line.insert((*name).into(), json!(value));
        }
        Value::Object(line).to_string()
    }
}

/// Sets up logging to standard output: as JSON if `AWS_LAMBDA_LOG_FORMAT` is `JSON`, from the level in
/// `AWS_LAMBDA_LOG_LEVEL` (default `INFO`).
///
/// Replaces the runtime's own subscriber, whose per-module filters compile regular expressions at every cold
/// start.
pub(crate) fn log_to_stdout() {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let level = variable("AWS_LAMBDA_LOG_LEVEL").parse().unwrap_or(LevelFilter::INFO);
    let lines = fmt().with_target(false).without_time().with_max_level(level);
    if variable("AWS_LAMBDA_LOG_FORMAT").eq_ignore_ascii_case("json") {
        lines.json().init();
    } else {
        lines.init();
    }
}

/// Publishes metrics as lines on standard output, which Lambda forwards to CloudWatch.
pub fn publish(metrics: &[Metric]) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    for metric in metrics {
        println!("{}", metric.line(now_ms));
    }
}

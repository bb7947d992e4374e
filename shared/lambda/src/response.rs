//! The reply that a handler returns.

use crate::telemetry::Metric;
use lambda_http::http::StatusCode;
use lambda_http::{Body, Response};
use serde::Serialize;
use std::fmt::Write as _;

/// An HTTP reply, with the metrics to publish.
#[derive(Debug)]
pub struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: Body,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) metrics: Vec<Metric>,
    /// The authenticated caller, for the log.
    pub(crate) caller: Option<String>,
    /// The problem's code, for the log.
    pub(crate) code: Option<&'static str>,
}

impl Reply {
    /// Creates a JSON reply.
    pub fn json(status: u16, value: &impl Serialize) -> crate::Result {
        let body = serde_json::to_string(value)
            .map_err(|error| bakeoff_core::Error::Internal(format!("serializing a reply: {error}")))?;
        Ok(Self { body: Body::Text(body), ..Self::empty(status) })
    }

    /// Creates a reply with text of another type than JSON.
    pub fn text(status: u16, content_type: &'static str, text: impl Into<String>) -> Self {
        Self { content_type, body: Body::Text(text.into()), ..Self::empty(status) }
    }

    /// Creates a reply with uninterpreted bytes, which a browser saves and does not render.
    pub fn bytes(status: u16, bytes: Vec<u8>) -> Self {
        Self { content_type: "application/octet-stream", body: Body::Binary(bytes), ..Self::empty(status) }
            .header("x-content-type-options", "nosniff")
    }

    /// Creates a reply without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            content_type: "application/json",
            body: Body::Empty,
            headers: Vec::new(),
            metrics: Vec::new(),
            caller: None,
            code: None,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Adds a metric.
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metrics.push(metric);
        self
    }

    /// Sets the caller, for the log.
    pub fn caller(mut self, caller: &str) -> Self {
        self.caller = Some(caller.to_owned());
        self
    }

    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Returns the body, if it is text.
    pub fn body(&self) -> Option<&str> {
        match &self.body {
            Body::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Converts the reply to an HTTP response with the request's id.
    pub(crate) fn into_http(self, request_id: &str) -> Result<Response<Body>, lambda_http::Error> {
        let mut response = Response::builder().status(self.status).header("x-request-id", request_id);
        if !self.headers.iter().any(|(name, _)| *name == "cache-control") {
            response = response.header("cache-control", "no-store");
        }
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        if !matches!(self.body, Body::Empty) {
            response = response.header("content-type", self.content_type);
        }
        Ok(response.body(match self.body {
            Body::Text(json) if self.content_type.ends_with("json") => {
                Body::Text(escape_terminal_commands(json))
            }
            body => body,
        })?)
    }
}

/// Escapes the characters that a terminal obeys when a caller prints the response: JSON itself leaves DEL, the
/// C1 controls (a one-character CSI among them) and bidirectional formatting as they are. They occur inside
/// strings only, where `\u009b` is the same text.
fn escape_terminal_commands(json: String) -> String {
    let is_command = |character: char| matches!(character, '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !json.contains(is_command) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        if is_command(character) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

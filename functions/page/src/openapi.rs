//! The API's description (OpenAPI 3.1): the files in `openapi/`, and the bodies of `events/` as examples.
//!
//! The description is written by hand and held against the code by tests: every answer of every handler test must
//! fit it (`bakeoff_testkit::openapi`), every sample event must, and schemathesis sends what it allows.

use bakeoff_core::Error;
use bakeoff_core::json::merge;
use serde_json::{Value, json};

const PARTS: [&str; 8] = [
    include_str!("../openapi/api.json"),
    include_str!("../openapi/public.json"),
    include_str!("../openapi/runners.json"),
    include_str!("../openapi/admins.json"),
    include_str!("../openapi/requests.json"),
    include_str!("../openapi/runner_replies.json"),
    include_str!("../openapi/run_replies.json"),
    include_str!("../openapi/queue_replies.json"),
];
/// Sample events whose bodies are examples: each names its route.
const EXAMPLES: [&str; 9] = [
    include_str!("../../../events/register.json"),
    include_str!("../../../events/claim.json"),
    include_str!("../../../events/heartbeat.json"),
    include_str!("../../../events/release.json"),
    include_str!("../../../events/keys-add.json"),
    include_str!("../../../events/keys-revoke.json"),
    include_str!("../../../events/runs-enqueue.json"),
    include_str!("../../../events/runs-cancel.json"),
    include_str!("../../../events/runs-priority.json"),
];

/// Returns the description of the API at `url`.
pub(crate) fn document(url: &str) -> Result<String, Error> {
    let unreadable =
        |error: serde_json::Error| Error::Internal(format!("reading the API's description: {error}"));
    let mut document = json!({});
    for part in PARTS {
        merge(&mut document, serde_json::from_str(part).map_err(unreadable)?);
    }
    document["servers"] = json!([{ "url": url }]);
    for event in EXAMPLES {
        let event: Value = serde_json::from_str(event).map_err(unreadable)?;
        let (Some(route), Some(body)) = (event["routeKey"].as_str(), event["body"].as_str()) else {
            continue;
        };
        let Some((method, path)) = route.split_once(' ') else { continue };
        let operation = &mut document["paths"][path][method.to_ascii_lowercase()];
        operation["requestBody"]["content"]["application/json"]["example"] =
            serde_json::from_str(body).map_err(unreadable)?;
    }
    Ok(document.to_string())
}

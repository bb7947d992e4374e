//! The API's description held against what handlers answer: every answer that a test gets must be documented.

use bakeoff_core::json::merge;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::LazyLock;

/// The parts of the description, merged.
static DESCRIPTION: LazyLock<Value> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../functions/page/openapi");
    let mut description = json!({});
    for part in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let path = part.expect("a readable folder").path();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let part = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        merge(&mut description, part);
    }
    description
});

/// The API's description.
pub fn description() -> &'static Value {
    &DESCRIPTION
}

/// Checks an answer to a route against the description: the status, the content type, the problem's code, every
/// member.
///
/// # Panics
/// With what is not documented.
pub fn check_answer(route: &str, status: u16, content_type: Option<&str>, body: &Value) {
    let Some(operation) = operation(route) else { return };
    let response = resolve(&operation["responses"][status.to_string()]);
    assert!(!response.is_null(), "{route}: the status {status} is not documented: {body}");
    let Some(content_type) = content_type.and_then(|kind| kind.split(';').next()) else {
        assert!(
            response["content"].is_null(),
            "{route}: an answer of {status} has a body by the description"
        );
        return;
    };
    let content = &response["content"][content_type];
    assert!(!content.is_null(), "{route}: {content_type} is not documented for {status}");
    if !content_type.ends_with("json") {
        return;
    }
    let mut faults = String::new();
    check(&content["schema"], body, "", &mut faults);
    assert!(faults.is_empty(), "{route}: the answer is not as documented:{faults}\n{body:#}");
    if let Some(code) = body["code"].as_str().filter(|_| status >= 400) {
        let described = response["description"].as_str().unwrap_or_default();
        assert!(described.contains(&format!("`{code}`")), "{route}: {status} {code} is not documented");
    }
}

/// Checks a request's body against the description; returns what does not fit.
pub fn check_request(route: &str, body: &Value) -> String {
    let mut faults = String::new();
    let operation = operation(route).unwrap_or_else(|| panic!("{route} is not documented"));
    check(&operation["requestBody"]["content"]["application/json"]["schema"], body, "", &mut faults);
    faults
}

fn operation(route: &str) -> Option<&'static Value> {
    let (method, path) = route.split_once(' ')?;
    DESCRIPTION["paths"].get(path)?.get(method.to_ascii_lowercase())
}

fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => DESCRIPTION.pointer(pointer).unwrap_or_else(|| panic!("nothing is at {pointer}")),
        None => value,
    }
}

/// The keywords of JSON Schema that the description uses; any other is a fault of the description.
const KNOWN: [&str; 19] = [
    "type",
    "description",
    "format",
    "enum",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "oneOf",
    "allOf",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "minItems",
    "maxItems",
    "$ref",
    "example",
];

fn check(schema: &'static Value, value: &Value, at: &str, faults: &mut String) {
    let schema = resolve(schema);
    let keywords = schema.as_object().unwrap_or_else(|| panic!("{at}: a schema is an object, not {schema}"));
    for keyword in keywords.keys() {
        assert!(KNOWN.contains(&keyword.as_str()), "{at}: {keyword} is not checked here");
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check(part, value, at, faults);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let mut tried: Vec<String> = Vec::new();
        for choice in choices {
            let mut faults = String::new();
            check(choice, value, at, &mut faults);
            tried.push(faults);
        }
        match tried.iter().filter(|faults| faults.is_empty()).count() {
            1 => {}
            0 => tried.iter().for_each(|found| faults.push_str(found)),
            many => write!(faults, "\n{at}: fits {many} of `oneOf`").expect("a string"),
        }
    }
    if !fits_type(&schema["type"], value) {
        write!(faults, "\n{at}: is {value}, not of type {}", schema["type"]).expect("a string");
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        write!(faults, "\n{at}: {value} is not one of {allowed:?}").expect("a string");
    }
    if let Some(items) = value.as_array()
        && let Some(schema) = schema.get("items")
    {
        for (index, item) in items.iter().enumerate() {
            check(schema, item, &format!("{at}/{index}"), faults);
        }
    }
    if let Some(members) = value.as_object() {
        check_members(schema, members, at, faults);
    }
}

fn check_members(
    schema: &'static Value,
    members: &serde_json::Map<String, Value>,
    at: &str,
    faults: &mut String,
) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            write!(faults, "\n{at}/{name}: is missing").expect("a string");
        }
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, value) in members {
        match properties.get(name) {
            Some(schema) => check(schema, value, &format!("{at}/{name}"), faults),
            // A part of `allOf` says what it adds, not all there is.
            None if schema.get("description").is_none() => {}
            None => write!(faults, "\n{at}/{name}: is not documented").expect("a string"),
        }
    }
}

fn fits_type(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(|kind| fits_type(kind, value)),
        kind => match kind.as_str().unwrap_or_default() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("there is no type {other:?}"),
        },
    }
}

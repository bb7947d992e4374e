//! Publication bundles (`bakeoff-results/v1`): the folder of files that a manual submission consists of.
//!
//! A bundle holds `result.json`, a Sigstore signature over its exact bytes, a summary, optionally a
//! dashboard, and a manifest that lists them all. The manifest is unsigned, so it must add no information:
//! every hash in it must match, and everything it states about the run must equal the signed result.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};
use sigstore_verify::crypto::sha256;

use crate::{hex, json};

const RESULT: &str = "result.json";
const MANIFEST: &str = "manifest.json";
const SUMMARY: &str = "summary.md";
const DASHBOARD: &str = "dashboard.html";
const SIGNATURE: &str = "signature.sigstore.json";

/// The files that a bundle may contain. No other name is safe to store or to serve.
const FILE_NAMES: [&str; 5] = [RESULT, MANIFEST, SUMMARY, DASHBOARD, SIGNATURE];
const REQUIRED_FILES: [&str; 4] = [RESULT, MANIFEST, SUMMARY, SIGNATURE];

const SCHEMA_VERSION: &str = "bakeoff-results/v1";

/// Maximum bytes in a manifest. The harness writes about 1 kB.
const MAX_MANIFEST_BYTES: usize = 256 << 10;
/// Maximum nesting depth of a manifest. The harness uses three levels.
const MAX_MANIFEST_DEPTH: usize = 16;
/// Maximum characters of a quoted value, which is untrusted input.
const MAX_QUOTE_CHARS: usize = 80;

/// An error in one file or manifest member of a publication bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into `{"files": {name: …}}`; manifest members follow the manifest's name.
    pub pointer: String,
    /// Description of the error, for the caller.
    pub detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.detail)
    }
}

/// A publication bundle whose files match its manifest. The signature is not verified yet.
#[derive(Debug)]
pub struct PublicationBundle {
    files: BTreeMap<String, Vec<u8>>,
    manifest: Map<String, Value>,
}

impl PublicationBundle {
    /// Checks the files of a bundle, keyed by name.
    ///
    /// # Errors
    /// All field errors at once: unknown or missing files, a manifest of another schema, hashes that differ.
    pub fn parse(files: BTreeMap<String, Vec<u8>>) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        for name in files.keys().filter(|name| !FILE_NAMES.contains(&name.as_str())) {
            errors.add(
                &[name],
                format_args!("unknown file; a publication bundle has {}", FILE_NAMES.join(", ")),
            );
        }
        for name in REQUIRED_FILES.into_iter().filter(|name| !files.contains_key(*name)) {
            errors.add(&[name], "the file is missing; add it");
        }
        let manifest = match files.get(MANIFEST).map(|bytes| parse_manifest(bytes)) {
            Some(Ok(manifest)) => manifest,
            Some(Err(detail)) => {
                errors.add(&[MANIFEST], detail);
                return Err(errors.0);
            }
            None => return Err(errors.0),
        };
        if manifest.get("schema_version").is_none_or(|version| version != SCHEMA_VERSION) {
            errors.add(&[MANIFEST, "schema_version"], format_args!("must be {SCHEMA_VERSION:?}"));
        }
        check_listing(&manifest, &files, &mut errors);
        check_signature_block(&manifest, &mut errors);
        if errors.0.is_empty() { Ok(Self { files, manifest }) } else { Err(errors.0) }
    }

    /// Returns the bytes of `result.json`, which the signature covers.
    pub fn result(&self) -> &[u8] {
        self.file(RESULT)
    }

    /// Returns the Sigstore bundle with the signature over [`Self::result`].
    pub fn signature(&self) -> &[u8] {
        self.file(SIGNATURE)
    }

    /// Returns every file with its name, including the manifest.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    fn file(&self, name: &str) -> &[u8] {
        self.files.get(name).map_or(&[], Vec::as_slice)
    }

    /// Compares the manifest with the signed result and returns every difference.
    ///
    /// Compares `run_id`, `timestamp`, `config_hash`, `model_ids`, `run_status` and `model_scores_summary`.
    /// A value that only the manifest states is a difference too, because it is unsigned. The one exception:
    /// a `run_status` missing from the result is derived from its `model_scores`.
    pub fn differences(&self, result: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::default();
        self.compare("run_id", &result["run_id"], &mut errors);
        self.compare("timestamp", &result["timestamp"], &mut errors);
        self.compare("config_hash", &result["provenance"]["config_hash"], &mut errors);
        self.compare("run_status", &run_status(result), &mut errors);
        self.compare_model_ids(result, &mut errors);
        self.compare_scores(result, &mut errors);
        errors.0
    }

    fn manifest_value(&self, member: &str) -> &Value {
        self.manifest.get(member).unwrap_or(&Value::Null)
    }

    fn compare(&self, member: &str, signed: &Value, errors: &mut FieldErrors) {
        compare(&[MANIFEST, member], self.manifest_value(member), signed, errors);
    }

    /// Compares `model_ids` with the ids of `config.models`, in any order.
    fn compare_model_ids(&self, result: &Value, errors: &mut FieldErrors) {
        let signed: Vec<Value> = result["config"]["models"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|model| model["id"].clone())
            .collect();
        let in_order = |ids: &[Value]| {
            let mut ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            ids.sort_unstable();
            ids
        };
        let stated = self.manifest_value("model_ids");
        if stated.as_array().is_none_or(|stated| in_order(stated) != in_order(&signed)) {
            errors.add_difference(&[MANIFEST, "model_ids"], stated, &Value::Array(signed));
        }
    }

    /// Compares each summary with the `model_scores` entry of the same model, whose members it repeats.
    fn compare_scores(&self, result: &Value, errors: &mut FieldErrors) {
        let member = "model_scores_summary";
        let stated = self.manifest_value(member);
        let signed = result["model_scores"].as_array().map_or(&[][..], Vec::as_slice);
        let summaries = match stated {
            Value::Null => &[][..],
            Value::Array(summaries) => summaries.as_slice(),
            _ => return errors.add(&[MANIFEST, member], "must be a list"),
        };
        if summaries.len() != signed.len() {
            let detail = format!("has {} models; the signed result has {}", summaries.len(), signed.len());
            errors.add(&[MANIFEST, member], detail);
        }
        let mut compared = Vec::new();
        for (index, summary) in summaries.iter().enumerate() {
            let index = index.to_string();
            let scores = signed.iter().find(|scores| scores["model_id"] == summary["model_id"]);
            let (Some(scores), Some(summary)) = (scores, summary.as_object()) else {
                errors.add(&[MANIFEST, member, &index], "the signed result has no scores for this model");
                continue;
            };
            if compared.contains(&&scores["model_id"]) {
                errors.add(&[MANIFEST, member, &index], "a second summary of this model; remove it");
            }
            compared.push(&scores["model_id"]);
            for (key, stated) in summary {
                compare(&[MANIFEST, member, &index, key], stated, &scores[key], errors);
            }
        }
    }
}

fn parse_manifest(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(format!("the manifest has {} bytes; the limit is {MAX_MANIFEST_BYTES}", bytes.len()));
    }
    match json::parse(bytes, MAX_MANIFEST_DEPTH) {
        Ok(Value::Object(manifest)) => Ok(manifest),
        Ok(_) => Err("must be a JSON object".to_owned()),
        Err(error) => Err(format!("is not valid JSON: {error}")),
    }
}

/// Checks that each listed file is present with its hash, and that each file except the manifest is listed.
fn check_listing(manifest: &Map<String, Value>, files: &BTreeMap<String, Vec<u8>>, errors: &mut FieldErrors) {
    let Some(listing) = manifest.get("files").and_then(parse_listing) else {
        let detail = "must be {name: {\"sha256\": hex}}, {name: hex} or [{\"path\": name, \"sha256\": hex}]";
        return errors.add(&[MANIFEST, "files"], detail);
    };
    let mut listed = Vec::new();
    for (position, name, hash) in listing {
        let pointer = [MANIFEST, "files", &position];
        if listed.contains(&name) {
            errors.add(&pointer, "the file is listed twice");
            continue;
        }
        listed.push(name);
        let claimed = hash.and_then(hex::decode).filter(|digest| digest.len() == 32);
        match (files.get(name).filter(|_| name != MANIFEST), claimed) {
            _ if !FILE_NAMES.contains(&name) || name == MANIFEST => {
                errors.add(&pointer, "a manifest must not list this file");
            }
            (None, _) => errors.add(&pointer, "the file is missing"),
            (_, None) => errors.add(&pointer, "must be a SHA-256 of 64 hexadecimal digits"),
            (Some(bytes), Some(claimed)) if *sha256(bytes).as_bytes() != *claimed => {
                errors.add(&pointer, "is not the file's SHA-256; send the file that was hashed");
            }
            _ => {}
        }
    }
    for name in files.keys().filter(|name| *name != MANIFEST && !listed.contains(&name.as_str())) {
        errors.add(&[name], "the manifest does not list this file");
    }
}

/// A listed file: its key or index in `manifest.files`, its name, and its hash if that is a string.
type ListedFile<'a> = (String, &'a str, Option<&'a str>);

/// Parses the listing in any of its three forms.
fn parse_listing(files: &Value) -> Option<Vec<ListedFile<'_>>> {
    match files {
        Value::Object(entries) => Some(
            entries
                .iter()
                .map(|(name, entry)| {
                    let hash = entry.as_str().or_else(|| entry["sha256"].as_str());
                    (name.clone(), name.as_str(), hash)
                })
                .collect(),
        ),
        Value::Array(entries) => entries
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                Some((index.to_string(), entry["path"].as_str()?, entry["sha256"].as_str()))
            })
            .collect(),
        _ => None,
    }
}

fn check_signature_block(manifest: &Map<String, Value>, errors: &mut FieldErrors) {
    let block = manifest.get("signature").unwrap_or(&Value::Null);
    for (member, expected) in [("kind", "sigstore-bundle"), ("path", SIGNATURE), ("signed_file", RESULT)] {
        if block[member] != expected {
            errors.add(&[MANIFEST, "signature", member], format_args!("must be {expected:?}"));
        }
    }
    if !block["required"].is_boolean() {
        errors.add(&[MANIFEST, "signature", "required"], "must be true or false");
    }
}

/// Returns the signed `run_status`, or the worst status of the result's models if it has none.
fn run_status(result: &Value) -> Value {
    if !result["run_status"].is_null() {
        return result["run_status"].clone();
    }
    let worst_first = ["failed", "incomplete", "complete"];
    let models = result["model_scores"].as_array().map_or(&[][..], Vec::as_slice);
    let worst =
        worst_first.into_iter().find(|status| models.iter().any(|scores| scores["status"] == *status));
    worst.map_or(Value::Null, Value::from)
}

fn compare(path: &[&str], stated: &Value, signed: &Value, errors: &mut FieldErrors) {
    let agree = match (stated, signed) {
        // 1 and 1.0 are equal.
        (Value::Number(stated), Value::Number(signed)) => {
            stated == signed || stated.as_f64() == signed.as_f64()
        }
        _ => stated == signed,
    };
    if !agree {
        errors.add_difference(path, stated, signed);
    }
}

#[derive(Default)]
struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    fn add(&mut self, path: &[&str], detail: impl fmt::Display) {
        let mut pointer = "/files".to_owned();
        for token in path {
            pointer.push('/');
            pointer.extend(token.replace('~', "~0").replace('/', "~1").chars().take(MAX_QUOTE_CHARS));
        }
        self.0.push(FieldError { pointer, detail: detail.to_string() });
    }

    fn add_difference(&mut self, path: &[&str], stated: &Value, signed: &Value) {
        let quote = |value: &Value| value.to_string().chars().take(MAX_QUOTE_CHARS).collect::<String>();
        self.add(path, format_args!("is {}, but the signed result has {}", quote(stated), quote(signed)));
    }
}

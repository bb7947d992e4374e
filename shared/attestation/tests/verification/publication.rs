use std::collections::BTreeMap;
use std::fs;

use bakeoff_attestation::publication::PublicationBundle;
use bakeoff_attestation::{Bundle, Material};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::case::{Case, Signed, fixtures};

type Files = BTreeMap<String, Vec<u8>>;

const NAMES: [&str; 2] = ["bundle-one-prompt", "bundle-two-prompts"];

fn files(name: &str) -> Files {
    let known = ["result.json", "manifest.json", "summary.md", "dashboard.html", "signature.sigstore.json"];
    let read = |file: &str| (file.to_owned(), fs::read(fixtures().join(name).join(file)).unwrap());
    known.map(read).into()
}

fn manifest(files: &Files) -> Value {
    serde_json::from_slice(&files["manifest.json"]).unwrap()
}

fn with_manifest(mut files: Files, manifest: &Value) -> Files {
    files.insert("manifest.json".to_owned(), manifest.to_string().into_bytes());
    files
}

fn result(bundle: &PublicationBundle) -> Value {
    serde_json::from_slice(bundle.result()).unwrap()
}

fn pointers(files: Files) -> Vec<String> {
    let errors = PublicationBundle::parse(files).unwrap_err();
    errors.into_iter().map(|field_error| field_error.pointer).collect()
}

#[test]
fn the_harness_bundles_are_accepted_and_their_signatures_verify() {
    for (name, material) in NAMES.into_iter().zip([Material::Certificate, Material::PublicKey]) {
        let bundle = PublicationBundle::parse(files(name)).unwrap();
        assert_eq!(bundle.differences(&result(&bundle)), []);
        assert_eq!(bundle.files().count(), 5);
        assert_eq!(Bundle::parse(bundle.signature()).unwrap().material(), material);
        let case = Case::read(&fixtures().join(name));
        let verified =
            case.verify_other(bundle.signature(), &Signed::Bytes(bundle.result().to_vec())).unwrap();
        assert_eq!(verified.digest(), <[u8; 32]>::from(Sha256::digest(bundle.result())));
    }
}

#[test]
fn all_three_forms_of_the_file_listing_are_accepted() {
    let files = files(NAMES[0]);
    let listed = manifest(&files)["files"].as_object().unwrap().clone();
    let texts: Value = listed.iter().map(|(name, entry)| (name.clone(), entry["sha256"].clone())).collect();
    let list: Value =
        listed.iter().map(|(name, entry)| json!({"path": name, "sha256": entry["sha256"]})).collect();
    for listing in [texts, list] {
        let mut manifest = manifest(&files);
        manifest["files"] = listing;
        assert!(PublicationBundle::parse(with_manifest(files.clone(), &manifest)).is_ok());
        for (pointer, hash) in [("/files/result.json", "/files/result.json"), ("/files/0/sha256", "/files/0")]
        {
            let mut wrong = manifest.clone();
            if let Some(value) = wrong.pointer_mut(pointer) {
                *value = "00".repeat(32).into();
                let expected = format!("/files/manifest.json{hash}");
                assert_eq!(pointers(with_manifest(files.clone(), &wrong)), [expected]);
            }
        }
    }
}

#[test]
fn a_bundle_without_a_dashboard_is_accepted() {
    let mut files = files(NAMES[0]);
    files.remove("dashboard.html");
    let mut manifest = manifest(&files);
    assert_eq!(pointers(files.clone()), ["/files/manifest.json/files/dashboard.html"]);
    manifest["files"].as_object_mut().unwrap().remove("dashboard.html");
    assert!(PublicationBundle::parse(with_manifest(files, &manifest)).is_ok());
}

#[test]
fn a_change_to_any_file_is_refused() {
    for name in NAMES {
        for file in files(name).keys().filter(|file| *file != "manifest.json") {
            let mut changed = files(name);
            changed.get_mut(file).unwrap().push(b'\n');
            assert_eq!(pointers(changed), [format!("/files/manifest.json/files/{file}")]);
        }
    }
}

#[test]
fn all_field_errors_are_reported_at_once() {
    let mut files = files(NAMES[0]);
    let mut manifest = manifest(&files);
    files.insert("../../etc/passwd".to_owned(), Vec::new());
    files.insert("a~b/c".to_owned(), Vec::new());
    files.remove("summary.md");
    manifest["schema_version"] = "bakeoff-results/v2".into();
    manifest["files"]["/tmp/a"] = "00".into();
    manifest["files"]["manifest.json"] = "00".into();
    manifest["files"]["result.json"]["sha256"] = "zz".into();
    manifest["signature"] = json!({"kind": "gpg", "path": "signature.sigstore.json", "required": "yes"});
    let mut found = pointers(with_manifest(files, &manifest));
    found.sort();
    assert_eq!(
        found,
        [
            "/files/..~1..~1etc~1passwd",
            "/files/..~1..~1etc~1passwd",
            "/files/a~0b~1c",
            "/files/a~0b~1c",
            "/files/manifest.json/files/manifest.json",
            "/files/manifest.json/files/result.json",
            "/files/manifest.json/files/summary.md",
            "/files/manifest.json/files/~1tmp~1a",
            "/files/manifest.json/schema_version",
            "/files/manifest.json/signature/kind",
            "/files/manifest.json/signature/required",
            "/files/manifest.json/signature/signed_file",
            "/files/summary.md",
        ]
    );
}

#[test]
fn malformed_manifests_are_refused() {
    let valid = files(NAMES[0]);
    let twice = String::from_utf8(valid["manifest.json"].clone()).unwrap();
    let twice = twice.replacen('{', "{\"run_id\": \"other\",", 1);
    for text in [twice.as_bytes(), b"[]", b"", b"{\"a\": NaN}"] {
        let mut files = valid.clone();
        files.insert("manifest.json".to_owned(), text.to_vec());
        assert_eq!(pointers(files), ["/files/manifest.json"]);
    }
    assert_eq!(pointers(with_manifest(valid.clone(), &json!({}))).len(), 6);
    let mut unlisted = manifest(&valid);
    unlisted["files"] = json!([]);
    assert_eq!(pointers(with_manifest(valid, &unlisted)).len(), 4);
}

#[test]
fn each_difference_from_the_signed_result_is_reported() {
    for (member, value, pointer) in [
        ("run_id", json!("other"), "/run_id"),
        ("timestamp", json!("20260101-000000"), "/timestamp"),
        ("config_hash", json!("0"), "/config_hash"),
        ("run_status", json!("failed"), "/run_status"),
        ("run_status", json!(null), "/run_status"),
        ("model_ids", json!(["other"]), "/model_ids"),
        ("model_ids", json!(["qwen3_4b_q8", "qwen3_4b_q8"]), "/model_ids"),
        ("model_ids", json!(null), "/model_ids"),
        ("model_scores_summary", json!([]), "/model_scores_summary"),
        ("model_scores_summary", json!("none"), "/model_scores_summary"),
        ("model_scores_summary", json!([{"model_id": "other"}]), "/model_scores_summary/0"),
        (
            "model_scores_summary",
            json!([{"model_id": "qwen3_4b_q8", "partial_score": 0.7}]),
            "/model_scores_summary/0/partial_score",
        ),
        (
            "model_scores_summary",
            json!([{"model_id": "qwen3_4b_q8", "quality": 1}]),
            "/model_scores_summary/0/quality",
        ),
    ] {
        let files = files(NAMES[0]);
        let mut manifest = manifest(&files);
        manifest[member] = value;
        let bundle = PublicationBundle::parse(with_manifest(files, &manifest)).unwrap();
        let found = bundle.differences(&result(&bundle));
        let found: Vec<_> = found.iter().map(|field_error| field_error.pointer.as_str()).collect();
        assert_eq!(found, [format!("/files/manifest.json{pointer}")]);
    }
}

#[test]
fn a_result_without_run_status_has_the_status_of_its_worst_model() {
    let bundle = PublicationBundle::parse(files(NAMES[0])).unwrap();
    let mut result = result(&bundle);
    result.as_object_mut().unwrap().remove("run_status");
    assert_eq!(bundle.differences(&result), []);
    result["model_scores"][0]["status"] = "incomplete".into();
    let found: Vec<_> =
        bundle.differences(&result).into_iter().map(|field_error| field_error.pointer).collect();
    let expected = ["/files/manifest.json/run_status", "/files/manifest.json/model_scores_summary/0/status"];
    assert_eq!(found, expected);
}

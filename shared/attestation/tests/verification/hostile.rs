//! Malformed and oversized bundles, keys and roots, which are refused before any cryptography.

use bakeoff_attestation::{Bundle, Check, PublicKey, TrustedRoot, limits};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::case::Case;

fn bundle(name: &str) -> Value {
    let case = Case::all().into_iter().find(|case| case.name == name).unwrap();
    serde_json::from_slice(&case.bundle).unwrap()
}

fn check(bundle: &Value) -> Check {
    Bundle::parse(bundle.to_string().as_bytes()).unwrap_err().check()
}

/// Returns the bundle with the first item of the list at `pointer` repeated `count` times.
fn repeat_first_item(name: &str, pointer: &str, count: usize) -> Value {
    let mut bundle = bundle(name);
    let items = bundle.pointer_mut(pointer).and_then(Value::as_array_mut).unwrap();
    *items = vec![items.first().cloned().unwrap_or_else(|| json!("AAAA")); count];
    bundle
}

#[test]
fn counts_over_the_limit_are_refused() {
    let material = "/verificationMaterial";
    for (name, pointer, bound) in [
        (
            "keyless-msg-rekor1",
            format!("{material}/x509CertificateChain/certificates"),
            limits::MAX_CERTIFICATES,
        ),
        ("keyless-msg-rekor1", format!("{material}/tlogEntries"), limits::MAX_LOG_ENTRIES),
        (
            "py-keyless-msg-rekor1",
            format!("{material}/tlogEntries/0/inclusionProof/hashes"),
            limits::MAX_PROOF_HASHES,
        ),
        (
            "keyless-msg-rekor2-tsa",
            format!("{material}/timestampVerificationData/rfc3161Timestamps"),
            limits::MAX_TIMESTAMPS,
        ),
        ("key-ed25519-dsse-norekor", "/dsseEnvelope/signatures".to_owned(), limits::MAX_SIGNATURES),
    ] {
        assert_eq!(check(&repeat_first_item(name, &pointer, bound + 1)), Check::Limit, "{pointer}");
        // Within the limit, the repetition is refused.
        if bound > 1 && !pointer.ends_with("hashes") {
            assert_eq!(check(&repeat_first_item(name, &pointer, bound)), Check::Format, "{pointer}");
        }
    }
}

#[test]
fn sizes_and_depths_over_the_limit_are_refused() {
    let long = vec![b' '; limits::MAX_BUNDLE_BYTES + 1];
    assert_eq!(Bundle::parse(&long).unwrap_err().check(), Check::Limit);
    assert_eq!(
        TrustedRoot::parse(&vec![b' '; limits::MAX_TRUSTED_ROOT_BYTES + 1]).unwrap_err().check(),
        Check::Limit
    );
    for depth in [limits::MAX_DEPTH + 1, 100_000] {
        let nested = "[".repeat(depth);
        assert_eq!(Bundle::parse(nested.as_bytes()).unwrap_err().check(), Check::Format);
    }
    let statement = |subjects: usize, depth: usize| {
        let subject = json!({"name": "a", "digest": {"sha256": "00".repeat(32)}});
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1", "predicateType": "a",
            "subject": vec![subject; subjects],
        });
        let predicate = format!(",\"predicate\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let statement = statement.to_string().replace(",\"predicateType\":\"a\"", "");
        let statement = format!("{}{predicate}", statement.strip_suffix('}').unwrap());
        let mut bundle = bundle("key-ed25519-dsse-norekor");
        bundle["dsseEnvelope"]["payload"] = STANDARD.encode(statement).into();
        bundle
    };
    assert!(Bundle::parse(statement(limits::MAX_SUBJECTS, 1).to_string().as_bytes()).is_ok());
    assert_eq!(check(&statement(limits::MAX_SUBJECTS + 1, 1)), Check::Limit);
    assert!(Bundle::parse(statement(1, limits::MAX_STATEMENT_DEPTH - 1).to_string().as_bytes()).is_ok());
    assert_eq!(check(&statement(1, limits::MAX_STATEMENT_DEPTH)), Check::Format);
}

#[test]
fn two_alternatives_at_once_are_refused() {
    let mut two_contents = bundle("keyless-msg-rekor1");
    two_contents["dsseEnvelope"] = bundle("key-ed25519-dsse-norekor")["dsseEnvelope"].clone();
    let mut two_materials = bundle("keyless-msg-rekor1");
    two_materials["verificationMaterial"]["publicKey"] = json!({"hint": ""});
    let mut unknown = bundle("keyless-msg-rekor1");
    unknown["verificationMaterial"]["tlogEntries"][0]["note"] = "".into();
    for bundle in [two_contents, two_materials, unknown, json!([]), json!("bundle")] {
        assert_eq!(check(&bundle), Check::Format);
    }
}

#[test]
fn duplicate_members_are_refused() {
    let text = bundle("key-ed25519-msg-norekor").to_string();
    assert!(Bundle::parse(text.as_bytes()).is_ok());
    let twice = text.replacen("\"mediaType\"", "\"mediaType\":\"\",\"mediaType\"", 1);
    assert_eq!(Bundle::parse(twice.as_bytes()).unwrap_err().check(), Check::Format);
}

#[test]
fn statements_without_a_usable_subject_are_refused() {
    let with = |statement: Value| {
        let mut bundle = bundle("key-ed25519-dsse-norekor");
        bundle["dsseEnvelope"]["payload"] = STANDARD.encode(statement.to_string()).into();
        bundle
    };
    let subject = json!([{"digest": {"sha256": "00".repeat(32)}}]);
    let known = "https://in-toto.io/Statement/v1";
    for statement in [
        json!({"subject": subject}),
        json!({"_type": "https://in-toto.io/Statement/v2", "subject": subject}),
        json!({"_type": known}),
        json!({"_type": known, "subject": []}),
        json!({"_type": known, "subject": [{"name": "a"}]}),
        json!({"_type": known, "subject": [{"digest": {"sha256": "00"}}]}),
        json!([]),
    ] {
        assert_eq!(check(&with(statement)), Check::Format);
    }
    let mut other_type = bundle("key-ed25519-dsse-norekor");
    other_type["dsseEnvelope"]["payloadType"] = "text/plain".into();
    assert_eq!(check(&other_type), Check::Format);
}

#[test]
fn an_error_is_one_short_line_without_control_characters() {
    let mut unknown = bundle("keyless-msg-rekor1");
    unknown[format!("a\n\u{1b}[31m{}", "b".repeat(10_000))] = "".into();
    let refused = Bundle::parse(unknown.to_string().as_bytes()).unwrap_err();
    assert!(refused.detail().chars().count() <= 300);
    assert!(!refused.to_string().chars().any(char::is_control));
}

#[test]
fn keys_of_unsupported_types_are_refused() {
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    // A P-384 key; the point may be all zeros, because the key type is checked first.
    let algorithm = b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
    let p384 = [b"\x30\x76", &algorithm[..], b"\x03\x62\x00\x04", &[0; 96]].concat();
    let p384 = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(p384));
    for pem in ["", "key", certificate, &p384] {
        assert_eq!(PublicKey::from_pem(pem).unwrap_err().check(), Check::Key, "{pem}");
    }
}

#[test]
fn malformed_roots_are_refused() {
    for root in [
        json!({}),
        json!({"mediaType": "a", "tlogs": [{}]}),
        json!({"mediaType": "a", "tlogs": [{
            "baseUrl": "a", "hashAlgorithm": "SHA2_256", "logId": {"keyId": "AAAA"},
            "publicKey": {"rawBytes": "AAAA", "keyDetails": "a"},
        }]}),
    ] {
        assert_eq!(TrustedRoot::parse(root.to_string().as_bytes()).unwrap_err().check(), Check::TrustedRoot);
    }
}

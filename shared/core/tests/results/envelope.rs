//! The harness's envelope: what verifies, and what is refused with which check.

use bakeoff_core::results::envelope::{Envelope, SignatureInvalid};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;

const COMPLETE: &str = include_str!("../fixtures/signed-complete.json");
const INCOMPLETE: &str = include_str!("../fixtures/signed-incomplete.json");

fn runner_key() -> VerifyingKey {
    let raw = STANDARD.decode(include_str!("../fixtures/runner_key.pub").trim()).unwrap();
    VerifyingKey::from_bytes(&raw.try_into().unwrap()).unwrap()
}

fn verify(text: &str) -> Result<String, SignatureInvalid> {
    let envelope = Envelope::parse(text).expect("the shape is right");
    envelope.verify(&runner_key()).map(|verified| verified.result().as_str().to_owned())
}

/// The same envelope with another text in `sig`. By text, because reading floats into
/// `serde_json::Value` and writing them again does not keep them.
fn with_sig(text: &str, name: &str, value: &str) -> String {
    text.replacen(&sig(text, name), value, 1)
}

fn sig(text: &str, name: &str) -> String {
    let envelope: serde_json::Value = serde_json::from_str(text).unwrap();
    envelope["sig"][name].as_str().unwrap().to_owned()
}

fn pointers(text: &str) -> Vec<String> {
    Envelope::parse(text)
        .expect_err("must be refused")
        .into_iter()
        .map(|field_error| field_error.pointer)
        .collect()
}

#[test]
fn real_envelopes_verify_unchanged_and_however_they_are_laid_out() {
    for text in [COMPLETE, INCOMPLETE] {
        let result = verify(text).unwrap();
        assert!(text.contains(&result));

        // A line break inside a string is escaped, so every one here is layout.
        verify(&text.lines().map(str::trim_start).collect::<String>()).unwrap();
    }
    let verified = Envelope::parse(COMPLETE).unwrap().verify(&runner_key()).unwrap();
    let hex: String = verified.sha256().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(COMPLETE.contains(&hex));
}

#[test]
fn one_changed_byte_is_found_by_the_digest() {
    for (original, changed) in [("\"seed\": 42", "\"seed\": 43"), ("450.0", "450.5"), ("Intel", "intel")] {
        let text = COMPLETE.replacen(original, changed, 1);
        assert_ne!(text, COMPLETE);
        assert_eq!(verify(&text), Err(SignatureInvalid::Sha256));
    }
}

#[test]
fn a_changed_digest_or_signature_or_another_key_is_refused() {
    let another_digest = with_sig(COMPLETE, "sha256", &sig(INCOMPLETE, "sha256"));
    assert_eq!(verify(&another_digest), Err(SignatureInvalid::Sha256));

    let another_signature = with_sig(COMPLETE, "signature", &sig(INCOMPLETE, "signature"));
    assert_eq!(verify(&another_signature), Err(SignatureInvalid::Signature));

    let stranger = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
    let refusal = Envelope::parse(COMPLETE).unwrap().verify(&stranger).unwrap_err();
    assert_eq!(refusal, SignatureInvalid::Signature);
}

/// A key of small order, under which this signature holds for every message unless checked strictly.
#[test]
fn a_signature_that_holds_for_everything_is_refused() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let weak = VerifyingKey::from_bytes(&identity).unwrap();
    let mut signature = [0; 64];
    signature[0] = 1;
    let text = with_sig(COMPLETE, "signature", &STANDARD.encode(signature));
    assert_eq!(Envelope::parse(&text).unwrap().verify(&weak).unwrap_err(), SignatureInvalid::Signature);
}

#[test]
fn who_and_when_are_outside_the_signature() {
    let text = with_sig(COMPLETE, "signed_at", "1970-01-01T00:00:00Z");
    let runner_id = sig(&text, "runner_id");
    let (result, sig) = text.rsplit_once(&runner_id).unwrap();
    verify(&format!("{result}somebody-else{sig}")).unwrap();
}

#[test]
fn a_result_that_parsers_read_differently_has_no_canonical_form() {
    for (original, changed) in [
        ("\"run_id\":", "\"run_id\": \"x\", \"run_id\":"),
        ("\"run_id\":", "\"x\": [{\"a\": 1, \"\\u0061\": 1}], \"run_id\":"),
        ("\"run_id\":", "\"x\": \"\\ud800\", \"run_id\":"),
        ("\"run_id\":", "\"x\": 1e999, \"run_id\":"),
    ] {
        let text = COMPLETE.replacen(original, changed, 1);
        assert!(matches!(verify(&text), Err(SignatureInvalid::CanonicalForm(_))), "{changed}");
    }
    let deep = format!("\"x\": {}{}, \"run_id\":", "[".repeat(200), "]".repeat(200));
    let text = COMPLETE.replacen("\"run_id\":", &deep, 1);
    assert!(matches!(verify(&text), Err(SignatureInvalid::CanonicalForm(_))));
}

#[test]
fn every_field_error_of_shape_is_told() {
    let hex = "0".repeat(64);
    assert_eq!(pointers("[]"), [""]);
    assert_eq!(pointers("{"), [""]);
    assert_eq!(pointers("{} {}"), [""]);
    assert_eq!(pointers("{}"), ["/result", "/sig"]);
    assert_eq!(pointers(r#"{"result": [], "sig": 1, "a/b": 2}"#), ["/a~1b", "/result", "/sig"]);
    assert_eq!(
        pointers(r#"{"result": {}, "sig": {"sha256": "AB", "signature": "AAAA", "runner_id": 1}}"#),
        ["/sig/signed_at", "/sig/runner_id", "/sig/sha256", "/sig/signature"]
    );
    assert_eq!(
        pointers(&format!(r#"{{"result": {{}}, "sig": {{"sha256": "{hex}"}}, "resu\u006ct": {{}}}}"#)),
        ["/result", "/sig/signature", "/sig/runner_id", "/sig/signed_at"]
    );
    let upper_case = COMPLETE.replacen("\"sha256\": \"", "\"sha256\": \"A", 1);
    assert_eq!(pointers(&upper_case), ["/sig/sha256"]);
    let twice = COMPLETE.replacen("\"sha256\":", "\"sha256\": \"\", \"sha256\":", 1);
    assert!(pointers(&twice).contains(&"/sig/sha256".to_owned()));
}

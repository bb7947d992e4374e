//! Tests of the harness's envelope: which envelopes verify, and which step refuses the others.

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
    let envelope = Envelope::parse(text).expect("the envelope matches its schema");
    envelope.verify(&runner_key()).map(|verified| verified.result().as_str().to_owned())
}

/// Replaces a member of `sig` in the text. Parsing into `serde_json::Value` and serializing it again would change
/// the spelling of floats.
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
fn envelopes_of_the_harness_verify_with_any_white_space() {
    for text in [COMPLETE, INCOMPLETE] {
        let result = verify(text).unwrap();
        assert!(text.contains(&result));

        // Line breaks inside strings are escaped, so this removes white space between tokens only.
        verify(&text.lines().map(str::trim_start).collect::<String>()).unwrap();
    }
    let verified = Envelope::parse(COMPLETE).unwrap().verify(&runner_key()).unwrap();
    let hex: String = verified.sha256().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(COMPLETE.contains(&hex));
}

#[test]
fn a_changed_byte_in_the_result_fails_the_digest() {
    for (original, changed) in [("\"seed\": 42", "\"seed\": 43"), ("450.0", "450.5"), ("Intel", "intel")] {
        let text = COMPLETE.replacen(original, changed, 1);
        assert_ne!(text, COMPLETE);
        assert_eq!(verify(&text), Err(SignatureInvalid::Sha256));
    }
}

#[test]
fn a_wrong_digest_signature_or_key_is_refused() {
    let another_digest = with_sig(COMPLETE, "sha256", &sig(INCOMPLETE, "sha256"));
    assert_eq!(verify(&another_digest), Err(SignatureInvalid::Sha256));

    let another_signature = with_sig(COMPLETE, "signature", &sig(INCOMPLETE, "signature"));
    assert_eq!(verify(&another_signature), Err(SignatureInvalid::Signature));

    let stranger = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
    let refusal = Envelope::parse(COMPLETE).unwrap().verify(&stranger).unwrap_err();
    assert_eq!(refusal, SignatureInvalid::Signature);
}

/// Under this key of small order, this signature verifies for every message unless verification is strict.
#[test]
fn a_signature_under_a_small_order_key_is_refused() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let weak = VerifyingKey::from_bytes(&identity).unwrap();
    let mut signature = [0; 64];
    signature[0] = 1;
    let text = with_sig(COMPLETE, "signature", &STANDARD.encode(signature));
    assert_eq!(Envelope::parse(&text).unwrap().verify(&weak).unwrap_err(), SignatureInvalid::Signature);
}

#[test]
fn runner_id_and_signed_at_are_not_signed() {
    let text = with_sig(COMPLETE, "signed_at", "1970-01-01T00:00:00Z");
    let runner_id = sig(&text, "runner_id");
    let (result, sig) = text.rsplit_once(&runner_id).unwrap();
    verify(&format!("{result}somebody-else{sig}")).unwrap();
}

#[test]
fn a_result_without_a_canonical_form_does_not_verify() {
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
fn every_invalid_member_of_an_envelope_is_reported() {
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
    let duplicate = COMPLETE.replacen("\"sha256\":", "\"sha256\": \"\", \"sha256\":", 1);
    assert!(pointers(&duplicate).contains(&"/sig/sha256".to_owned()));
}

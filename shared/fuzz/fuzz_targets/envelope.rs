//! Envelopes: as received, and with any text as a result that the runner did sign.

#![no_main]

use bakeoff_core::results::canonical_json::CanonicalForm;
use bakeoff_core::results::envelope::Envelope;
use bakeoff_fuzz::{assert_fits_a_response, signing_key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let key = signing_key().verifying_key();
    match Envelope::parse(text) {
        Ok(envelope) => assert!(envelope.verify(&key).is_err(), "nobody signed this"),
        Err(errors) => assert_fits_a_response(&errors),
    }

    let Ok(form) = CanonicalForm::parse(text.as_bytes()) else { return };
    if !text.trim_start().starts_with('{') {
        return;
    }
    let digest = form.sha256();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let signature = STANDARD.encode(signing_key().sign(&digest).to_bytes());
    let sig = format!(r#"{{"sha256":"{hex}","signature":"{signature}","runner_id":"r","signed_at":"t"}}"#);
    let signed = format!(r#"{{"result":{text},"sig":{sig}}}"#);
    let verified = Envelope::parse(&signed).expect("an envelope").verify(&key).expect("it is signed");
    assert_eq!(verified.sha256(), digest);
    // The canonical form itself is the same document.
    let canonical = String::from_utf8(form.bytes()).expect("ASCII");
    let respelt = format!(r#"{{"result":{canonical},"sig":{sig}}}"#);
    Envelope::parse(&respelt).expect("an envelope").verify(&key).expect("the same document");
});

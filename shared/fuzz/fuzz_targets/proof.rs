//! Proofs of possession: as received, and with any header and claims that the key in the corpus did sign.

#![no_main]

use bakeoff_core::runners::proof::ProvenKey;
use bakeoff_fuzz::{jws, signing_key};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const URL: &str = "https://queue.example/api/runners/register";

fuzz_target!(|text: &str| {
    assert!(ProvenKey::from_proof(text, URL).is_err(), "nobody signed this");
    let Some((header, claims)) = text.split_once('\n') else { return };
    if let Ok(proven) = ProvenKey::from_proof(&jws(header, claims), URL) {
        let header: Value = serde_json::from_str(header).expect("an accepted header is JSON");
        let claims: Value = serde_json::from_str(claims).expect("accepted claims are JSON");
        assert_eq!(proven.key().as_bytes(), signing_key().verifying_key().as_bytes());
        assert_eq!((&header["typ"], &header["alg"]), (&"dpop+jwt".into(), &"EdDSA".into()));
        assert_eq!((&claims["htm"], &claims["htu"]), (&"POST".into(), &URL.into()));
        assert!(claims["jti"].as_str().is_some_and(|jti| (1..=128).contains(&jti.len())));
    }
});

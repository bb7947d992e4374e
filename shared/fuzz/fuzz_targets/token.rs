//! Tokens: as received, and with any header and claims that the service's key did sign.

#![no_main]

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use bakeoff_core::runners::token::{ServiceKeys, VerifyingKeys, rotate_key_set};
use bakeoff_fuzz::{jws, signing_key};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::sync::Arc;

const SERVICE: &str = "https://queue.example";

static KEYS: LazyLock<Arc<VerifyingKeys>> = LazyLock::new(|| {
    let now = SystemTime::now().into();
    let set = rotate_key_set(r#"{"keys":[]}"#, signing_key().to_bytes(), now, Default::default());
    ServiceKeys::from_jwk_set(&set.expect("an empty set")).expect("a set of one key").verifying_keys()
});

fuzz_target!(|text: &str| {
    assert!(KEYS.authenticate(SERVICE, text).is_err(), "nobody signed this");
    assert!(KEYS.verify_receipt(text).is_err(), "nobody signed this");

    // The corpus cannot know the key's id.
    let kid = KEYS.public_keys().next().expect("one key").kid();
    let text = text.replace("KID", kid);
    let Some((header, claims)) = text.split_once('\n') else { return };
    let token = jws(header, claims);
    let accepted = KEYS.authenticate(SERVICE, &token).is_ok();
    if accepted {
        let header: Value = serde_json::from_str(header).expect("an accepted header is JSON");
        let claims: Value = serde_json::from_str(claims).expect("accepted claims are JSON");
        assert_eq!((&header["typ"], &header["alg"]), (&"at+jwt".into(), &"EdDSA".into()));
        assert_eq!((&claims["iss"], &claims["aud"]), (&SERVICE.into(), &SERVICE.into()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("past 1970").as_secs_f64();
        assert!(claims["exp"].as_f64().is_some_and(|exp| exp > now - 6.0), "{claims}");
        assert!(claims["nbf"].as_f64().is_some_and(|nbf| nbf < now + 6.0), "{claims}");
        assert!(header.get("crit").is_none_or(Value::is_null));
    }
    assert!(!(accepted && KEYS.verify_receipt(&token).is_ok()), "no text is both");
});

//! Public keys: one that is accepted has one encoding and one id, in whatever form it came.

#![no_main]

use bakeoff_core::runners::key::PublicKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = PublicKey::from_bytes(bytes) {
        assert_eq!(key.as_bytes().as_slice(), bytes);
        assert!(!key.verifying_key().is_weak());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(key) = PublicKey::parse(text) {
        let again = PublicKey::from_base64(&key.to_base64()).expect("its own base64");
        assert_eq!(again.key_id().as_str(), key.key_id().as_str());
        assert!(!key.verifying_key().is_weak());
    }
    let _ = PublicKey::from_base64(text);
});

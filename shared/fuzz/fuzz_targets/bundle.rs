//! Sigstore bundles. What is accepted must be signed: for another artifact it is not.

#![no_main]

use bakeoff_attestation::{Bundle, Material, PublicKey, TrustedRoot, verify_keyed, verify_keyless};
use bakeoff_fuzz::signing_key;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(bundle) = Bundle::parse(bytes) else { return };
    let root = TrustedRoot::embedded();
    let artifact: &[u8] = b"an artifact that nobody signed";
    match bundle.material() {
        Material::PublicKey => {
            let key = PublicKey::ed25519(signing_key().verifying_key().as_bytes()).expect("a good key");
            assert!(verify_keyed(&bundle, artifact, &key, root).is_err());
        }
        Material::Certificate => assert!(verify_keyless(&bundle, artifact, root).is_err()),
    }
});

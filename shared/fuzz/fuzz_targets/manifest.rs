//! The manifest of a publication bundle, and the signed result that it must agree with.

#![no_main]

use std::collections::BTreeMap;

use bakeoff_attestation::publication::PublicationBundle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|manifest: &[u8]| {
    let result = include_bytes!("../../attestation/tests/fixtures/bundle-one-prompt/result.json");
    let files: BTreeMap<String, Vec<u8>> = [
        ("result.json", result.as_slice()),
        ("manifest.json", manifest),
        ("summary.md", include_bytes!("../../attestation/tests/fixtures/bundle-one-prompt/summary.md")),
        ("dashboard.html", include_bytes!("../../attestation/tests/fixtures/bundle-one-prompt/dashboard.html")),
        (
            "signature.sigstore.json",
            include_bytes!("../../attestation/tests/fixtures/bundle-one-prompt/signature.sigstore.json"),
        ),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
    .into();
    match PublicationBundle::parse(files) {
        Ok(bundle) => {
            assert_eq!(bundle.result(), result);
            let signed = serde_json::from_slice(result).expect("a fixture is JSON");
            let differences = bundle.differences(&signed);
            assert!(differences.iter().all(|error| error.detail.len() < 2000));
        }
        Err(errors) => {
            let bytes: usize = errors.iter().map(|error| error.pointer.len() + error.detail.len()).sum();
            assert!(!errors.is_empty() && bytes < 200_000, "{bytes} bytes of errors");
        }
    }
});

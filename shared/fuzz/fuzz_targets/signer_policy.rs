//! The results repository's signer policy, a YAML file.

#![no_main]

use bakeoff_fuzz::assert_fits_a_response;
use libfuzzer_sys::fuzz_target;

#[path = "../../../functions/keys/src/signer_policy.rs"]
#[allow(dead_code)]
mod signer_policy;

fuzz_target!(|text: &str| {
    match signer_policy::parse(text) {
        Ok(entries) => assert!((1..=200).contains(&entries.len())),
        Err(errors) => assert_fits_a_response(&errors),
    }
});

//! The canonical form against a second implementation: the same texts have one, and it is the same.

#![no_main]

use bakeoff_core::results::canonical_json::CanonicalForm;
use bakeoff_fuzz::reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let form = CanonicalForm::parse(text).ok().map(|form| form.bytes());
    assert_eq!(form, reference::canonical_form(text));
    if let Some(form) = form {
        let again = CanonicalForm::parse(&form).expect("a canonical form is JSON");
        assert_eq!(again.bytes(), form, "the canonical form of a canonical form is itself");
    }
});

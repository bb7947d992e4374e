//! A signed result: what is accepted has a canonical form, and what is not is refused in few words.

#![no_main]

use bakeoff_core::results::canonical_json::CanonicalForm;
use bakeoff_core::results::run_result::RunResult;
use bakeoff_fuzz::assert_fits_a_response;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match RunResult::parse(text) {
        Ok(result) => {
            assert!(CanonicalForm::parse(text.as_bytes()).is_ok());
            assert!(result.task_count() >= 1);
            for scores in result.scores() {
                let _ = format!("{scores:?}");
            }
        }
        Err(errors) => assert_fits_a_response(&errors),
    }
});

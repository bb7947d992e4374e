//! Every request body. The first character chooses which.

#![no_main]

use bakeoff_core::field_error::FieldError;
use bakeoff_core::queue::claim::ClaimRequest;
use bakeoff_core::queue::heartbeat::HeartbeatRequest;
use bakeoff_core::queue::release::ReleaseRequest;
use bakeoff_core::results::submission::{Form, SubmitRequest};
use bakeoff_core::runners::allowlist::NewEntry;
use bakeoff_core::runners::register::Registration;
use bakeoff_core::runners::revoke::parse_reason;
use bakeoff_core::runs::enqueue::NewRun;
use bakeoff_fuzz::assert_fits_a_response;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some(which) = text.chars().next() else { return };
    let body = &text[which.len_utf8()..];
    let refused: Result<(), Vec<FieldError>> = match which {
        'c' => ClaimRequest::parse(body).map(drop),
        'h' => HeartbeatRequest::parse(body).map(drop),
        'l' => ReleaseRequest::parse(body).map(drop),
        's' => SubmitRequest::parse(body).map(|request| {
            if let Form::Files(files) = request.form {
                assert!(files.len() <= body.len());
            }
        }),
        'r' => Registration::parse(body).map(drop),
        'k' => NewEntry::parse(body).map(drop),
        'v' => parse_reason(body).map(drop),
        _ => NewRun::parse(body).map(drop),
    };
    if let Err(errors) = refused {
        assert_fits_a_response(&errors);
    }
});

//! SigV4 tests with AWS's own signing test suite (`signing_suite/*.txt`, its signed HTTP requests) and with
//! requests that botocore signed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bakeoff_sigv4::{Credentials, Refusal, sign, verify};
use http::{Request, request::Parts};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

const SUITE_TIME: OffsetDateTime = datetime!(2015-08-30 12:36:00 UTC);

/// Parses the text of an HTTP/1.1 request: head, empty line, body.
fn parse(text: &str) -> (Parts, String) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let mut request_line = lines.next().unwrap().split(' ');
    let mut request =
        Request::builder().method(request_line.next().unwrap()).uri(request_line.next().unwrap());
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        request = request.header(name, value.trim());
    }
    (request.body(()).unwrap().into_parts().0, body.trim_end().to_owned())
}

fn suite(access_key: &str) -> Credentials {
    Credentials {
        access_key: access_key.into(),
        secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
        region: "us-east-1".into(),
        service: "service".into(),
    }
}

fn check_suite(text: &str) {
    let (parts, body) = parse(text);
    let credentials = suite("AKIDEXAMPLE");
    assert_eq!(verify(&parts, body.as_bytes(), &credentials, SUITE_TIME), Ok(()));
    let altered = format!("{body}x");
    assert!(verify(&parts, altered.as_bytes(), &credentials, SUITE_TIME).is_err());
}

macro_rules! suite {
    ($($test:ident $file:literal)*) => {$(
        #[test]
        fn $test() {
            check_suite(include_str!(concat!("signing_suite/", $file, ".txt")));
        }
    )*};
}

suite! {
    suite_vanilla "get-vanilla"
    suite_query_is_sorted_by_name "get-vanilla-query-order-key-case"
    suite_query_stays_encoded "get-vanilla-query-order-encoded"
    suite_unreserved_characters_stay_unencoded "get-vanilla-query-unreserved"
    suite_values_are_trimmed "get-header-value-trim"
    suite_values_are_joined "get-header-key-duplicate"
    suite_slashes "get-slashes-normalized"
    suite_dot_segments "get-relative-relative-normalized"
    suite_form_body "post-x-www-form-urlencoded"
    suite_query_without_value "post-vanilla-empty-query-value"
}

#[test]
fn suite_path_of_an_execute_api_is_encoded_twice() {
    let (parts, _) = parse(include_str!("signing_suite/double-encode-path.txt"));
    let credentials =
        Credentials { secret_key: "notrealrnrELgWzOk3IfjzDKtFBhDby".into(), ..suite("ANOTREAL") };
    assert_eq!(verify(&parts, b"", &credentials, SUITE_TIME), Ok(()));
}

fn local() -> (Parts, Credentials) {
    let (parts, _) = parse(include_str!("signing_suite/botocore.txt"));
    (parts, Credentials::local())
}

/// The time at which botocore signed `botocore.txt`.
const SIGNED: OffsetDateTime = datetime!(2026-08-30 12:36:00 UTC);
const BODY: &[u8] = br#"{"reason": "test"}"#;

#[test]
fn a_signature_by_botocore_is_accepted() {
    let (parts, credentials) = local();
    assert_eq!(verify(&parts, BODY, &credentials, SIGNED), Ok(()));
}

#[test]
fn another_body_method_path_or_query_is_refused() {
    let (parts, credentials) = local();
    let wrong = |change: &dyn Fn(&mut Parts), body: &[u8]| {
        let mut parts = parts.clone();
        change(&mut parts);
        assert_eq!(verify(&parts, body, &credentials, SIGNED), Err(Refusal::WrongSignature));
    };
    wrong(&|_| {}, br#"{"reason": "tesT"}"#);
    wrong(&|parts| parts.method = "PUT".parse().unwrap(), BODY);
    wrong(&|parts| parts.uri = "/api/admin/runs".parse().unwrap(), BODY);
    wrong(&|parts| parts.uri = format!("{}&more=1", parts.uri).parse().unwrap(), BODY);
}

#[test]
fn another_key_region_or_service_is_refused() {
    let (parts, credentials) = local();
    let other = Credentials { secret_key: "other".into(), ..credentials.clone() };
    assert_eq!(verify(&parts, BODY, &other, SIGNED), Err(Refusal::WrongSignature));
    for other in [
        Credentials { access_key: "other".into(), ..credentials.clone() },
        Credentials { region: "eu-west-1".into(), ..credentials.clone() },
        Credentials { service: "s3".into(), ..credentials.clone() },
    ] {
        assert_eq!(verify(&parts, BODY, &other, SIGNED), Err(Refusal::AnotherScope));
    }
}

#[test]
fn a_date_more_than_five_minutes_off_is_refused() {
    let (parts, credentials) = local();
    for (off, expected) in
        [(299, Ok(())), (-299, Ok(())), (301, Err(Refusal::Stale)), (-301, Err(Refusal::Stale))]
    {
        assert_eq!(verify(&parts, BODY, &credentials, SIGNED + Duration::seconds(off)), expected);
    }
}

#[test]
fn an_unsigned_request_is_refused() {
    let (mut parts, credentials) = local();
    parts.headers.insert("authorization", "Bearer abc".parse().unwrap());
    assert_eq!(verify(&parts, BODY, &credentials, SIGNED), Err(Refusal::NotSigned));
    parts.headers.remove("authorization");
    assert_eq!(verify(&parts, BODY, &credentials, SIGNED), Err(Refusal::NotSigned));
}

#[test]
fn a_body_with_another_declared_digest_is_refused() {
    let (mut parts, credentials) = local();
    parts.headers.insert("x-amz-content-sha256", "00".parse().unwrap());
    assert_eq!(verify(&parts, BODY, &credentials, SIGNED), Err(Refusal::AnotherBody));
}

#[test]
fn a_signature_by_sign_verifies_until_the_request_changes() {
    let credentials = Credentials::local();
    let uri = "/api/admin/keys/a%2Fb?limit=10&cursor=x%3D%3D";
    let mut request = Request::builder().method("DELETE").uri(uri).header("host", "127.0.0.1:9000");
    let headers = request.headers_ref().unwrap().clone();
    let method = "DELETE".parse().unwrap();
    for (name, value) in sign(&method, &uri.parse().unwrap(), &headers, BODY, &credentials, SIGNED).unwrap() {
        request = request.header(name, value);
    }
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    assert_eq!(verify(&parts, BODY, &credentials, SIGNED), Ok(()));
    parts.headers.insert("host", "another.example".parse().unwrap());
    assert_eq!(verify(&parts, BODY, &credentials, SIGNED), Err(Refusal::WrongSignature));
}

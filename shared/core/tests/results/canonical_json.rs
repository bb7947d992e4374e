//! Tests of the canonical form: equality with Python's, refused texts, and bounds.

use bakeoff_core::results::canonical_json::{
    CanonicalForm, MAX_INTEGER_DIGITS, MAX_LONG_NUMBERS, MAX_NESTING, Reason,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Sample {
    text: String,
    canonical: String,
    sha256: String,
}

fn canonical(text: &str) -> String {
    String::from_utf8(CanonicalForm::parse(text.as_bytes()).unwrap().bytes()).unwrap()
}

fn refusal(text: impl AsRef<[u8]>) -> Reason {
    CanonicalForm::parse(text.as_ref()).expect_err("must be refused").reason
}

#[test]
fn the_canonical_form_equals_the_harnesss_on_400_texts() {
    let samples = include_str!("../fixtures/canonical-json.jsonl");
    let samples: Vec<Sample> = samples.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(samples.len(), 400);
    for Sample { text, canonical, sha256 } in samples {
        let form = CanonicalForm::parse(text.as_bytes()).unwrap_or_else(|why| panic!("{why}: {text}"));
        assert_eq!(String::from_utf8(form.bytes()).unwrap(), canonical, "{text}");
        let digest: String = form.sha256().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, sha256, "{text}");
    }
}

#[test]
fn numbers_are_spelled_as_in_python() {
    for (text, python) in [
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("-0e5", "-0.0"),
        ("1e-400", "0.0"),
        ("-1e-400", "-0.0"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("0.000123", "0.000123"),
        ("1.25e-5", "1.25e-05"),
        ("1e15", "1000000000000000.0"),
        ("9999999999999998.0", "9999999999999998.0"),
        ("1e16", "1e+16"),
        ("12345678901234567890.0", "1.2345678901234567e+19"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("4.9e-324", "5e-324"),
        ("2.2250738585072014e-308", "2.2250738585072014e-308"),
        ("9007199254740993", "9007199254740993"),
        ("9007199254740993.0", "9007199254740992.0"),
        ("5e-5", "5e-05"),
        ("123.456", "123.456"),
        ("100.0", "100.0"),
        // A tie between two shortest candidates: Python takes the even digit.
        ("1527226381121439.25", "1527226381121439.2"),
        ("5.684341886080802e-14", "5.684341886080802e-14"),
    ] {
        assert_eq!(canonical(text), python, "{text}");
    }
}

#[test]
fn members_are_sorted_by_code_point_at_every_depth() {
    // By code point U+FF5E sorts before U+1F600, by UTF-16 unit after it. By code point `é` sorts after `z`; its
    // escape, which begins with `\` (0x5c), would sort before.
    assert_eq!(
        canonical("{\"\u{1f600}\":1,\"\u{ff5e}\":2,\"é\":3,\"z\":{\"b\":[{\"d\":1,\"c\":2},{}],\"a\":null}}"),
        r#"{"z":{"a":null,"b":[{"c":2,"d":1},{}]},"\u00e9":3,"\uff5e":2,"\ud83d\ude00":1}"#
    );
    assert_eq!(canonical("{\"ab\":1,\"a\":2,\"\":3}"), r#"{"":3,"a":2,"ab":1}"#);
    assert_eq!(
        canonical("[{\"b\":{\"x\":1,\"w\":2},\"c\":{\"z\":3,\"y\":4}}]"),
        r#"[{"b":{"w":2,"x":1},"c":{"y":4,"z":3}}]"#
    );
}

#[test]
fn strings_are_escaped_as_in_python() {
    assert_eq!(
        canonical(r#"  "\/\u002F\u0000\u001f\u007f\ud834\uDD1E\b\f\n\r\t\"\\'<&" "#),
        "\"//\\u0000\\u001f\\u007f\\ud834\\udd1e\\b\\f\\n\\r\\t\\\"\\\\'<&\""
    );
}

#[test]
fn texts_that_parsers_may_read_differently_are_refused() {
    assert_eq!(refusal(r#"{"a":1,"b":2,"a":1}"#), Reason::DuplicateKey("\"a\"".into()));
    assert_eq!(refusal(r#"[{"x":{"a":1,"\u0061":1}}]"#), Reason::DuplicateKey("\"a\"".into()));
    for text in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800x""#,
        r#""\ud800\n""#,
        r#""\ud800\ud800""#,
        r#"{"\udfff":1}"#,
    ] {
        assert_eq!(refusal(text), Reason::LoneSurrogate, "{text}");
    }
    for text in ["1e999", "-1e999", "[1.8e308]", "1e99999999999999999999"] {
        assert_eq!(refusal(text), Reason::NumberOutOfRange, "{text}");
    }
    assert_eq!(refusal("\u{feff}{}"), Reason::ByteOrderMark);
    assert_eq!(refusal(b"\"\xed\xa0\x80\""), Reason::NotUtf8);
    assert_eq!(refusal(b"\"\xff\""), Reason::NotUtf8);
}

#[test]
fn syntax_errors_are_refused() {
    for text in [
        "",
        " ",
        "NaN",
        "Infinity",
        "-Infinity",
        "nul",
        "True",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "-01",
        "0x10",
        "1_0",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[",
        "]",
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "\"",
        "\"\t\"",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"\\",
        "{} {}",
        "[] x",
        "\u{a0}1",
        "\u{b}1",
        "// c\n1",
        "\"\\ud800\\u\"",
        "\0",
    ] {
        assert!(matches!(refusal(text), Reason::Syntax(_)), "{text:?}");
    }
}

#[test]
fn the_limits_on_nesting_and_digits_are_exact() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(canonical(&nested(MAX_NESTING)), nested(MAX_NESTING));
    assert_eq!(refusal(nested(MAX_NESTING + 1)), Reason::NestedTooDeep);
    assert_eq!(refusal("{\"a\":".repeat(1_000_000)), Reason::NestedTooDeep);

    let longest = format!("-{}", "7".repeat(MAX_INTEGER_DIGITS));
    assert_eq!(canonical(&longest), longest);
    assert_eq!(refusal(format!("{longest}7")), Reason::IntegerTooLong);
}

/// Half of the smallest double, and a little more: all digits decide, and 32 MB of these took 60 s of CPU.
#[test]
fn numbers_that_are_slow_to_convert_are_few() {
    let half = "2.47032822920623272082e-324";
    let list = |number: &str, count: usize| format!("[{}]", vec![number; count].join(","));
    assert_eq!(canonical("[2.47032822920623272082e-324]"), "[0.0]");
    assert!(CanonicalForm::parse(list(half, MAX_LONG_NUMBERS).as_bytes()).is_ok());
    assert_eq!(refusal(list(half, MAX_LONG_NUMBERS + 1)), Reason::TooManyLongNumbers);
    assert_eq!(refusal(list(&"7".repeat(41), MAX_LONG_NUMBERS + 1)), Reason::TooManyLongNumbers);
    // What Python writes is never long.
    let python =
        ["2.2250738585072014e-308", "0.00012345678901234567", "-1234567890123456.7", "18446744073709551615"];
    for number in python {
        assert!(CanonicalForm::parse(list(number, 100_000).as_bytes()).is_ok(), "{number}");
    }
}

/// Members are out of order at every level. If each level copied its content, 32 MiB would be copied 128 times.
#[test]
fn unsorted_members_at_every_level_take_linear_time() {
    let payload = "x".repeat(32 << 20);
    let depth = MAX_NESTING;
    let text = format!("{}\"{payload}\"{}", "{\"b\":1,\"a\":".repeat(depth), "}".repeat(depth));
    let started = std::time::Instant::now();
    let form = CanonicalForm::parse(text.as_bytes()).unwrap();
    form.sha256();
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    let expected = format!("{}\"{payload}\"{}", "{\"a\":".repeat(depth), ",\"b\":1}".repeat(depth));
    assert!(form.bytes() == expected.as_bytes());
}

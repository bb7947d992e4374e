//! Readers for single members of a result. Each reports an invalid value with the member's pointer.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{FailureCode, RunStatus};
use crate::field_error::{CONTAINS_NUL, FieldErrors, quote};

/// The non-negative range of PostgreSQL's `integer`.
pub(super) const DATABASE_INTEGER: RangeInclusive<f64> = 0.0..=i32::MAX as f64;
pub(super) const ANY_NUMBER: RangeInclusive<f64> = f64::MIN..=f64::MAX;

/// A member's value as received; `None` if absent or `null`.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// A member's parent pointer and name, formatted only if there is an error: a result has many members.
#[derive(Clone, Copy)]
pub(super) struct At<'a>(pub(super) &'a str, pub(super) &'static str);

impl At<'_> {
    pub(super) fn pointer(self) -> String {
        format!("{}/{}", self.0, self.1)
    }
}

/// Reads the members of an object as received.
pub(super) fn object<'a, T: Deserialize<'a>>(
    text: &'a str,
    pointer: &str,
    errors: &mut FieldErrors,
) -> Option<T> {
    // serde would also deserialize a struct from an array, by position.
    let is_object = text.trim_start().starts_with('{');
    let members = is_object.then(|| serde_json::from_str(text).ok()).flatten();
    if members.is_none() {
        errors.push(pointer, "must be a JSON object");
    }
    members
}

pub(super) fn required_object<'a, T: Deserialize<'a>>(
    raw: Raw<'a>,
    pointer: &str,
    errors: &mut FieldErrors,
) -> Option<T> {
    if raw.is_none() {
        errors.push(pointer, "is required");
    }
    object(raw?.get(), pointer, errors)
}

/// Calls `element` with each element of a required list and its pointer, and returns the list's length. Streams
/// the elements, so that memory does not grow with the length.
pub(super) fn for_each_element<'a>(
    list: Raw<'a>,
    pointer: &str,
    errors: &mut FieldErrors,
    mut element: impl FnMut(&'a RawValue, &str, &mut FieldErrors),
) -> Option<usize> {
    struct Elements<F>(F);
    impl<'de, F: FnMut(usize, &'de RawValue)> Visitor<'de> for Elements<F> {
        type Value = usize;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<S: SeqAccess<'de>>(mut self, mut elements: S) -> Result<usize, S::Error> {
            let mut length = 0;
            while let Some(element) = elements.next_element()? {
                (self.0)(length, element);
                length += 1;
            }
            Ok(length)
        }
    }
    let Some(list) = list else {
        errors.push(pointer, "is required");
        return None;
    };
    let elements = Elements(|index, raw: &'a RawValue| element(raw, &format!("{pointer}/{index}"), errors));
    let length = serde_json::Deserializer::from_str(list.get()).deserialize_seq(elements).ok();
    if length.is_none() {
        errors.push(pointer, "must be a list");
    }
    length
}

/// Reads an optional string.
pub(super) fn text(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<String> {
    let text = serde_json::from_str(raw?.get()).ok();
    if text.is_none() {
        errors.push(at.pointer(), "must be a string");
    }
    text
}

/// Reads an optional string that is stored in a `text` column, which cannot hold U+0000.
pub(super) fn storable_text(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<String> {
    let text = text(raw, at, errors)?;
    if text.contains('\0') {
        errors.push(at.pointer(), CONTAINS_NUL);
    }
    Some(text)
}

/// Reads a required string that is stored in a `text` column and must not be empty.
pub(super) fn required_text(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<String> {
    if raw.is_none() {
        errors.push(at.pointer(), "is required");
    }
    let text = storable_text(raw, at, errors)?;
    if text.is_empty() {
        errors.push(at.pointer(), "must not be empty");
        return None;
    }
    Some(text)
}

/// Reads an optional number. Accepts integers and floats, because the harness writes both for the same member.
pub(super) fn number(
    raw: Raw<'_>,
    at: At<'_>,
    range: RangeInclusive<f64>,
    errors: &mut FieldErrors,
) -> Option<f64> {
    let spelling = raw?.get();
    // `f64::from_str` is exactly rounded. It also accepts `inf` and `nan`, which a JSON text cannot contain.
    let number = spelling.parse::<f64>().ok();
    match number {
        Some(number) if range.contains(&number) => return number.into(),
        Some(_) if range == ANY_NUMBER => errors.push(at.pointer(), "must be a finite number"),
        Some(_) => {
            let (min, max) = range.into_inner();
            errors.push(at.pointer(), format!("must be a number from {min} to {max}"));
        }
        None => errors.push(at.pointer(), "must be a number"),
    }
    None
}

pub(super) fn status(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<RunStatus> {
    let status = serde_json::from_str(raw?.get()).ok();
    if status.is_none() {
        errors.push(at.pointer(), "must be `complete`, `incomplete` or `failed`");
    }
    status
}

/// Reads an optional failure code. An empty string counts as absent, because it is falsy in the harness.
pub(super) fn failure_code(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<FailureCode> {
    let word = text(raw, at, errors).filter(|word| !word.is_empty())?;
    let code = FailureCode::parse(&word);
    if code.is_none() {
        let known = FailureCode::ALL.map(FailureCode::as_str).join(", ");
        errors.push(at.pointer(), format!("is {}; must be one of {known}", quote(&word)));
    }
    code
}

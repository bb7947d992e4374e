//! Reads single members of a result, as received: each reader reports what is wrong under the member's pointer.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{FailureCode, RunStatus};
use crate::field_error::{FieldErrors, quote};

/// The range of PostgreSQL's `integer`, from 0.
pub(super) const DATABASE_INTEGER: RangeInclusive<f64> = 0.0..=i32::MAX as f64;
pub(super) const ANY_NUMBER: RangeInclusive<f64> = f64::MIN..=f64::MAX;

/// A member's value as received; none when absent or `null`.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// A member's place. Put together only when there is a fault to tell: a result has many members.
#[derive(Clone, Copy)]
pub(super) struct At<'a>(pub(super) &'a str, pub(super) &'static str);

impl At<'_> {
    pub(super) fn pointer(self) -> String {
        format!("{}/{}", self.0, self.1)
    }
}

/// The members of an object, as received; only something else than an object is a fault.
pub(super) fn object<'a, T: Deserialize<'a>>(
    text: &'a str,
    pointer: &str,
    errors: &mut FieldErrors,
) -> Option<T> {
    // serde reads a struct from an array too, by position.
    let is_object = text.trim_start().starts_with('{');
    let members = is_object.then(|| serde_json::from_str(text).ok()).flatten();
    if members.is_none() {
        errors.push(pointer, "must be an object");
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

/// Hands each element of a list over with its place, one after the other: a list of any length is
/// never held as a whole. Gives the length; a list that is missing or none is a fault.
pub(super) fn each<'a>(
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

pub(super) fn text(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<String> {
    let text = serde_json::from_str(raw?.get()).ok();
    if text.is_none() {
        errors.push(at.pointer(), "must be text");
    }
    text
}

/// Text that goes into a column of its own. Postgres keeps no U+0000 in text.
pub(super) fn storable_text(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<String> {
    let text = text(raw, at, errors)?;
    if text.contains('\0') {
        errors.push(at.pointer(), "must not contain U+0000");
    }
    Some(text)
}

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

/// A number, integer or float alike: the harness writes both for one member.
pub(super) fn number(
    raw: Raw<'_>,
    at: At<'_>,
    range: RangeInclusive<f64>,
    errors: &mut FieldErrors,
) -> Option<f64> {
    let spelling = raw?.get();
    // The standard library's reading is exact; what else it reads (`inf`) is no JSON.
    let number = spelling.parse::<f64>().ok();
    match number {
        Some(number) if range.contains(&number) => return number.into(),
        Some(_) if range == ANY_NUMBER => errors.push(at.pointer(), "must be a finite number"),
        Some(_) => {
            let (least, most) = range.into_inner();
            errors.push(at.pointer(), format!("must be at least {least} and at most {most}"));
        }
        None => errors.push(at.pointer(), "must be a number"),
    }
    None
}

pub(super) fn status(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<RunStatus> {
    let status = serde_json::from_str(raw?.get()).ok();
    if status.is_none() {
        errors.push(at.pointer(), "must be complete, incomplete or failed");
    }
    status
}

/// A failure code; empty text is none, as it is in Python.
pub(super) fn failure_code(raw: Raw<'_>, at: At<'_>, errors: &mut FieldErrors) -> Option<FailureCode> {
    let word = text(raw, at, errors).filter(|word| !word.is_empty())?;
    let code = FailureCode::from_word(&word);
    if code.is_none() {
        let known = FailureCode::ALL.map(FailureCode::as_str).join(", ");
        errors.push(at.pointer(), format!("{} is none of {known}", quote(&word)));
    }
    code
}

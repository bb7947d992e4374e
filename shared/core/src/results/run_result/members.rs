//! Readers for single members of a result. Each reports an invalid value with the member's pointer.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
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

/// An element of a list: its members if it is an object, so that a list is read in one pass.
struct Element<T>(Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Element<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON value")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|members| Element(Some(members)))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut elements: S) -> Result<Self::Value, S::Error> {
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Element(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Element(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Element(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Element(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Element(None))
            }

            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Element(None))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Element(None))
            }
        }
        deserializer.deserialize_any(Object(PhantomData))
    }
}

/// Calls `element` with the members and the pointer of each object in a required list, reports the other elements,
/// and returns the list's length. Streams the elements, so that memory does not grow with the length.
pub(super) fn for_each_object<'a, T: Deserialize<'a>>(
    list: Raw<'a>,
    pointer: &str,
    errors: &mut FieldErrors,
    mut element: impl FnMut(T, &str, &mut FieldErrors),
) -> Option<usize> {
    struct Elements<T, F>(F, PhantomData<T>);
    impl<'de, T: Deserialize<'de>, F: FnMut(usize, Option<T>)> Visitor<'de> for Elements<T, F> {
        type Value = usize;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<S: SeqAccess<'de>>(mut self, mut elements: S) -> Result<usize, S::Error> {
            let mut length = 0;
            while let Some(Element(members)) = elements.next_element()? {
                (self.0)(length, members);
                length += 1;
            }
            Ok(length)
        }
    }
    let Some(list) = list else {
        errors.push(pointer, "is required");
        return None;
    };
    let each = |index: usize, members: Option<T>| {
        let pointer = format!("{pointer}/{index}");
        match members {
            Some(members) => element(members, &pointer, errors),
            None => errors.push(pointer, "must be a JSON object"),
        }
    };
    let elements = Elements(each, PhantomData);
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

//! Reading a request: a JSON object taken apart field by field, with every fault collected and every
//! unknown field named, so that a caller mends a request once and a typo never passes silently.

use crate::field_error::FieldErrors;
use crate::results::canonical_json::CanonicalForm;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

/// The members of a JSON object by name, each as the text received.
///
/// A name that comes twice is refused: two readers could take different ones.
struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.contains_key(&name) {
                        return Err(A::Error::custom(format!("the field {name:?} comes twice")));
                    }
                    members.insert(name, value);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// A JSON object being read. Take its fields, then [`Object::finish`] it.
#[derive(Debug)]
pub struct Object<'a> {
    at: String,
    members: BTreeMap<String, &'a RawValue>,
}

impl<'a> Object<'a> {
    /// Reads `text` as an object that stands at `at` (a JSON Pointer, empty for the whole document).
    pub fn parse(text: &'a str, at: &str, errors: &mut FieldErrors) -> Option<Self> {
        match serde_json::from_str::<Members<'a>>(text) {
            Ok(Members(members)) => Some(Self { at: at.to_owned(), members }),
            Err(error) => {
                errors.push(at, described(&error));
                None
            }
        }
    }

    /// The JSON Pointer of one of the fields.
    pub fn pointer(&self, name: &str) -> String {
        format!("{}/{}", self.at, name.replace('~', "~0").replace('/', "~1"))
    }

    /// Takes a field's text as received; an explicit `null` is an absent field.
    pub fn raw(&mut self, name: &str) -> Option<&'a RawValue> {
        self.members.remove(name).filter(|value| value.get() != "null")
    }

    /// The text of a field that is still to be taken.
    pub fn peek(&self, name: &str) -> Option<&'a str> {
        self.members.get(name).map(|value| value.get()).filter(|text| *text != "null")
    }

    /// Takes a field that may be absent.
    pub fn optional<T: DeserializeOwned>(&mut self, name: &str, errors: &mut FieldErrors) -> Option<T> {
        let value = self.raw(name)?;
        match serde_json::from_str(value.get()) {
            Ok(value) => Some(value),
            Err(error) => {
                errors.push(self.pointer(name), described(&error));
                None
            }
        }
    }

    /// Takes a field that must be there.
    pub fn required<T: DeserializeOwned>(&mut self, name: &str, errors: &mut FieldErrors) -> Option<T> {
        self.present(name, errors).then(|| self.optional(name, errors)).flatten()
    }

    /// Takes any JSON, if it is there, for a `jsonb` column: such a column holds no NUL.
    pub fn json(&mut self, name: &str, errors: &mut FieldErrors) -> Option<serde_json::Value> {
        let at = self.pointer(name);
        let value = self.raw(name)?;
        if value.get().contains("\\u0000") {
            errors.push(at, "holds a NUL character");
            return None;
        }
        serde_json::from_str(value.get()).map_err(|error| errors.push(at, described(&error))).ok()
    }

    /// Takes a text whose length in bytes is in `length`, if it is there.
    pub fn text(
        &mut self,
        name: &str,
        length: RangeInclusive<usize>,
        errors: &mut FieldErrors,
    ) -> Option<String> {
        let text: String = self.optional(name, errors)?;
        if !length.contains(&text.len()) {
            errors.push(
                self.pointer(name),
                format!("is {} bytes long; allowed are {} to {}", text.len(), length.start(), length.end()),
            );
            return None;
        }
        if text.contains('\0') {
            errors.push(self.pointer(name), "holds a NUL character");
            return None;
        }
        Some(text)
    }

    /// Takes a text that must be there.
    pub fn required_text(
        &mut self,
        name: &str,
        length: RangeInclusive<usize>,
        errors: &mut FieldErrors,
    ) -> Option<String> {
        self.present(name, errors).then(|| self.text(name, length, errors)).flatten()
    }

    /// Takes an integer within `range`, if it is there.
    pub fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i32>,
        errors: &mut FieldErrors,
    ) -> Option<i32> {
        let value: i64 = self.optional(name, errors)?;
        match i32::try_from(value) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                errors.push(
                    self.pointer(name),
                    format!("is {value}; allowed are {} to {}", range.start(), range.end()),
                );
                None
            }
        }
    }

    /// Takes a field that is an object itself, if it is there.
    pub fn object(&mut self, name: &str, errors: &mut FieldErrors) -> Option<Object<'a>> {
        let value = self.raw(name)?;
        Object::parse(value.get(), &self.pointer(name), errors)
    }

    /// Takes an object that is kept as it is, of at most `max` bytes, if it is there. What two readers
    /// could read differently is refused (a name twice, at any depth), and NUL, which Postgres cannot keep.
    pub fn free_form(
        &mut self,
        name: &str,
        max: usize,
        errors: &mut FieldErrors,
    ) -> Option<serde_json::Value> {
        let text = self.raw(name)?.get();
        if !text.starts_with('{') || text.len() > max {
            errors.push(self.pointer(name), format!("is not an object of at most {max} bytes"));
            return None;
        }
        if let Err(refused) = CanonicalForm::of(text.as_bytes()) {
            errors.push(self.pointer(name), refused.to_string());
            return None;
        }
        if text.contains("\\u0000") {
            errors.push(self.pointer(name), "holds a NUL character");
            return None;
        }
        serde_json::from_str(text).map_err(|error| errors.push(self.pointer(name), described(&error))).ok()
    }

    /// Takes a list: the pointer and the text of each element; empty where absent.
    pub fn list(&mut self, name: &str, errors: &mut FieldErrors) -> Vec<(String, &'a RawValue)> {
        let Some(value) = self.raw(name) else { return Vec::new() };
        match serde_json::from_str::<Vec<&'a RawValue>>(value.get()) {
            Ok(values) => {
                let at = self.pointer(name);
                values.into_iter().enumerate().map(|(i, value)| (format!("{at}/{i}"), value)).collect()
            }
            Err(error) => {
                errors.push(self.pointer(name), described(&error));
                Vec::new()
            }
        }
    }

    /// Whether a required field is there; notes a fault if not.
    pub fn present(&mut self, name: &str, errors: &mut FieldErrors) -> bool {
        let present = self.has(name);
        if !present {
            // An explicit null is missing, but it is not unknown.
            self.members.remove(name);
            errors.push(self.pointer(name), "is missing");
        }
        present
    }

    /// Whether a field is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.peek(name).is_some()
    }

    /// Names every field that nobody took.
    pub fn finish(self, errors: &mut FieldErrors) {
        for name in self.members.keys() {
            errors.push(self.pointer(name), "is not a known field");
        }
    }
}

/// The reader's own words without its line and column, which mean nothing inside a field.
fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

//! Reads a request's JSON object field by field, and reports every invalid and every unknown field at once.
//!
//! All errors are collected so that a caller corrects a request in one round. Unknown fields are refused,
//! because a misspelt optional field would otherwise be ignored without notice.

use crate::field_error::{CONTAINS_NUL, FieldErrors, pointer_token, quote};
use crate::name::{NOT_A_NAME, Name};
use crate::results::canonical_json::CanonicalForm;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use uuid::Uuid;

/// Maximum number of fields of an object. The largest request has 20. Each costs 100 bytes of memory, so the fields
/// that fit a body of 32 MB would cost more than the functions have.
const FIELDS_MAX: usize = 1000;

/// The members of a JSON object by name, each as the text received.
///
/// A duplicate name is refused, because two parsers may keep different values.
struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueNames;
        impl<'de> Visitor<'de> for UniqueNames {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.contains_key(&name) {
                        let name = quote(&name);
                        return Err(A::Error::custom(format!("the field {name} occurs twice; send it once")));
                    }
                    if members.len() == FIELDS_MAX {
                        return Err(A::Error::custom(format!("must have at most {FIELDS_MAX} fields")));
                    }
                    members.insert(name, value);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(UniqueNames)
    }
}

/// A JSON object whose fields are taken one by one; [`Object::finish`] reports the unknown ones.
#[derive(Debug)]
pub struct Object<'a> {
    pointer: String,
    /// Fields not taken yet.
    members: BTreeMap<String, &'a RawValue>,
    /// Fields that were requested and are absent: candidates for the suggestion to a misspelt field.
    absent: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// Parses `text` as the object at `pointer` (RFC 6901; empty for the whole document).
    pub fn parse(text: &'a str, pointer: &str, errors: &mut FieldErrors) -> Option<Self> {
        if !text.trim_start().starts_with('{') {
            errors.push(pointer, "must be a JSON object");
            return None;
        }
        match serde_json::from_str::<Members<'a>>(text) {
            Ok(Members(members)) => Some(Self { pointer: pointer.to_owned(), members, absent: Vec::new() }),
            Err(error) => {
                errors.push(pointer, strip_position(&error));
                None
            }
        }
    }

    /// Returns the JSON Pointer of a field. A long name is truncated: a response that repeats a name of
    /// several MB is over Lambda's limit, and the caller gets a 502 instead of the refusal.
    pub fn pointer(&self, name: &str) -> String {
        format!("{}/{}", self.pointer, pointer_token(name))
    }

    /// Takes a field's text as received. An explicit `null` counts as absent.
    pub fn raw(&mut self, name: &'static str) -> Option<&'a RawValue> {
        let value = self.members.remove(name);
        if value.is_none() {
            self.absent.push(name);
        }
        value.filter(|value| value.get() != "null")
    }

    /// Returns a field's text as received, without taking the field.
    pub(crate) fn peek(&self, name: &str) -> Option<&'a str> {
        self.members.get(name).map(|value| value.get()).filter(|text| *text != "null")
    }

    /// Takes an optional field of type `T`. `expected` names that type in the error: "must be {expected}".
    pub fn value<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
        errors: &mut FieldErrors,
    ) -> Option<T> {
        let value = self.raw(name)?;
        let value = serde_json::from_str(value.get()).ok();
        if value.is_none() {
            errors.push(self.pointer(name), format!("must be {expected}"));
        }
        value
    }

    /// Takes a required field of type `T`; see [`Object::value`].
    pub(crate) fn required_value<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
        errors: &mut FieldErrors,
    ) -> Option<T> {
        self.check_present(name, errors).then(|| self.value(name, expected, errors)).flatten()
    }

    /// Takes an optional UUID.
    pub fn uuid(&mut self, name: &'static str, errors: &mut FieldErrors) -> Option<Uuid> {
        self.value(name, "a UUID", errors)
    }

    /// Takes a required UUID.
    pub fn required_uuid(&mut self, name: &'static str, errors: &mut FieldErrors) -> Option<Uuid> {
        self.required_value(name, "a UUID", errors)
    }

    /// Takes an optional field of any JSON type for a `jsonb` column; see [`check_storable`].
    pub(crate) fn json(&mut self, name: &'static str, errors: &mut FieldErrors) -> Option<serde_json::Value> {
        let pointer = self.pointer(name);
        let text = self.raw(name)?.get();
        check_storable(text, &pointer, errors)?;
        serde_json::from_str(text).map_err(|error| errors.push(pointer, strip_position(&error))).ok()
    }

    /// Takes an optional string whose length in bytes is within `length`.
    pub fn text(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
        errors: &mut FieldErrors,
    ) -> Option<String> {
        let text: String = self.value(name, "a string", errors)?;
        if !length.contains(&text.len()) {
            let (min, max) = length.into_inner();
            let detail = format!("must be {min} to {max} bytes long; has {}", text.len());
            errors.push(self.pointer(name), detail);
            return None;
        }
        if text.contains('\0') {
            errors.push(self.pointer(name), CONTAINS_NUL);
            return None;
        }
        Some(text)
    }

    /// Takes a required string; see [`Object::text`].
    pub fn required_text(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
        errors: &mut FieldErrors,
    ) -> Option<String> {
        self.check_present(name, errors).then(|| self.text(name, length, errors)).flatten()
    }

    /// Takes an optional id or label whose length in bytes is within `length`.
    pub fn name(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
        errors: &mut FieldErrors,
    ) -> Option<Name> {
        let text = self.text(name, length, errors)?;
        let parsed = Name::parse(text);
        if parsed.is_none() {
            errors.push(self.pointer(name), NOT_A_NAME);
        }
        parsed
    }

    /// Takes a required id or label; see [`Object::name`].
    pub fn required_name(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
        errors: &mut FieldErrors,
    ) -> Option<Name> {
        self.check_present(name, errors).then(|| self.name(name, length, errors)).flatten()
    }

    /// Takes an optional integer within `range`.
    pub fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i32>,
        errors: &mut FieldErrors,
    ) -> Option<i32> {
        let value = self.raw(name)?;
        let value = serde_json::from_str(value.get()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let (min, max) = range.into_inner();
            errors.push(self.pointer(name), format!("must be an integer from {min} to {max}"));
        }
        value
    }

    /// Takes an optional object whose members are all strings: the strings by name, borrowed if they have no
    /// escapes.
    pub(crate) fn texts(
        &mut self,
        name: &'static str,
        errors: &mut FieldErrors,
    ) -> Option<BTreeMap<String, Cow<'a, str>>> {
        let object = self.object(name, errors)?;
        let mut texts = BTreeMap::new();
        for (member, value) in &object.members {
            let text = serde_json::from_str::<&'a str>(value.get()).map(Cow::Borrowed);
            match text.or_else(|_| serde_json::from_str(value.get()).map(Cow::Owned)) {
                Ok(text) => {
                    texts.insert(member.clone(), text);
                }
                Err(_) => errors.push(object.pointer(member), "must be a string"),
            }
        }
        Some(texts)
    }

    /// Takes an optional nested object.
    pub fn object(&mut self, name: &'static str, errors: &mut FieldErrors) -> Option<Object<'a>> {
        let value = self.raw(name)?;
        Object::parse(value.get(), &self.pointer(name), errors)
    }

    /// Takes an optional object of at most `max` bytes that is stored without interpretation; see
    /// [`check_storable`].
    pub(crate) fn free_form(
        &mut self,
        name: &'static str,
        max: usize,
        errors: &mut FieldErrors,
    ) -> Option<serde_json::Value> {
        let value = self.peek(name);
        if value.is_some_and(|text| !text.starts_with('{') || text.len() > max) {
            self.raw(name);
            errors.push(self.pointer(name), format!("must be a JSON object of at most {max} bytes"));
            return None;
        }
        self.json(name, errors)
    }

    /// Takes an optional list of at most `max` elements: pointer and text of each. Empty if the field is absent.
    pub(crate) fn list(
        &mut self,
        name: &'static str,
        max: usize,
        errors: &mut FieldErrors,
    ) -> Vec<(String, &'a RawValue)> {
        let Some(value) = self.raw(name) else { return Vec::new() };
        let pointer = self.pointer(name);
        match list_of_at_most(value.get(), max) {
            Ok(values) => {
                values.into_iter().enumerate().map(|(i, value)| (format!("{pointer}/{i}"), value)).collect()
            }
            Err(_) => {
                errors.push(pointer, format!("must be a list of at most {max} elements"));
                Vec::new()
            }
        }
    }

    /// Takes a required list of at most `max` strings. `expected` names it in the error: "must be {expected}".
    pub(crate) fn required_strings(
        &mut self,
        name: &'static str,
        max: usize,
        expected: &str,
        errors: &mut FieldErrors,
    ) -> Option<Vec<String>> {
        if !self.check_present(name, errors) {
            return None;
        }
        let strings = list_of_at_most(self.raw(name)?.get(), max).ok();
        if strings.is_none() {
            errors.push(self.pointer(name), format!("must be {expected}; at most {max}"));
        }
        strings
    }

    /// Returns whether a required field is present and not null, and reports it if it is not.
    pub(crate) fn check_present(&mut self, name: &'static str, errors: &mut FieldErrors) -> bool {
        let present = self.has(name);
        if !present {
            // Takes an explicit null, which is a missing field and not an unknown one.
            self.raw(name);
            errors.push(self.pointer(name), "is required");
        }
        present
    }

    /// Returns whether a field is present and not null.
    pub fn has(&self, name: &str) -> bool {
        self.peek(name).is_some()
    }

    /// Reports every field that was not taken as unknown.
    pub fn finish(self, errors: &mut FieldErrors) {
        for (reported, name) in self.members.keys().enumerate() {
            // A body may hold millions of unknown fields, and each error costs two texts and an edit distance
            // per absent field.
            if errors.is_full() {
                errors.count_unlisted(self.members.len() - reported);
                return;
            }
            let detail = match closest(name, &self.absent) {
                Some(known) => format!("unknown field; did you mean `{known}`?"),
                None => "unknown field".to_owned(),
            };
            errors.push(self.pointer(name), detail);
        }
    }
}

/// Refuses a JSON text that two parsers may read differently (for example a duplicate name at any depth, of which
/// `jsonb` would keep the last), and one that contains U+0000, which Postgres cannot store.
pub(crate) fn check_storable(text: &str, pointer: &str, errors: &mut FieldErrors) -> Option<()> {
    if let Err(refused) = CanonicalForm::parse(text.as_bytes()) {
        errors.push(pointer, refused.to_string());
        return None;
    }
    if text.contains("\\u0000") {
        errors.push(pointer, CONTAINS_NUL);
        return None;
    }
    Some(())
}

/// Parses a list, and stops after `max` elements: a list of ten million that is refused for its length must not be
/// in memory first.
fn list_of_at_most<'de, T: Deserialize<'de>>(text: &'de str, max: usize) -> serde_json::Result<Vec<T>> {
    struct AtMost<T>(usize, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a list of at most {} elements", self.0)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element()? {
                if list.len() == self.0 {
                    return Err(A::Error::invalid_length(list.len() + 1, &self));
                }
                list.push(element);
            }
            Ok(list)
        }
    }
    serde_json::Deserializer::from_str(text).deserialize_seq(AtMost(max, PhantomData))
}

/// Returns serde_json's message without line and column, which are relative to the field.
fn strip_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Returns the candidate closest to a misspelt `name`: at most 2 edits and a third of its letters apart,
/// regardless of case, `_` and `-`.
fn closest(name: &str, candidates: &[&'static str]) -> Option<&'static str> {
    const LONGEST_NAME: usize = 64;
    const MAX_EDITS: usize = 2;
    if name.len() > LONGEST_NAME {
        return None;
    }
    let letters = |name: &str| -> Vec<char> {
        name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
    };
    let name = letters(name);
    let max_edits = MAX_EDITS.min(name.len() / 3);
    candidates
        .iter()
        .map(|candidate| (edit_distance(&name, &letters(candidate)), *candidate))
        .filter(|(edits, _)| *edits <= max_edits)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Returns the Levenshtein distance: the least number of insertions, deletions and substitutions.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str, read: impl FnOnce(&mut Object, &mut FieldErrors)) -> Vec<(String, String)> {
        let mut errors = FieldErrors::default();
        if let Some(mut object) = Object::parse(text, "", &mut errors) {
            read(&mut object, &mut errors);
            object.finish(&mut errors);
        }
        errors.into_vec().into_iter().map(|error| (error.pointer, error.detail)).collect()
    }

    #[test]
    fn an_unknown_field_suggests_the_absent_field_it_resembles() {
        for (sent, suggested) in [
            ("quantization", Some("quantizations")),
            ("vramGB", Some("vram_gb")),
            ("lables", Some("labels")),
            ("quantizations_supported", None),
            ("x", None),
        ] {
            let body = format!("{{{sent:?}: 1}}");
            let found = errors(&body, |object, _| {
                for name in ["vram_gb", "quantizations", "labels"] {
                    object.raw(name);
                }
            });
            let detail = match suggested {
                Some(name) => format!("unknown field; did you mean `{name}`?"),
                None => "unknown field".to_owned(),
            };
            assert_eq!(found, [(format!("/{sent}"), detail)]);
        }
    }

    #[test]
    fn a_field_that_was_sent_is_not_suggested() {
        let found = errors(r#"{"label": "a", "labels": "b"}"#, |object, errors| {
            object.text("label", 1..=9, errors);
        });
        assert_eq!(found, [("/labels".to_owned(), "unknown field".to_owned())]);
    }

    #[test]
    fn errors_name_the_expected_type_and_range() {
        let body = r#"{"a": "24", "b": 101, "c": 1.5, "d": [], "e": "é", "f": {}, "g": []}"#;
        let found = errors(body, |object, errors| {
            object.value::<f64>("a", "a number of GB, such as 24", errors);
            object.integer("b", 0..=100, errors);
            object.integer("c", 0..=100, errors);
            object.object("d", errors);
            object.text("e", 3..=9, errors);
            object.list("f", 10, errors);
            object.required_uuid("g", errors);
            object.required_uuid("h", errors);
        });
        let expected = [
            ("/a", "must be a number of GB, such as 24"),
            ("/b", "must be an integer from 0 to 100"),
            ("/c", "must be an integer from 0 to 100"),
            ("/d", "must be a JSON object"),
            ("/e", "must be 3 to 9 bytes long; has 2"),
            ("/f", "must be a list of at most 10 elements"),
            ("/g", "must be a UUID"),
            ("/h", "is required"),
        ];
        assert_eq!(found, expected.map(|(pointer, detail)| (pointer.to_owned(), detail.to_owned())));
        assert_eq!(errors("[]", |_, _| ()), [(String::new(), "must be a JSON object".to_owned())]);
        let duplicate = errors(r#"{"a": 1, "a": 2}"#, |_, _| ());
        assert_eq!(duplicate, [(String::new(), "the field \"a\" occurs twice; send it once".to_owned())]);
    }
}

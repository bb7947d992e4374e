//! Errors in the fields of a document that a caller sent, each with its JSON Pointer.

use serde::Serialize;

/// One invalid field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) of the field; empty for the whole document.
    pub pointer: String,
    /// What is wrong with the field, and what is expected instead; sent to the caller.
    pub detail: String,
}

/// Detail of an error about U+0000 in a string.
pub(crate) const CONTAINS_NUL: &str = "must not contain U+0000, which the database cannot store";

impl FieldError {
    /// Creates an error at `pointer` (RFC 6901).
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Field errors collected while a document is read.
///
/// Keeps the first [`FieldErrors::LIMIT`] errors and counts the rest: a large document with an error in every
/// element must not produce a response as large as itself.
#[derive(Debug, Default)]
pub struct FieldErrors {
    listed: Vec<FieldError>,
    unlisted: usize,
}

impl FieldErrors {
    /// Maximum number of errors listed. If there are more, one last entry gives the number left out.
    pub const LIMIT: usize = 100;

    /// Adds an error at `pointer` (RFC 6901).
    pub fn push(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.is_full() {
            self.unlisted += 1;
        } else {
            self.listed.push(FieldError::new(pointer, detail));
        }
    }

    /// Counts errors that are not listed, without a pointer and a detail for each.
    pub(crate) fn count_unlisted(&mut self, errors: usize) {
        self.unlisted += errors;
    }

    /// Adds the errors of a nested document at `prefix` (RFC 6901).
    pub fn extend_with_prefix(&mut self, prefix: &str, errors: Vec<FieldError>) {
        for field_error in errors {
            self.push(format!("{prefix}{}", field_error.pointer), field_error.detail);
        }
    }

    /// Returns whether there are no errors.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Returns whether [`FieldErrors::LIMIT`] is reached, so that further errors are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.listed.len() >= Self::LIMIT
    }

    /// Returns whether there is an error at `pointer` or at a descendant of it.
    pub(crate) fn any_at_or_under(&self, pointer: &str) -> bool {
        self.listed.iter().any(|field_error| field_error.pointer.starts_with(pointer))
    }

    /// Returns `value` if there are no errors, and the errors otherwise. `value` may be `None` only if an
    /// error was added.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self.into_vec()),
        }
    }

    /// Returns the errors in the order in which they were added.
    pub fn into_vec(mut self) -> Vec<FieldError> {
        if self.unlisted > 0 {
            self.listed.push(FieldError::new("", format!("{} more errors are not listed", self.unlisted)));
        }
        self.listed
    }
}

/// Escapes a name as a reference token of a JSON Pointer (RFC 6901, section 3). Truncates it like [`quote`],
/// because names come from the caller too.
pub(crate) fn pointer_token(name: &str) -> String {
    truncate(name).replace('~', "~0").replace('/', "~1")
}

/// Quotes a caller's text for use in a detail: escaped, and truncated to 60 characters.
pub(crate) fn quote(text: &str) -> String {
    format!("{:?}", truncate(text))
}

fn truncate(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_and_length_of_listed_errors_is_bounded() {
        let mut errors = FieldErrors::default();
        for index in 0..1000 {
            errors.push(format!("/{index}"), "no");
        }
        let errors = errors.into_vec();
        assert_eq!(errors.len(), FieldErrors::LIMIT + 1);
        assert_eq!(errors[FieldErrors::LIMIT].detail, "900 more errors are not listed");
        assert_eq!(quote(&"é".repeat(1000)).chars().count(), 63);
    }

    #[test]
    fn pointer_tokens_are_escaped_as_in_rfc_6901() {
        assert_eq!(pointer_token("a/b~c"), "a~1b~0c");
    }
}

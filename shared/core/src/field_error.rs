//! What does not fit in a document someone sent: all of it at once, each fault with its place.

use serde::Serialize;

/// One thing that does not fit, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The place, as a JSON Pointer (RFC 6901); empty for the document itself.
    pub pointer: String,
    /// What is wrong there, in words for the sender.
    pub detail: String,
}

impl FieldError {
    /// A fault at `pointer` (RFC 6901).
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// FieldErrors gathered while a document is read.
///
/// At most [`FieldErrors::LIMIT`] are kept and the rest only counted: a large document with a fault in
/// every element must not make an answer as large as itself.
#[derive(Debug, Default)]
pub struct FieldErrors {
    listed: Vec<FieldError>,
    unlisted: usize,
}

impl FieldErrors {
    /// How many faults are told; one more entry then says how many were left out.
    pub const LIMIT: usize = 100;

    /// Notes a fault at `pointer` (RFC 6901).
    pub fn push(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.listed.len() < Self::LIMIT {
            self.listed.push(FieldError::new(pointer, detail));
        } else {
            self.unlisted += 1;
        }
    }

    /// Notes the faults of a part that stands at `at`.
    pub fn extend_with_prefix(&mut self, at: &str, errors: Vec<FieldError>) {
        for field_error in errors {
            self.push(format!("{at}{}", field_error.pointer), field_error.detail);
        }
    }

    /// Whether nothing was found wrong so far.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Whether a fault was noted at `pointer` or below it.
    pub fn any_at_or_under(&self, pointer: &str) -> bool {
        self.listed.iter().any(|field_error| field_error.pointer.starts_with(pointer))
    }

    /// `value`, if nothing was wrong. A value is missing only where a fault was noted.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self.into_vec()),
        }
    }

    /// The faults, in the order in which they were found.
    pub fn into_vec(mut self) -> Vec<FieldError> {
        if self.unlisted > 0 {
            self.listed.push(FieldError::new("", format!("{} more errors are not listed", self.unlisted)));
        }
        self.listed
    }
}

/// A name as one reference token of a JSON Pointer (RFC 6901 section 3), shortened like
/// [`quoted`], because names come from the sender too.
pub(crate) fn pointer_token(name: &str) -> String {
    shortened(name).replace('~', "~0").replace('/', "~1")
}

/// A text of the sender's for use in a detail: quoted, escaped, and cut after 60 characters.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_stays_small() {
        let mut errors = FieldErrors::default();
        for index in 0..1000 {
            errors.push(format!("/{index}"), "no");
        }
        let errors = errors.into_vec();
        assert_eq!(errors.len(), FieldErrors::LIMIT + 1);
        assert_eq!(errors[FieldErrors::LIMIT].detail, "900 more errors are not listed");
        assert_eq!(quoted(&"é".repeat(1000)).chars().count(), 63);
    }

    #[test]
    fn names_are_escaped_as_rfc_6901_says() {
        assert_eq!(pointer_token("a/b~c"), "a~1b~0c");
    }
}

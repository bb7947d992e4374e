//! What does not fit in a document someone sent: all of it at once, each fault with its place.

use serde::Serialize;

/// One thing that does not fit, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The place, as a JSON Pointer (RFC 6901); empty for the document itself.
    pub pointer: String,
    /// What is wrong there, in words for the sender.
    pub detail: String,
}

impl Fault {
    /// A fault at `pointer` (RFC 6901).
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Faults gathered while a document is read.
///
/// At most [`Faults::LIMIT`] are kept and the rest only counted: a large document with a fault in
/// every element must not make an answer as large as itself.
#[derive(Debug, Default)]
pub struct Faults {
    listed: Vec<Fault>,
    unlisted: usize,
}

impl Faults {
    /// How many faults are told; one more entry then says how many were left out.
    pub const LIMIT: usize = 100;

    /// Notes a fault at `pointer` (RFC 6901).
    pub fn push(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.listed.len() < Self::LIMIT {
            self.listed.push(Fault::new(pointer, detail));
        } else {
            self.unlisted += 1;
        }
    }

    /// Notes the faults of a part that stands at `at`.
    pub fn extend_below(&mut self, at: &str, faults: Vec<Fault>) {
        for fault in faults {
            self.push(format!("{at}{}", fault.pointer), fault.detail);
        }
    }

    /// Whether nothing was found wrong so far.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Whether a fault was noted at `pointer` or below it.
    pub fn any_below(&self, pointer: &str) -> bool {
        self.listed.iter().any(|fault| fault.pointer.starts_with(pointer))
    }

    /// `value`, if nothing was wrong. A value is missing only where a fault was noted.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Fault>> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self.into_vec()),
        }
    }

    /// The faults, in the order in which they were found.
    pub fn into_vec(mut self) -> Vec<Fault> {
        if self.unlisted > 0 {
            self.listed.push(Fault::new("", format!("{} more faults are not listed", self.unlisted)));
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
        let mut faults = Faults::default();
        for index in 0..1000 {
            faults.push(format!("/{index}"), "no");
        }
        let faults = faults.into_vec();
        assert_eq!(faults.len(), Faults::LIMIT + 1);
        assert_eq!(faults[Faults::LIMIT].detail, "900 more faults are not listed");
        assert_eq!(quoted(&"é".repeat(1000)).chars().count(), 63);
    }

    #[test]
    fn names_are_escaped_as_rfc_6901_says() {
        assert_eq!(pointer_token("a/b~c"), "a~1b~0c");
    }
}

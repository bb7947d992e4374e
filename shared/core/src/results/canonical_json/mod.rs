//! The canonical form of a JSON text, which the harness signs.
//!
//! It is the output of Python's `json.dumps(x, sort_keys=True, separators=(",", ":"))`: no white space,
//! members sorted by the code points of their names, non-ASCII characters escaped, floats as in Python's
//! `repr`, integers of any size digit for digit. It is computed from the received text and not from parsed
//! values, because a general JSON library may not preserve the digits that were signed.
//!
//! The parser is stricter than Python's. A text that two parsers may read differently has no canonical form:
//! duplicate names, lone surrogates, `NaN` and `Infinity`, numbers beyond the range of a double, and nesting
//! deeper than [`MAX_NESTING`] are refused.

mod reader;
mod spelling;

use std::ops::Range;

use sha2::{Digest, Sha256};

use reader::Reader;

/// Maximum nesting depth of arrays and objects. The outermost has depth 1.
pub const MAX_NESTING: usize = 128;

/// Maximum number of digits of an integer: the limit of Python's parser
/// (`sys.int_info.default_max_str_digits`), so the harness cannot have signed a longer one.
pub const MAX_INTEGER_DIGITS: usize = 4300;

/// Significant digits of a number that Python's `repr` of a float never exceeds. Up to 19 digits a decimal is converted
/// to a double in 30 ns. From there on a text can be chosen for which it takes 100 µs, so that 32 MB of such numbers
/// took 60 s of CPU.
pub const LONG_NUMBER_DIGITS: usize = 17;

/// Maximum number of longer numbers (integers: of more than [`LONG_INTEGER_DIGITS`]) in a text. They cost at most 0.1 s
/// of CPU.
pub const MAX_LONG_NUMBERS: usize = 1000;

/// Digits of an integer that counts as long. Seeds and hashes are shorter; readers of a result convert it to a double.
pub const LONG_INTEGER_DIGITS: usize = 40;

/// The canonical form of one JSON text.
#[derive(Debug)]
pub struct CanonicalForm {
    /// The canonical spelling of every value, with members in the order received.
    received_order: Vec<u8>,
    /// Objects whose members were received out of order, by start offset. Members are reordered once, when the
    /// form is written. Reordering as each object closes would copy the innermost bytes once per nesting level.
    unsorted: Vec<UnsortedObject>,
    /// Spans of the members of all unsorted objects, sorted within each object.
    members: Vec<Range<usize>>,
}

/// A JSON text that has a canonical form, so that all parsers read it alike.
#[derive(Clone, Copy, Debug)]
pub struct CanonicalJson<'a>(&'a str);

#[derive(Debug)]
struct UnsortedObject {
    /// Span in `received_order`.
    span: Range<usize>,
    /// Range in [`CanonicalForm::members`].
    members: Range<usize>,
}

/// Why a text has no canonical form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (byte {offset})")]
pub struct NotCanonical {
    /// The reason.
    pub reason: Reason,
    /// Offset of the error in the text, in bytes.
    pub offset: usize,
}

/// Reasons why a JSON text has no canonical form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The text is not UTF-8 (RFC 8259, section 8.1).
    #[error("not UTF-8")]
    NotUtf8,
    /// The text begins with a byte order mark (RFC 8259, section 8.1).
    #[error("begins with a byte order mark")]
    ByteOrderMark,
    /// A syntax error (RFC 8259); the value names what was expected.
    #[error("not JSON: expected {0}")]
    Syntax(&'static str),
    /// An object has two members of the same name, which is the value, truncated.
    #[error("duplicate key {0}")]
    DuplicateKey(String),
    /// An escape for half of a surrogate pair.
    #[error("lone surrogate")]
    LoneSurrogate,
    /// A number beyond the range of a double, which Python would read as infinity.
    #[error("number beyond the range of a double")]
    NumberOutOfRange,
    /// An integer has more than [`MAX_INTEGER_DIGITS`] digits.
    #[error("integer of more than {MAX_INTEGER_DIGITS} digits")]
    IntegerTooLong,
    /// The text has more than [`MAX_LONG_NUMBERS`] numbers of more digits than Python writes.
    #[error("more than {MAX_LONG_NUMBERS} numbers of more than {LONG_NUMBER_DIGITS} digits")]
    TooManyLongNumbers,
    /// The nesting is deeper than [`MAX_NESTING`].
    #[error("nested more than {MAX_NESTING} levels deep")]
    NestedTooDeep,
}

impl CanonicalForm {
    /// Parses one JSON text (RFC 8259).
    ///
    /// Takes time linear in the length of the text, except for sorting members. Takes memory of up to about
    /// five times the text for the spelling (`1e15` becomes `1000000000000000.0`), and 32 bytes for each member
    /// of an object that is open or unsorted.
    ///
    /// # Errors
    ///
    /// The first reason why the text has no canonical form.
    pub fn parse(text: &[u8]) -> Result<Self, NotCanonical> {
        let text = std::str::from_utf8(text)
            .map_err(|error| NotCanonical { reason: Reason::NotUtf8, offset: error.valid_up_to() })?;
        let mut form = Reader::new(text).read()?;
        form.unsorted.sort_unstable_by_key(|object| object.span.start);
        Ok(form)
    }

    /// Returns the SHA-256 of the canonical form.
    pub fn sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        self.write(0..self.received_order.len(), &mut |bytes| digest.update(bytes));
        digest.finalize().into()
    }

    /// Returns the canonical form, which is ASCII.
    pub fn bytes(&self) -> Vec<u8> {
        let mut form = Vec::with_capacity(self.received_order.len());
        self.write(0..self.received_order.len(), &mut |bytes| form.extend_from_slice(bytes));
        form
    }

    /// Writes a span of `received_order` with the members of its unsorted objects sorted. Recursion depth is at
    /// most [`MAX_NESTING`].
    fn write(&self, span: Range<usize>, sink: &mut impl FnMut(&[u8])) {
        let mut at = span.start;
        while let Some(object) = self.next_unsorted(at).filter(|object| object.span.start < span.end) {
            sink(&self.received_order[at..object.span.start]);
            let mut separator = b"{";
            for member in &self.members[object.members.clone()] {
                sink(separator);
                self.write(member.clone(), sink);
                separator = b",";
            }
            sink(b"}");
            at = object.span.end;
        }
        sink(&self.received_order[at..span.end]);
    }

    fn next_unsorted(&self, from: usize) -> Option<&UnsortedObject> {
        self.unsorted.get(self.unsorted.partition_point(|object| object.span.start < from))
    }
}

impl<'a> CanonicalJson<'a> {
    /// Parses a text.
    ///
    /// # Errors
    ///
    /// As [`CanonicalForm::parse`].
    pub fn parse(text: &'a str) -> Result<Self, NotCanonical> {
        CanonicalForm::parse(text.as_bytes()).map(|_| Self(text))
    }

    /// Parses a text, and returns it with the SHA-256 of its canonical form.
    ///
    /// # Errors
    ///
    /// As [`CanonicalForm::parse`].
    pub fn parse_with_sha256(text: &'a str) -> Result<(Self, [u8; 32]), NotCanonical> {
        let form = CanonicalForm::parse(text.as_bytes())?;
        Ok((Self(text), form.sha256()))
    }

    /// Returns the text as received.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

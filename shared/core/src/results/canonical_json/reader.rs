//! Parses a JSON text and writes its canonical spelling in one pass.

use super::spelling::{write_escaped, write_float};
use super::{
    CanonicalForm, LONG_INTEGER_DIGITS, LONG_NUMBER_DIGITS, MAX_INTEGER_DIGITS, MAX_LONG_NUMBERS,
    MAX_NESTING, NotCanonical, Reason, UnsortedObject,
};
use crate::field_error::quote;
use std::ops::Range;

pub(super) struct Reader<'t> {
    text: &'t str,
    /// Offset of the next byte to read.
    at: usize,
    form: CanonicalForm,
    /// Members of the open objects, those of the innermost object last.
    members: Vec<Member>,
    /// Decoded names of those members, concatenated. Comparing UTF-8 bytes orders names by code point.
    names: Vec<u8>,
    /// Scratch buffer for the digits of a float, kept to save an allocation for each.
    digits: String,
    /// Numbers read so far that are slow to convert.
    long_numbers: usize,
}

struct Member {
    /// Range in [`Reader::names`].
    name: Range<usize>,
    /// Span of name and value in `received_order`.
    span: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StringKind {
    Name,
    Value,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let form = CanonicalForm {
            received_order: Vec::with_capacity(text.len()),
            unsorted: Vec::new(),
            members: Vec::new(),
        };
        Self {
            text,
            at: 0,
            form,
            members: Vec::new(),
            names: Vec::new(),
            digits: String::new(),
            long_numbers: 0,
        }
    }

    /// Reads the whole text. The unsorted objects of the form are in the order in which they closed.
    pub(super) fn read(mut self) -> Result<CanonicalForm, NotCanonical> {
        self.document()?;
        Ok(self.form)
    }

    fn document(&mut self) -> Result<(), NotCanonical> {
        if self.text.starts_with('\u{feff}') {
            return self.refuse(Reason::ByteOrderMark);
        }
        self.skip_space();
        self.value(0)?;
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => self.refuse(Reason::Syntax("the end of the text")),
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), NotCanonical> {
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string(StringKind::Value),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.refuse(Reason::Syntax("a value")),
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), NotCanonical> {
        if !self.text[self.at..].starts_with(word) {
            return self.refuse(Reason::Syntax("a value"));
        }
        self.at += word.len();
        self.form.received_order.extend_from_slice(word.as_bytes());
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), NotCanonical> {
        self.open(depth, b'[')?;
        if self.close(b']') {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.skip_space();
            if self.close(b']') {
                return Ok(());
            }
            self.punctuation(b',', "`,` or `]`")?;
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), NotCanonical> {
        let start = self.form.received_order.len();
        let first_member = self.members.len();
        let first_name = self.names.len();
        self.open(depth, b'{')?;
        if self.close(b'}') {
            return Ok(());
        }
        loop {
            self.member(depth + 1)?;
            self.skip_space();
            if self.close(b'}') {
                break;
            }
            self.punctuation(b',', "`,` or `}`")?;
        }
        self.sort(first_member, start)?;
        self.members.truncate(first_member);
        self.names.truncate(first_name);
        Ok(())
    }

    fn member(&mut self, depth: usize) -> Result<(), NotCanonical> {
        if self.peek() != Some(b'"') {
            return self.refuse(Reason::Syntax("a key in quotes"));
        }
        let start = self.form.received_order.len();
        let name = self.names.len();
        self.string(StringKind::Name)?;
        let name = name..self.names.len();
        self.skip_space();
        self.punctuation(b':', "`:`")?;
        self.value(depth)?;
        self.members.push(Member { name, span: start..self.form.received_order.len() });
        Ok(())
    }

    /// Sorts the members of the object that just closed, and refuses duplicate names.
    fn sort(&mut self, first_member: usize, start: usize) -> Result<(), NotCanonical> {
        let names = &self.names;
        let members = &mut self.members[first_member..];
        let name = |member: &Member| &names[member.name.clone()];
        if members.is_sorted_by(|a, b| name(a) < name(b)) {
            return Ok(());
        }
        members.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        if let Some(duplicates) = members.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
            let name = quote(&String::from_utf8_lossy(name(&duplicates[0])));
            return self.refuse(Reason::DuplicateKey(name));
        }
        let first = self.form.members.len();
        self.form.members.extend(members.iter().map(|member| member.span.clone()));
        self.form.unsorted.push(UnsortedObject {
            span: start..self.form.received_order.len(),
            members: first..self.form.members.len(),
        });
        Ok(())
    }

    fn string(&mut self, kind: StringKind) -> Result<(), NotCanonical> {
        self.form.received_order.push(b'"');
        self.at += 1;
        loop {
            self.plain_run(kind);
            let character = match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(0..0x20) => {
                    return self.refuse(Reason::Syntax("an escape for a control character"));
                }
                Some(_) => self.character(),
                None => return self.refuse(Reason::Syntax("the closing quote of a string")),
            };
            if kind == StringKind::Name {
                let mut utf8 = [0; 4];
                self.names.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
            }
            write_escaped(character, &mut self.form.received_order);
        }
        self.form.received_order.push(b'"');
        self.at += 1;
        Ok(())
    }

    /// Copies a run of printable ASCII, whose spelling is already canonical.
    fn plain_run(&mut self, kind: StringKind) {
        let rest = &self.text.as_bytes()[self.at..];
        let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        let length = rest.iter().position(|byte| !plain(byte)).unwrap_or(rest.len());
        self.form.received_order.extend_from_slice(&rest[..length]);
        if kind == StringKind::Name {
            self.names.extend_from_slice(&rest[..length]);
        }
        self.at += length;
    }

    fn character(&mut self) -> char {
        let character = self.text[self.at..].chars().next().unwrap_or_default();
        self.at += character.len_utf8();
        character
    }

    fn escape(&mut self) -> Result<char, NotCanonical> {
        self.at += 1;
        let character = match self.peek() {
            Some(escaped @ (b'"' | b'\\' | b'/')) => char::from(escaped),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return self.refuse(Reason::Syntax("an escape of RFC 8259")),
        };
        self.at += 1;
        Ok(character)
    }

    fn unicode_escape(&mut self) -> Result<char, NotCanonical> {
        let start = self.at - 1;
        let lone = NotCanonical { reason: Reason::LoneSurrogate, offset: start };
        let first = self.utf16_unit()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first.into()).ok_or(lone);
        }
        if !self.text[self.at..].starts_with("\\u") {
            return Err(lone);
        }
        self.at += 1;
        let second = self.utf16_unit()?;
        char::decode_utf16([first, second]).next().and_then(Result::ok).ok_or(lone)
    }

    /// Reads the four digits of a `\u` escape. The next byte to read is its `u`.
    fn utf16_unit(&mut self) -> Result<u16, NotCanonical> {
        self.at += 1;
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return self.refuse(Reason::Syntax("four hexadecimal digits"));
        }
        let unit = digits.iter().filter_map(|digit| char::from(*digit).to_digit(16));
        let unit = unit.fold(0, |unit, digit| unit << 4 | digit as u16);
        self.at += 4;
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), NotCanonical> {
        let start = self.at;
        self.eat(b'-');
        let first_digit = self.at;
        if !self.eat(b'0') {
            self.digits()?;
        }
        let digits = self.at - first_digit;
        let mut float = false;
        if self.eat(b'.') {
            float = true;
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            float = true;
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        let spelling = &self.text[start..self.at];
        let is_long = if float {
            has_more_digits_than(spelling, LONG_NUMBER_DIGITS)
        } else {
            digits > LONG_INTEGER_DIGITS
        };
        self.long_numbers += usize::from(is_long);
        if self.long_numbers > MAX_LONG_NUMBERS {
            return Err(NotCanonical { reason: Reason::TooManyLongNumbers, offset: start });
        }
        if float {
            return self.float(start, spelling);
        }
        if digits > MAX_INTEGER_DIGITS {
            return Err(NotCanonical { reason: Reason::IntegerTooLong, offset: start });
        }
        let spelling = if spelling == "-0" { "0" } else { spelling };
        self.form.received_order.extend_from_slice(spelling.as_bytes());
        Ok(())
    }

    fn float(&mut self, start: usize, spelling: &str) -> Result<(), NotCanonical> {
        match spelling.parse::<f64>() {
            Ok(value) if value.is_finite() => {
                write_float(value, &mut self.digits, &mut self.form.received_order);
                Ok(())
            }
            _ => Err(NotCanonical { reason: Reason::NumberOutOfRange, offset: start }),
        }
    }

    fn digits(&mut self) -> Result<(), NotCanonical> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.refuse(Reason::Syntax("a digit")) } else { Ok(()) }
    }

    fn open(&mut self, depth: usize, bracket: u8) -> Result<(), NotCanonical> {
        if depth == MAX_NESTING {
            return self.refuse(Reason::NestedTooDeep);
        }
        self.punctuation(bracket, "a value")
    }

    fn close(&mut self, bracket: u8) -> bool {
        let closes = self.eat(bracket);
        if closes {
            self.form.received_order.push(bracket);
        }
        closes
    }

    fn punctuation(&mut self, byte: u8, expected: &'static str) -> Result<(), NotCanonical> {
        if !self.eat(byte) {
            return self.refuse(Reason::Syntax(expected));
        }
        self.form.received_order.push(byte);
        self.skip_space();
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn refuse<T>(&self, reason: Reason) -> Result<T, NotCanonical> {
        Err(NotCanonical { reason, offset: self.at })
    }
}

/// Returns whether a number has more significant digits than `limit`, trailing zeros included.
fn has_more_digits_than(spelling: &str, limit: usize) -> bool {
    let mantissa = spelling.split(['e', 'E']).next().unwrap_or_default();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0');
    // Most numbers are shorter than the limit as a whole.
    mantissa.len() > limit && digits.count() > limit
}

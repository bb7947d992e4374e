//! The canonical form of a JSON text: what the harness signs.
//!
//! It is what Python writes for `json.dumps(x, sort_keys=True, separators=(",", ":"))`: no white
//! space, members sorted by the code points of their names, everything beyond ASCII escaped, floats
//! as Python's `repr`, integers of any size digit for digit. It is computed from the received text
//! itself, because a number that has passed through a general JSON library need not come out with
//! the digits that were signed.
//!
//! The reader is stricter than Python's. A text that two parsers may read differently has no
//! canonical form here: duplicate names, lone surrogates, `NaN` and `Infinity`, numbers beyond the
//! range of a double, and nesting past [`MAX_NESTING`] are all refused.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::field_error::quote;

/// How deep arrays and objects may be nested, the outermost counted as 1.
pub const MAX_NESTING: usize = 128;

/// How many digits an integer may have. Python refuses to read longer ones
/// (`sys.int_info.default_max_str_digits`), so no harness can have signed one.
pub const MAX_INTEGER_DIGITS: usize = 4300;

/// The canonical form of one JSON text.
#[derive(Debug)]
pub struct CanonicalForm {
    /// Every value in its canonical spelling, members still in the order received.
    received_order: Vec<u8>,
    /// The objects whose members have to move, by where they start. Moving them once, while the form
    /// is written out, keeps the work linear: moving them as each object closes would copy the
    /// innermost bytes once for every level of nesting around them.
    unsorted: Vec<Unsorted>,
    /// The members of the unsorted objects, each object's in sorted order.
    members: Vec<Range<usize>>,
}

/// A JSON text that has a canonical form, and in which every parser therefore reads the same.
#[derive(Clone, Copy, Debug)]
pub struct CanonicalJson<'a>(&'a str);

#[derive(Debug)]
struct Unsorted {
    span: Range<usize>,
    members: Range<usize>,
}

/// Why a text has no canonical form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (byte {offset})")]
pub struct NotCanonical {
    /// What is wrong.
    pub reason: Reason,
    /// Where, in bytes from the start of the text.
    pub offset: usize,
}

/// What keeps a text from having a canonical form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Not UTF-8, as RFC 8259 section 8.1 demands.
    #[error("not UTF-8")]
    NotUtf8,
    /// Begins with a byte order mark (RFC 8259 section 8.1).
    #[error("begins with a byte order mark")]
    ByteOrderMark,
    /// Not the grammar of RFC 8259; the text says what was expected instead.
    #[error("not JSON: expected {0}")]
    Syntax(&'static str),
    /// One name twice in one object; the name, shortened.
    #[error("duplicate key {0}")]
    DuplicateKey(String),
    /// Half of a surrogate pair, which is no character.
    #[error("lone surrogate")]
    LoneSurrogate,
    /// Beyond the range of a double: Python would read infinity.
    #[error("number out of range")]
    NumberOutOfRange,
    /// An integer longer than [`MAX_INTEGER_DIGITS`].
    #[error("integer of more than {MAX_INTEGER_DIGITS} digits")]
    IntegerTooLong,
    /// Nested deeper than [`MAX_NESTING`].
    #[error("nested more than {MAX_NESTING} deep")]
    NestedTooDeep,
}

impl CanonicalForm {
    /// Reads one JSON text (RFC 8259).
    ///
    /// Time is linear in the length of the text, but for the sorting of members. Memory is at most
    /// about five times the text for the spelling (`1e15` becomes `1000000000000000.0`) and 32 bytes
    /// for each member of an object that is open or unsorted.
    ///
    /// # Errors
    ///
    /// The first thing that keeps the text from having a canonical form.
    pub fn of(text: &[u8]) -> Result<Self, NotCanonical> {
        let text = std::str::from_utf8(text)
            .map_err(|error| NotCanonical { reason: Reason::NotUtf8, offset: error.valid_up_to() })?;
        let mut reader = Reader {
            text,
            at: 0,
            form: Self {
                received_order: Vec::with_capacity(text.len()),
                unsorted: Vec::new(),
                members: Vec::new(),
            },
            members: Vec::new(),
            names: Vec::new(),
            digits: String::new(),
        };
        reader.document()?;
        let mut form = reader.form;
        form.unsorted.sort_unstable_by_key(|object| object.span.start);
        Ok(form)
    }

    /// The SHA-256 of the canonical form.
    pub fn sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        self.write(0..self.received_order.len(), &mut |bytes| digest.update(bytes));
        digest.finalize().into()
    }

    /// The canonical form itself: ASCII.
    pub fn bytes(&self) -> Vec<u8> {
        let mut form = Vec::with_capacity(self.received_order.len());
        self.write(0..self.received_order.len(), &mut |bytes| form.extend_from_slice(bytes));
        form
    }

    /// Writes a span with the members of its unsorted objects in order. Recursion is bounded by
    /// [`MAX_NESTING`].
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

    fn next_unsorted(&self, from: usize) -> Option<&Unsorted> {
        self.unsorted.get(self.unsorted.partition_point(|object| object.span.start < from))
    }
}

impl<'a> CanonicalJson<'a> {
    /// Checks a text.
    ///
    /// # Errors
    ///
    /// As [`CanonicalForm::of`].
    pub fn of(text: &'a str) -> Result<Self, NotCanonical> {
        CanonicalForm::of(text.as_bytes()).map(|_| Self(text))
    }

    /// Checks a text, and says the SHA-256 of its canonical form.
    ///
    /// # Errors
    ///
    /// As [`CanonicalForm::of`].
    pub fn with_sha256(text: &'a str) -> Result<(Self, [u8; 32]), NotCanonical> {
        let form = CanonicalForm::of(text.as_bytes())?;
        Ok((Self(text), form.sha256()))
    }

    /// The text as received.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    form: CanonicalForm,
    /// Members of the objects still open, the innermost object's last.
    members: Vec<Member>,
    /// The decoded names of those members, one after the other. UTF-8 sorts by code point as it is.
    names: Vec<u8>,
    /// Where a float's digits are put together; kept to save an allocation for each.
    digits: String,
}

struct Member {
    name: Range<usize>,
    span: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    Name,
    Value,
}

impl Reader<'_> {
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
            Some(b'"') => self.string(Text::Value),
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
        self.string(Text::Name)?;
        let name = name..self.names.len();
        self.skip_space();
        self.punctuation(b':', "`:`")?;
        self.value(depth)?;
        self.members.push(Member { name, span: start..self.form.received_order.len() });
        Ok(())
    }

    /// Puts the members of the object that just closed in order, unless they came in order.
    fn sort(&mut self, first_member: usize, start: usize) -> Result<(), NotCanonical> {
        let names = &self.names;
        let members = &mut self.members[first_member..];
        let name = |member: &Member| &names[member.name.clone()];
        if members.is_sorted_by(|a, b| name(a) < name(b)) {
            return Ok(());
        }
        members.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        if let Some(twice) = members.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
            let name = quote(&String::from_utf8_lossy(name(&twice[0])));
            return self.refuse(Reason::DuplicateKey(name));
        }
        let first = self.form.members.len();
        self.form.members.extend(members.iter().map(|member| member.span.clone()));
        self.form.unsorted.push(Unsorted {
            span: start..self.form.received_order.len(),
            members: first..self.form.members.len(),
        });
        Ok(())
    }

    fn string(&mut self, kind: Text) -> Result<(), NotCanonical> {
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
            if kind == Text::Name {
                let mut utf8 = [0; 4];
                self.names.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
            }
            write_escaped(character, &mut self.form.received_order);
        }
        self.form.received_order.push(b'"');
        self.at += 1;
        Ok(())
    }

    /// Copies what reads and is written the same: printable ASCII.
    fn plain_run(&mut self, kind: Text) {
        let rest = &self.text.as_bytes()[self.at..];
        let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        let length = rest.iter().position(|byte| !plain(byte)).unwrap_or(rest.len());
        self.form.received_order.extend_from_slice(&rest[..length]);
        if kind == Text::Name {
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
            _ => return self.refuse(Reason::Syntax("an escape RFC 8259 knows")),
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

    /// The four digits after a `u`, at which the reader stands.
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

/// A character as Python's `json.dumps` writes it with `ensure_ascii`.
fn write_escaped(character: char, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        ' '..='~' => out.push(character as u8),
        _ => {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let digit = |shift: u32| HEX[usize::from(*unit >> shift & 0xf)];
                out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
            }
        }
    }
}

/// A finite float as Python's `repr`: the shortest digits that read back as the same double and of
/// those the nearest to it, in fixed notation for decimal exponents from -4 to 15, else with an
/// exponent of at least two digits.
///
/// The digits are `zmij`'s. The standard library's differ where two candidates are equally near:
/// for 1527226381121439.25 it ends in 3, Python in the even 2.
fn write_float(value: f64, digits: &mut String, out: &mut Vec<u8>) {
    let mut shortest = zmij::Buffer::new();
    let shortest = shortest.format_finite(value.abs());
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits.clear();
    digits.push_str(whole);
    digits.push_str(fraction);
    let significant = digits.trim_start_matches('0');
    let leading_zeros = digits.len() - significant.len();
    let significant = significant.trim_end_matches('0');
    if significant.is_empty() {
        return out.extend_from_slice(b"0.0");
    }
    let exponent: i32 = exponent.parse().expect("an exponent is written in decimal digits");
    let exponent = exponent + whole.len() as i32 - 1 - leading_zeros as i32;
    if (-4..16).contains(&exponent) {
        write_fixed(significant.as_bytes(), exponent, out);
    } else {
        write_scientific(significant, exponent, out);
    }
}

fn write_fixed(digits: &[u8], exponent: i32, out: &mut Vec<u8>) {
    let zeros = |count: i32| std::iter::repeat_n(b'0', count as usize);
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(zeros(-exponent - 1));
        return out.extend_from_slice(digits);
    }
    let point = exponent + 1;
    let (whole, fraction) = digits.split_at(digits.len().min(point as usize));
    out.extend_from_slice(whole);
    out.extend(zeros(point - whole.len() as i32));
    out.push(b'.');
    out.extend_from_slice(if fraction.is_empty() { b"0" } else { fraction });
}

fn write_scientific(digits: &str, exponent: i32, out: &mut Vec<u8>) {
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    let text = format!("{first}{point}{rest}e{sign}{:02}", exponent.unsigned_abs());
    out.extend_from_slice(text.as_bytes());
}

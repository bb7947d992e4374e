//! The canonical form once more, in the most obvious way: read into a tree, sort, write. It shares no code with
//! the service's reader, which computes the form from the text in one pass.

use std::collections::BTreeMap;

/// Python's limits, and the service's.
const MAX_NESTING: usize = 128;
const MAX_INTEGER_DIGITS: usize = 4300;
/// The service's: numbers that are slow to convert.
const MAX_LONG_NUMBERS: usize = 1000;

enum Value {
    /// `null`, `true`, `false`, and integers: as written.
    Literal(String),
    Float(f64),
    String(String),
    Array(Vec<Value>),
    Object(BTreeMap<String, Value>),
}

/// Returns the canonical form, or `None` if the text has none.
pub fn canonical_form(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<char> = std::str::from_utf8(text).ok()?.chars().collect();
    let mut reader = Reader { text: &text, at: 0, long_numbers: 0 };
    let value = reader.value(0)?;
    reader.space();
    (reader.at == text.len()).then(|| {
        let mut form = String::new();
        write(&value, &mut form);
        form.into_bytes()
    })
}

struct Reader<'a> {
    text: &'a [char],
    at: usize,
    long_numbers: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += 1;
        Some(character)
    }

    fn expect(&mut self, character: char) -> Option<()> {
        (self.next()? == character).then_some(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.space();
        match self.peek()? {
            '{' => self.object(depth),
            '[' => self.array(depth),
            '"' => self.string().map(Value::String),
            't' => self.literal("true"),
            'f' => self.literal("false"),
            'n' => self.literal("null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, word: &str) -> Option<Value> {
        for character in word.chars() {
            self.expect(character)?;
        }
        Some(Value::Literal(word.to_owned()))
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        if depth == MAX_NESTING {
            return None;
        }
        self.expect('[')?;
        let mut values = Vec::new();
        self.space();
        if self.peek()? == ']' {
            self.at += 1;
            return Some(Value::Array(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            self.space();
            match self.next()? {
                ',' => {}
                ']' => return Some(Value::Array(values)),
                _ => return None,
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        if depth == MAX_NESTING {
            return None;
        }
        self.expect('{')?;
        let mut members = BTreeMap::new();
        self.space();
        if self.peek()? == '}' {
            self.at += 1;
            return Some(Value::Object(members));
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.expect(':')?;
            let value = self.value(depth + 1)?;
            if members.insert(name, value).is_some() {
                return None;
            }
            self.space();
            match self.next()? {
                ',' => {}
                '}' => return Some(Value::Object(members)),
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        self.expect('"')?;
        let mut units: Vec<u16> = Vec::new();
        loop {
            match self.next()? {
                '"' => return String::from_utf16(&units).ok(),
                '\\' => units.push(match self.next()? {
                    '"' => 0x22,
                    '\\' => 0x5c,
                    '/' => 0x2f,
                    'b' => 0x08,
                    'f' => 0x0c,
                    'n' => 0x0a,
                    'r' => 0x0d,
                    't' => 0x09,
                    'u' => self.hexadecimal()?,
                    _ => return None,
                }),
                '\0'..='\u{1f}' => return None,
                character => units.extend_from_slice(character.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn hexadecimal(&mut self) -> Option<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            unit = unit * 16 + u16::try_from(self.next()?.to_digit(16)?).ok()?;
        }
        Some(unit)
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
    fn number(&mut self) -> Option<Value> {
        let start = self.at;
        if self.peek() == Some('-') {
            self.at += 1;
        }
        let whole = self.digits()?;
        if whole.len() > 1 && whole.starts_with('0') {
            return None;
        }
        let mut float = false;
        if self.peek() == Some('.') {
            float = true;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            float = true;
            self.at += 1;
            if matches!(self.peek(), Some('+' | '-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let spelling: String = self.text[start..self.at].iter().collect();
        let mantissa = spelling.split(['e', 'E']).next()?.replace(['-', '.'], "");
        let is_long = mantissa.trim_start_matches('0').len() > if float { 17 } else { 40 };
        self.long_numbers += usize::from(is_long);
        if self.long_numbers > MAX_LONG_NUMBERS {
            return None;
        }
        if float {
            let value: f64 = spelling.parse().ok()?;
            return value.is_finite().then_some(Value::Float(value));
        }
        if whole.len() > MAX_INTEGER_DIGITS {
            return None;
        }
        Some(Value::Literal(if spelling == "-0" { "0".to_owned() } else { spelling }))
    }

    fn digits(&mut self) -> Option<String> {
        let start = self.at;
        while self.peek().is_some_and(|character| character.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then(|| self.text[start..self.at].iter().collect())
    }
}

fn write(value: &Value, form: &mut String) {
    match value {
        Value::Literal(text) => form.push_str(text),
        Value::Float(value) => form.push_str(&python_repr(*value)),
        Value::String(text) => write_string(text, form),
        Value::Array(values) => {
            form.push('[');
            for (n, value) in values.iter().enumerate() {
                if n > 0 {
                    form.push(',');
                }
                write(value, form);
            }
            form.push(']');
        }
        Value::Object(members) => {
            form.push('{');
            for (n, (name, value)) in members.iter().enumerate() {
                if n > 0 {
                    form.push(',');
                }
                write_string(name, form);
                form.push(':');
                write(value, form);
            }
            form.push('}');
        }
    }
}

fn write_string(text: &str, form: &mut String) {
    form.push('"');
    for unit in text.encode_utf16() {
        match unit {
            0x22 => form.push_str("\\\""),
            0x5c => form.push_str("\\\\"),
            0x0a => form.push_str("\\n"),
            0x0d => form.push_str("\\r"),
            0x09 => form.push_str("\\t"),
            0x08 => form.push_str("\\b"),
            0x0c => form.push_str("\\f"),
            0x20..=0x7e => form.push(char::from(unit as u8)),
            _ => form.push_str(&format!("\\u{unit:04x}")),
        }
    }
    form.push('"');
}

/// `repr` of a Python float: the shortest digits that read back as the same value and, of those, the nearest;
/// of two equally near, the even one.
fn python_repr(value: f64) -> String {
    if value == 0.0 {
        return if value.is_sign_negative() { "-0.0" } else { "0.0" }.to_owned();
    }
    // Rounds correctly, half to even, so the first precision that reads back is the shortest and the nearest.
    let shortest = (0..=17).map(|digits| format!("{:.*e}", digits, value.abs()));
    let shortest = shortest.into_iter().find(|text| text.parse() == Ok(value.abs())).expect("17 digits suffice");
    let (mantissa, exponent) = shortest.split_once('e').expect("scientific notation");
    let exponent: i32 = exponent.parse().expect("an exponent");
    let digits = mantissa.replace('.', "");
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    let sign = if value < 0.0 { "-" } else { "" };
    if !(-4..16).contains(&exponent) {
        let point = if digits.len() > 1 { "." } else { "" };
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{}{point}{}e{exponent_sign}{:02}", &digits[..1], &digits[1..], exponent.abs());
    }
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(usize::try_from(-exponent - 1).expect("positive")));
    }
    let whole = usize::try_from(exponent).expect("positive") + 1;
    let padded = format!("{digits:0<whole$}");
    let fraction = &padded[whole..];
    format!("{sign}{}.{}", &padded[..whole], if fraction.is_empty() { "0" } else { fraction })
}

//! Spells strings and floats as Python's `json.dumps` does.

/// Writes a character of a string as Python's `json.dumps` does with `ensure_ascii`.
pub(super) fn write_escaped(character: char, out: &mut Vec<u8>) {
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

/// Writes a finite float as Python's `repr` does: the shortest digits that parse to the same double, and of those
/// the nearest to it. Decimal exponents from -4 to 15 are in fixed notation, others have an exponent of at least
/// two digits.
///
/// Uses `zmij` for the digits, because the standard library resolves a tie between two nearest candidates
/// differently: 1527226381121439.25 ends in 3, and in Python in the even digit 2.
pub(super) fn write_float(value: f64, digits: &mut String, out: &mut Vec<u8>) {
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
    let exponent: i32 = exponent.parse().expect("zmij writes exponents in decimal digits");
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

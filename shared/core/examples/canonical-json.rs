//! Prints the SHA-256 of JSON texts' canonical forms. Each line of standard input is a JSON string that contains a
//! JSON text. For each, one line of output has the digest in hexadecimal, or `refused: ` and the reason.
//!
//! ```text
//! $ echo '"{\"b\": 1e5, \"a\": \"\u00e9\"}"' | cargo run -q -p bakeoff-core --example canonical-json
//! ```

use std::io::{self, BufRead, BufWriter, Write};

use bakeoff_core::results::canonical_json::CanonicalForm;

fn main() -> io::Result<()> {
    let mut output = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().split(b'\n') {
        writeln!(output, "{}", digest_line(&line?))?;
    }
    output.flush()
}

fn digest_line(line: &[u8]) -> String {
    let text: String = match serde_json::from_slice(line) {
        Ok(text) => text,
        Err(error) => return format!("refused: the line is not a JSON string: {error}"),
    };
    match CanonicalForm::parse(text.as_bytes()) {
        Ok(form) => form.sha256().iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(reason) => format!("refused: {reason}"),
    }
}

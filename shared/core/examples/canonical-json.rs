//! The canonical form's digest, for anyone to try: each line of standard input is a JSON string that
//! holds a JSON text; the answer, a line each, is the SHA-256 of the text's canonical form in hex, or
//! `refused: ` and why.
//!
//! ```text
//! $ echo '"{\"b\": 1e5, \"a\": \"\u00e9\"}"' | cargo run -q -p bakeoff-core --example canonical-json
//! ```

use std::io::{self, BufRead, BufWriter, Write};

use bakeoff_core::results::canonical_json::CanonicalForm;

fn main() -> io::Result<()> {
    let mut answers = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().split(b'\n') {
        writeln!(answers, "{}", answer(&line?))?;
    }
    answers.flush()
}

fn answer(line: &[u8]) -> String {
    let text: String = match serde_json::from_slice(line) {
        Ok(text) => text,
        Err(error) => return format!("refused: the line is not a JSON string: {error}"),
    };
    match CanonicalForm::parse(text.as_bytes()) {
        Ok(form) => form.sha256().iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(why) => format!("refused: {why}"),
    }
}

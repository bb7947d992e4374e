//! What ids and labels may contain: the one rule for every text that people read in lists, logs and terminals.

use std::fmt;
use std::ops::Deref;

/// An id or a label: a text that shows as what it is.
///
/// It holds no control character (a terminal obeys those, a log line ends at some), no bidirectional or other
/// invisible formatting character (`a` followed by U+200B reads as `a`, and a right-to-left override turns a text
/// around), and no space at its ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is not a [`Name`].
pub(crate) const NOT_A_NAME: &str =
    "must be readable text: no control or invisible formatting characters, no space at either end";

impl Name {
    /// Checks a text.
    pub fn parse(text: String) -> Option<Self> {
        let readable = !text.chars().any(is_unreadable) && text.trim().len() == text.len();
        readable.then_some(Self(text))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// Returns whether the character is a control (category Cc), a separator of lines or paragraphs, or a format
/// character (category Cf) that shows as nothing or moves what stands beside it.
fn is_unreadable(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_shows_as_what_it_is() {
        for good in
            ["bench-01", "bench-01, Anna", "Änna’s Maschine №7", "ベンチ", "a b", "🖥 one", "runner/a:b@c"]
        {
            assert_eq!(Name::parse(good.to_owned()).as_deref(), Some(good));
        }
        for bad in [
            "a\nb",
            "a\tb",
            "a\u{7f}",
            "a\u{9b}31m",
            "\u{202e}a",
            "a\u{2066}b",
            "a\u{200b}",
            "a\u{feff}b",
            "a\u{2028}b",
            " a",
            "a ",
            "\u{a0}a",
            "a\u{e0041}",
        ] {
            assert_eq!(Name::parse(bad.to_owned()), None, "{bad:?}");
        }
    }
}

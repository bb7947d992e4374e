//! A file of the evidence as a reply, whole or in part.

use bakeoff_core::runs::evidence::{Evidence, Part};
use bakeoff_lambda::{Refusal, Reply, Result};

/// Maximum size of a part in bytes: a response of Lambda holds 6 MB, in base64.
pub(crate) const PART_MAX: i32 = 4_500_000;

/// The part that a `Range` header names (RFC 9110 section 14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// No header: the whole file.
    Whole,
    /// A part, cut to [`PART_MAX`].
    Part(Part),
    /// Not a single range of bytes from a first one on.
    Invalid,
}

impl Range {
    /// Reads `bytes=FIRST-LAST` or `bytes=FIRST-`.
    pub(crate) fn parse(header: Option<&str>) -> Self {
        let Some(header) = header else { return Self::Whole };
        let part = header.strip_prefix("bytes=").and_then(|range| {
            let (first, last) = range.split_once('-')?;
            let offset: i32 = first.parse().ok()?;
            let last: i32 = if last.is_empty() { i32::MAX } else { last.parse().ok()? };
            // An i32 of at least 0 each, and so their difference.
            let length = last.checked_sub(offset).filter(|length| *length >= 0 && offset >= 0)?;
            Some(Part { offset, length: length.saturating_add(1).min(PART_MAX) })
        });
        part.map_or(Self::Invalid, Self::Part)
    }

    /// Returns the part to read from the database.
    pub(crate) fn part(self) -> Part {
        match self {
            Self::Part(part) => part,
            Self::Whole | Self::Invalid => Part { offset: 0, length: PART_MAX },
        }
    }

    /// Makes the reply from what was read.
    pub(crate) fn reply(self, read: Evidence) -> Result {
        let Evidence { size, sha256, content, submission_id } = read;
        let reply = match self {
            Self::Invalid => return Err(Refusal::RangeNotSatisfiable { size }),
            Self::Part(_) if content.is_empty() => return Err(Refusal::RangeNotSatisfiable { size }),
            Self::Whole if size > PART_MAX => return Err(Refusal::RangeRequired { size, limit: PART_MAX }),
            Self::Whole => Reply::bytes(200, content),
            Self::Part(Part { offset, .. }) => {
                let last = usize::try_from(offset).unwrap_or_default() + content.len() - 1;
                Reply::bytes(206, content).header("content-range", format!("bytes {offset}-{last}/{size}"))
            }
        };
        Ok(reply
            .header("accept-ranges", "bytes")
            .header("etag", format!("\"{sha256}\""))
            .header("x-submission-id", submission_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_first_byte_and_perhaps_a_last_one() {
        let part = |offset, length| Range::Part(Part { offset, length });
        for (header, range) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=5-9", part(5, 5)),
            ("bytes=7-", part(7, PART_MAX)),
            ("bytes=0-2147483647", part(0, PART_MAX)),
            ("bytes=9-5", Range::Invalid),
            ("bytes=-5", Range::Invalid),
            ("bytes=0-1,3-4", Range::Invalid),
            ("bytes=a-b", Range::Invalid),
            ("lines=0-1", Range::Invalid),
            ("bytes=99999999999-", Range::Invalid),
        ] {
            assert_eq!(Range::parse(Some(header)), range, "{header}");
        }
        assert_eq!(Range::parse(None), Range::Whole);
    }
}

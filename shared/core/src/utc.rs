//! Times inside JSON that Postgres built: parsed, and written again with `Z`, whatever the session's time zone.

use serde::{Deserialize, Deserializer, Serializer};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// Writes RFC 3339 in UTC.
pub(crate) fn serialize<S: Serializer>(
    time: &Option<OffsetDateTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time::serde::rfc3339::option::serialize(time, serializer)
}

/// Reads RFC 3339 of any offset.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OffsetDateTime>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| OffsetDateTime::parse(&text, &Rfc3339).map(|time| time.to_offset(UtcOffset::UTC)))
        .transpose()
        .map_err(serde::de::Error::custom)
}

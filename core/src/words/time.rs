//! Time as it appears in Google's responses, in records and in messages.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since the Unix epoch, UTC.
pub type UnixSeconds = i64;

/// A point in time by both clocks of a machine. The time of day can be set; the time since boot cannot. Two moments
/// therefore show whether the clock was set, or the machine rebooted, between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The time of day.
    pub unix: UnixSeconds,
    /// Seconds since boot, including the time that the machine was suspended (`CLOCK_BOOTTIME`, clock_gettime(2)).
    pub since_boot: i64,
}

/// Formats a time by RFC 3339, in UTC.
pub fn rfc3339(seconds: UnixSeconds) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// Parses a time by RFC 3339, to the second.
pub fn from_rfc3339(text: &str) -> Option<UnixSeconds> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_times_are_written_in_utc_and_read_in_any_time_zone() {
        assert_eq!(rfc3339(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(from_rfc3339("2023-11-14T23:13:20.5+01:00"), Some(1_700_000_000));
        assert_eq!(from_rfc3339("soon"), None);
    }
}

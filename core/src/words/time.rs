//! Time as Google's answers, records and messages have it.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since 1970, UTC.
pub type UnixSeconds = i64;

/// A moment by both clocks of a machine. The time of day can be set, and the time since the boot cannot. So two moments
/// tell whether the clock was set between them, or the machine was started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The time of day.
    pub unix: UnixSeconds,
    /// Seconds since the machine was started, those asleep included (`CLOCK_BOOTTIME`, clock_gettime(2)).
    pub since_boot: i64,
}

/// A time as RFC 3339 has it, in UTC.
pub fn rfc3339(seconds: UnixSeconds) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// The time that a text of RFC 3339 means, to the second.
pub fn from_rfc3339(text: &str) -> Option<UnixSeconds> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_in_utc_and_read_in_any_zone() {
        assert_eq!(rfc3339(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(from_rfc3339("2023-11-14T23:13:20.5+01:00"), Some(1_700_000_000));
        assert_eq!(from_rfc3339("soon"), None);
    }
}

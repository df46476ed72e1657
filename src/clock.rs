//! Time in the protocol and in files, and what to do about a clock that is slow.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use kms_attest::clock::{unix, unix_now};
pub use kms_attest::clock_floor::{ClockBehind, Floor, MAX_BEHIND};

/// Advice to the operator of a machine whose clock is slow.
pub const CLOCK_REMEDY: &str =
    "Set the clock. If it is right and an earlier one was ahead, kmsctl clock-floor lower says so";

/// Unix time in milliseconds.
pub fn unix_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Unix seconds as RFC 3339 in UTC; a time after the year 9999 is the last one before it.
pub fn rfc3339(seconds: u64) -> String {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(seconds).unwrap_or(LAST).min(LAST);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn each_number_of_seconds_has_a_date() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, "9999-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), date, "{seconds}");
        }
    }
}

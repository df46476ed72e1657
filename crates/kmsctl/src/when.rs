//! Times and durations as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Unix seconds as a date, `2026-01-31T12:00:00Z`.
pub(crate) fn at(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// Parses `90s`, `30m`, `8h` or `7d`, between one second and ten years.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    match kms_client::text::duration(text) {
        None => Err("must be a whole number with s, m, h or d behind it, such as 8h".to_owned()),
        Some(duration) if duration.is_zero() || duration > MAX => {
            Err("must be at least 1s and at most 3650d".to_owned())
        }
        Some(duration) => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_bounds() {
        for (text, seconds) in
            [("1s", 1), ("30m", 1800), ("8h", 28_800), ("7d", 604_800), ("3650d", 315_360_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "8", "8 h", "-1h", "+1h", "0s", "3651d", "99999999999999999999d", "8ü", "1w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(at(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(at(u64::MAX), u64::MAX.to_string());
    }
}

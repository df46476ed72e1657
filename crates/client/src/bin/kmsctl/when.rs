//! Points in time and durations as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

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

/// `90s`, `30m`, `8h` or `7d`, at least a second and at most ten years.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: u64 = 10 * 365 * 24 * 3600;
    let wrong = || "must be a whole number with s, m, h or d behind it, such as 8h".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    match total {
        Some(total @ 1..=LONGEST) => Ok(Duration::from_secs(total)),
        _ => Err("must be at least 1s and at most 3650d".to_owned()),
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

//! Times and durations as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, UtcOffset};

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

/// Parses RFC 3339, a date (midnight in UTC), or a span until now such as `2h`, into RFC 3339 in UTC.
pub(crate) fn moment(text: &str) -> Result<String, String> {
    let date = || Date::parse(text, format_description!("[year]-[month]-[day]")).ok();
    let moment = match (OffsetDateTime::parse(text, &Rfc3339), date(), kms_client::text::duration(text)) {
        (Ok(moment), ..) => Some(moment),
        (_, Some(date), _) => Some(date.midnight().assume_utc()),
        (.., Some(span)) => {
            time::Duration::try_from(span).ok().and_then(|span| OffsetDateTime::now_utc().checked_sub(span))
        }
        _ => None,
    };
    moment
        .filter(|moment| (1970..=9999).contains(&moment.year()))
        .and_then(|moment| moment.to_offset(UtcOffset::UTC).format(&Rfc3339).ok())
        .ok_or_else(|| {
            "must be a date, a time as in RFC 3339, or a span until now such as 90s, 15m, 2h or 7d".to_owned()
        })
}

/// Parses RFC 3339, a date (midnight in UTC), or a span from now on such as `2h`, into Unix seconds.
pub(crate) fn ahead(text: &str) -> Result<u64, String> {
    if let Ok(span) = duration(text) {
        return Ok(now().saturating_add(span.as_secs()));
    }
    let seconds = moment(text)
        .ok()
        .and_then(|moment| OffsetDateTime::parse(&moment, &Rfc3339).ok())
        .and_then(|moment| u64::try_from(moment.unix_timestamp()).ok());
    seconds.ok_or_else(|| {
        "must be a date, a time as in RFC 3339, or a span from now on such as 15m or 2h".to_owned()
    })
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

/// How long ago an RFC 3339 time is, such as `3 h ago`; `None` for another text.
pub(crate) fn ago(text: &str) -> Option<String> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp();
    let seconds = i64::try_from(now()).ok()?.saturating_sub(moment);
    Some(match seconds {
        ..60 => "less than 1 min ago".to_owned(),
        60..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_then_is_said_in_the_largest_unit_that_fits() {
        for (before, said) in [
            (0, "less than 1 min ago"),
            (90, "1 min ago"),
            (7100, "118 min ago"),
            (3 * 3600 + 5, "3 h ago"),
            (5 * 86_400 + 5, "5 days ago"),
        ] {
            assert_eq!(ago(&at(now() - before)).as_deref(), Some(said));
        }
        // The clock of the KMS may be ahead of this one.
        assert_eq!(ago(&at(now() + 90)).as_deref(), Some("less than 1 min ago"));
        assert_eq!(ago(""), None);
    }

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
    fn moments_are_given_in_utc() {
        for (text, expected) in [
            ("2026-01-31T13:00:00.5+01:00", "2026-01-31T12:00:00.5Z"),
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
        ] {
            assert_eq!(moment(text).as_deref(), Ok(expected), "{text}");
        }
        let hour_ago = OffsetDateTime::parse(&moment("1h").expect("a span"), &Rfc3339).expect("a time");
        let age = OffsetDateTime::now_utc() - hour_ago;
        assert!((3599..=3660).contains(&age.whole_seconds()), "{age}");
        for text in [
            "",
            "yesterday",
            "2026-02-30",
            "1969-12-31",
            "99999999999999999999d",
            "9999999999d",
            "-1h",
            "2h&x=1",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(at(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(at(u64::MAX), u64::MAX.to_string());
    }
}

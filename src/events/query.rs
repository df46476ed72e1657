//! Parses the query strings of `/logs`, `/api/v1/events` and `/api/v1/audit-logs`, and `Last-Event-ID`.

use std::borrow::Cow;

use kms_attest::identity::DomainName;
use kms_client::text::number_and_unit;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use crate::audit::Record;
use crate::operator::DomainScope;

/// The longest query string.
pub const MAX_QUERY: usize = 4096;
/// The most events on a page.
pub const MAX_LIMIT: usize = 1000;
const USUAL_LIMIT: usize = 100;
/// The longest type, app id or source.
const MAX_WORD: usize = 128;
/// The first time that a date with a four-digit year cannot express, in milliseconds.
const MAX_TIME: u64 = 253_402_300_800_000;

const SOURCES: [&str; 3] = ["kms", "pipe", "api"];
const KEYS: &str = "since, until, type, app_id, source, domain, limit, cursor, format";

/// Why a query is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Over [`MAX_QUERY`] bytes.
    #[error("the query is longer than {MAX_QUERY} bytes")]
    TooLong,
    /// An unknown parameter.
    #[error("unknown parameter; there are {KEYS}")]
    Unknown,
    /// A parameter is given twice.
    #[error("{0} is there twice")]
    Repeated(&'static str),
    /// A value cannot be parsed.
    #[error("{key} must be {expected}")]
    Malformed {
        /// The parameter.
        key: &'static str,
        /// What its value must be.
        expected: &'static str,
    },
}

/// Which events match; an empty field matches all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The type.
    pub kind: Option<String>,
    /// The app, in lower-case hexadecimal.
    pub app_id: Option<String>,
    /// `kms`, `pipe` or `api`.
    pub source: Option<String>,
    /// The domain.
    pub domain: Option<DomainName>,
    /// Any of these types; all if it is empty.
    pub kinds: &'static [&'static str],
    /// What the reader may see.
    pub scope: DomainScope,
}

impl Filter {
    /// All that a reader of this scope may see.
    pub fn of(scope: DomainScope) -> Self {
        Self { kind: None, app_id: None, source: None, domain: None, kinds: &[], scope }
    }

    /// A record that matches as the reader may see it: one that belongs to two domains without the name of the other one.
    pub fn shown<'a>(&self, record: &'a Record) -> Cow<'a, Record> {
        let (Some(own), Some(_)) = (self.scope.only(), record.left_domain()) else {
            return Cow::Borrowed(record);
        };
        let mut shown = record.clone();
        for field in ["domain", "previous_domain"] {
            if shown.fields.get(field).and_then(Value::as_str) != Some(own.as_str()) {
                shown.fields.remove(field);
            }
        }
        Cow::Owned(shown)
    }

    /// Whether a record matches.
    pub fn admits(&self, record: &Record) -> bool {
        let (domain, left) = (record.domain(), record.left_domain());
        let domains = [domain.as_ref(), left.as_ref()];
        self.admits_event(&record.kind, record.app_id(), record.source(), domains)
    }

    /// Whether an event of this type, about this app, from this source and of these domains, the one that an app has left at the
    /// end, matches.
    pub(super) fn admits_event(
        &self,
        kind: &str,
        app_id: &str,
        source: &str,
        domains: [Option<&DomainName>; 2],
    ) -> bool {
        let [domain, left] = domains;
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.kind, kind)
            && is(&self.app_id, app_id)
            && is(&self.source, source)
            && self.domain.as_ref().is_none_or(|wanted| domains.contains(&Some(wanted)))
            && (self.scope.reads(domain) || left.is_some_and(|left| self.scope.has(left)))
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}

/// The format of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON array.
    Json,
    /// One line for each event.
    Text,
}

/// A query for events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which events match.
    pub filter: Filter,
    /// The earliest time, in milliseconds since 1970.
    pub since: Option<u64>,
    /// The latest time.
    pub until: Option<u64>,
    /// The most events.
    pub limit: Option<usize>,
    /// Only events before this number.
    pub cursor: Option<u64>,
    /// The format, if given.
    pub format: Option<Format>,
}

impl Query {
    /// Parses the query string of a request of a reader who may see `scope`; `now` is in milliseconds since 1970, for relative
    /// times such as `2h`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn read(query: &str, now: u64, scope: DomainScope) -> Result<Self, QueryError> {
        if query.len() > MAX_QUERY {
            return Err(QueryError::TooLong);
        }
        let mut read = Self {
            filter: Filter::of(scope),
            since: None,
            until: None,
            limit: None,
            cursor: None,
            format: None,
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "since" => set(&mut read.since, "since", time(&value, now), A_TIME)?,
                "until" => set(&mut read.until, "until", time(&value, now), A_TIME)?,
                "type" => {
                    set(&mut read.filter.kind, "type", kind(&value), "the name of a type, such as denied")?
                }
                "app_id" => set(&mut read.filter.app_id, "app_id", hex(&value), "hex digits")?,
                "source" => set(&mut read.filter.source, "source", source(&value), "kms, pipe or api")?,
                "domain" => {
                    set(&mut read.filter.domain, "domain", value.parse().ok(), "the name of a domain")?
                }
                "limit" => set(&mut read.limit, "limit", limit(&value), "a whole number up to 1000")?,
                "cursor" => set(&mut read.cursor, "cursor", number(&value), "a cursor from a response")?,
                "format" => set(&mut read.format, "format", format(&value), "json or text")?,
                _ => return Err(QueryError::Unknown),
            }
        }
        Ok(read)
    }

    /// The most events, with the default.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(USUAL_LIMIT)
    }
}

/// What [`time()`] parses.
pub const A_TIME: &str =
    "a date, a time as in RFC 3339, Unix seconds, or a span until now such as 90s, 15m, 2h or 7d";

fn set<T>(
    field: &mut Option<T>,
    key: &'static str,
    value: Option<T>,
    expected: &'static str,
) -> Result<(), QueryError> {
    let value = value.ok_or(QueryError::Malformed { key, expected })?;
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(QueryError::Repeated(key)),
    }
}

/// Parses a time as an operator writes it; in milliseconds since 1970. `now` is for relative ones such as `2h`.
pub fn time(text: &str, now: u64) -> Option<u64> {
    if let Some(seconds) = number(text) {
        return seconds.checked_mul(1000).filter(|time| *time < MAX_TIME);
    }
    if let Some((count, unit)) = number_and_unit(text).filter(|_| text.len() <= MAX_DIGITS + 1) {
        return Some(now.saturating_sub(count.saturating_mul(unit).saturating_mul(1000)));
    }
    milliseconds(text)
}

/// Parses a time as written in the log, or by a person.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    if text.len() > 40 {
        return None;
    }
    // A plus sign in a query string is decoded to a space.
    let text = text.replace(' ', "+");
    let time = OffsetDateTime::parse(&text, &Rfc3339).ok().or_else(|| {
        let date = Date::parse(&text, format_description!("[year]-[month]-[day]")).ok()?;
        Some(date.midnight().assume_utc())
    })?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok().filter(|time| *time < MAX_TIME)
}

/// The most digits of a number.
pub const MAX_DIGITS: usize = 20;

/// A whole number in decimal digits.
pub fn number(text: &str) -> Option<u64> {
    let is_number =
        !text.is_empty() && text.len() <= MAX_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

fn kind(text: &str) -> Option<String> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (!text.is_empty() && text.len() <= MAX_WORD && text.bytes().all(is_word)).then(|| text.to_owned())
}

/// At most 128 hexadecimal digits, in lower case and without `0x`.
pub fn hex(text: &str) -> Option<String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let is_hex =
        !digits.is_empty() && digits.len() <= MAX_WORD && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| digits.to_ascii_lowercase())
}

fn source(text: &str) -> Option<String> {
    SOURCES.contains(&text).then(|| text.to_owned())
}

fn limit(text: &str) -> Option<usize> {
    number(text).and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit <= MAX_LIMIT)
}

fn format(text: &str) -> Option<Format> {
    match text {
        "json" => Some(Format::Json),
        "text" => Some(Format::Text),
        _ => None,
    }
}

/// The number after which a stream continues, from `Last-Event-ID`.
///
/// # Errors
/// Not an id of ours.
pub fn last_event_id(header: &[u8]) -> Result<u64, QueryError> {
    let malformed = QueryError::Malformed { key: "Last-Event-ID", expected: "the id of an event" };
    std::str::from_utf8(header).ok().and_then(|text| number(text.trim())).ok_or(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::scope::Others;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("1700000000", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20.5Z", Some(1_700_000_000_500)),
            ("2023-11-15T00:13:20 02:00", Some(1_700_000_000_000)),
            ("2023-11-14", Some(1_699_920_000_000)),
            ("90s", Some(NOW - 90_000)),
            ("7d", Some(NOW - 7 * 86_400_000)),
            ("99999999999999999999d", None),
            ("9999999999999999999d", Some(0)),
            ("000000000000000000090s", None),
            ("253402300800", None),
            ("0", Some(0)),
            ("", None),
            ("h", None),
            ("-1", None),
            ("1w", None),
            ("1ä", None),
            ("yesterday", None),
            ("1969-12-31T23:59:59Z", None),
        ] {
            assert_eq!(time(text, NOW), expected, "{text}");
        }
    }

    #[test]
    fn a_query_is_read_whole_or_refused() {
        let query = Query::read(
            "since=1h&until=0s&type=denied&app_id=0xAB&source=kms&domain=sandbox&limit=5&cursor=9&format=text",
            NOW,
            DomainScope::WHOLE_KMS,
        );
        let filter = Filter {
            kind: Some("denied".to_owned()),
            app_id: Some("ab".to_owned()),
            source: Some("kms".to_owned()),
            domain: Some("sandbox".parse().expect("a name")),
            ..Filter::of(DomainScope::WHOLE_KMS)
        };
        let (since, until) = (Some(NOW - 3_600_000), Some(NOW));
        let expected =
            Query { filter, since, until, limit: Some(5), cursor: Some(9), format: Some(Format::Text) };
        assert_eq!(query, Ok(expected));
        let long = format!("type={}", "x".repeat(MAX_QUERY));
        for (query, told) in [
            ("limit=1001", "limit must be a whole number up to 1000"),
            ("limit=-1", "limit must be a whole number up to 1000"),
            ("limit=1&limit=1", "limit is there twice"),
            ("type=", "type must be the name of a type, such as denied"),
            ("type=A%00", "type must be the name of a type, such as denied"),
            ("app_id=zz", "app_id must be hex digits"),
            ("source=operator", "source must be kms, pipe or api"),
            ("domain=Sandbox", "domain must be the name of a domain"),
            ("cursor=x", "cursor must be a cursor from a response"),
            ("format=xml", "format must be json or text"),
            (
                "sincd=1h",
                "unknown parameter; there are since, until, type, app_id, source, domain, limit, cursor, format",
            ),
            (&*long, "the query is longer than 4096 bytes"),
        ] {
            assert_eq!(
                Query::read(query, NOW, DomainScope::WHOLE_KMS).map_err(|error| error.to_string()),
                Err(told.to_owned()),
                "{query}"
            );
        }
        assert_eq!(Query::read("", NOW, DomainScope::WHOLE_KMS).map(|query| query.limit()), Ok(100));
    }

    #[test]
    fn records_of_domains_are_seen_in_their_domains_and_by_readers_of_the_whole_kms() {
        let scope = |name: &str| DomainScope::limited(name.parse().expect("a name"), Others::Some);
        let seen = |fields: &str| {
            let line = format!(r#"{{"seq":1,"time":"2026-01-01T00:00:00Z",{fields}}}"#);
            let record = Record::read(line.as_bytes()).expect("a record");
            let of = |scope| Filter::of(scope).admits(&record);
            assert!(of(DomainScope::WHOLE_KMS), "{fields}");
            ["default", "prod", "sandbox"].map(|name| of(scope(name)))
        };
        for kind in [
            "frozen",
            "unfrozen",
            "unfreeze_failed",
            "app_epoch_set",
            "credential_created",
            "credential_rotated",
            "credential_activated",
            "credential_revoked",
            "credential_change_failed",
        ] {
            let named = |domain: &str| seen(&format!(r#""event":"{kind}","domain":"{domain}""#));
            assert_eq!(named("sandbox"), [false, false, true], "{kind}");
            assert_eq!(named("default"), [true, false, false], "{kind}");
            assert_eq!(seen(&format!(r#""event":"{kind}""#)), [false; 3], "of an earlier version: {kind}");
        }
        for kind in
            ["domain_created", "domain_archived", "domain_restored", "app_assigned", "domain_change_failed"]
        {
            assert_eq!(seen(&format!(r#""event":"{kind}","domain":"prod""#)), [false, true, false], "{kind}");
        }
        let moved = |fields: &str| seen(&format!(r#""event":"app_moved",{fields}"#));
        assert_eq!(moved(r#""domain":"prod","previous_domain":"sandbox""#), [false, true, true]);
        assert_eq!(moved(r#""domain":"prod","previous_domain":"default""#), [true, true, false]);
        assert_eq!(moved(r#""domain":"","previous_domain":"Not A Name""#), [false; 3]);
        for kind in ["denied", "withheld"] {
            assert_eq!(seen(&format!(r#""event":"{kind}""#)), [true, false, false], "{kind}");
            assert_eq!(
                seen(&format!(r#""event":"{kind}","role":"kms""#)),
                [false; 3],
                "a KMS is in no domain"
            );
        }
        // Whatever an event of another type calls its domain.
        assert_eq!(seen(r#""event":"started","domain":"prod","previous_domain":"prod""#), [false; 3]);
        assert_eq!(seen(r#""event":"keys_received","domain":"prod""#), [false; 3]);
    }

    #[test]
    fn a_move_is_shown_without_the_name_of_the_other_domain() {
        let line = br#"{"seq":1,"time":"2026-01-01T00:00:00Z","event":"app_moved","app_id":"aa","domain":"prod","previous_domain":"sandbox","by":"eve","remote":"::1"}"#;
        let record = Record::read(line).expect("a record");
        let shown = |scope| Filter::of(scope).shown(&record).sentence();
        let limited = |name: &str| DomainScope::limited(name.parse().expect("a name"), Others::Some);
        let rest = "by eve from ::1, and gets other keys";
        assert_eq!(
            shown(DomainScope::WHOLE_KMS),
            format!("app aa was moved from the domain sandbox to prod {rest}")
        );
        assert_eq!(shown(limited("prod")), format!("app aa was moved from another domain to prod {rest}"));
        assert_eq!(
            shown(limited("sandbox")),
            format!("app aa was moved from the domain sandbox to another one {rest}")
        );
    }

    #[test]
    fn only_ids_of_ours_are_taken_up() {
        assert_eq!(last_event_id(b"17"), Ok(17));
        for id in [&b""[..], b"-1", b"1.5", b"x", b"\xff", b"123456789012345678901"] {
            assert!(last_event_id(id).is_err(), "{id:?}");
        }
    }
}

//! The fixed types that configuration values are parsed into.

use std::time::Duration;

use kms_attest::outgoing::Endpoint;
use kms_ledger::key::{KeyError, PublicKey, VerifyingKey};
use serde_json::Value;
use url::Url;

use super::Witness;
use crate::domain::ReservedName;

/// Stands in for a URL that is missing or wrong: the configuration is not used then.
pub(super) fn placeholder() -> Endpoint {
    Endpoint::parse("http://placeholder.invalid").expect("a constant URL is valid")
}

pub(super) fn boolean(value: Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".to_owned())
}

pub(super) fn string(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("must be a text in quotes".to_owned()),
    }
}

pub(super) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn endpoint(value: Value) -> Result<Endpoint, String> {
    Endpoint::parse(&string(value)?)
}

/// One URL, or a list of them that is not empty.
pub(super) fn endpoints(value: Value) -> Result<Vec<Endpoint>, String> {
    match value {
        Value::Array(urls) if urls.is_empty() => Err("must name at least one URL".to_owned()),
        Value::Array(urls) => urls.into_iter().map(endpoint).collect(),
        url => Ok(vec![endpoint(url)?]),
    }
}

/// A list of names and addresses, possibly empty.
pub(super) fn reserved_names(value: Value) -> Result<Vec<ReservedName>, String> {
    let Value::Array(names) = value else { return Err("must be a list of texts in quotes".to_owned()) };
    let parse = |name| ReservedName::parse(&string(name)?).map_err(|error| error.to_string());
    names.into_iter().map(parse).collect()
}

/// A list of origins such as `https://app.example`, possibly empty, as browsers write them in `Origin`.
pub(super) fn origins(value: Value) -> Result<Vec<String>, String> {
    let Value::Array(origins) = value else { return Err("must be a list of texts in quotes".to_owned()) };
    origins.into_iter().map(|origin| origin_of(&string(origin)?)).collect()
}

fn origin_of(text: &str) -> Result<String, String> {
    let wrong = || "must be origins such as \"https://app.example\": scheme, host and port only".to_owned();
    let url = Url::parse(text).map_err(|_| wrong())?;
    let is_bare = matches!(url.scheme(), "https" | "http")
        && url.path() == "/"
        && !text.ends_with('/')
        && !text.contains('*')
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if is_bare { Ok(url.origin().ascii_serialization()) } else { Err(wrong()) }
}

/// `<number><s|m|h|d>`, or `never` as `None`.
pub(super) fn duration(text: &str) -> Result<Option<Duration>, String> {
    if text == "never" {
        return Ok(None);
    }
    let duration = kms_client::text::duration(text);
    duration.map(Some).ok_or_else(|| "must be a duration such as 30s, 2m, 1h, 7d, or never".to_owned())
}

/// The most that can be reserved on a disk, in bytes.
const MAX_RESERVE: usize = 16 << 30;

/// Space reserved on a disk; 0 is none.
pub(super) fn reserve(value: Value) -> Result<u64, String> {
    let bytes = match value {
        Value::Number(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        Value::String(text) => size(&text).ok(),
        _ => None,
    };
    let bytes = bytes.filter(|bytes| *bytes <= MAX_RESERVE);
    bytes.map(|bytes| bytes as u64).ok_or_else(|| "must be a size up to 16GiB such as 16MiB, or 0".to_owned())
}

/// Files of the audit log are not closed below this size: each has a first record that says so.
const MIN_SEGMENT: usize = 64 << 10;

/// The size at which a file of the audit log is closed.
pub(super) fn segment_size(value: Value) -> Result<u64, String> {
    let bytes = match value {
        Value::Number(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        Value::String(text) => size(&text).ok(),
        _ => None,
    };
    let bytes = bytes.filter(|bytes| (MIN_SEGMENT..=MAX_RESERVE).contains(bytes));
    bytes
        .map(|bytes| bytes as u64)
        .ok_or_else(|| "must be a size from 64KiB to 16GiB such as 64MiB".to_owned())
}

/// No log has more witnesses.
const MAX_WITNESSES: usize = 16;

/// Witnesses of the log: `<verifier key> <URL>` each, as in a C2SP `tlog-policy`.
pub(super) fn witnesses(value: Value) -> Result<Vec<Witness>, String> {
    let Value::Array(list) = value else { return Err("must be a list of texts in quotes".to_owned()) };
    let mut witnesses: Vec<Witness> = Vec::new();
    for text in list {
        let text = string(text)?;
        let (key, url) = text.split_once(' ').ok_or("must have \"<verifier key> <URL>\" for each witness")?;
        let key: VerifyingKey = key.parse().map_err(|error: KeyError| error.to_string())?;
        if matches!(key.key(), PublicKey::Ed25519(_)) {
            return Err("a witness must have a key for cosignatures (type 04 or 06)".to_owned());
        }
        if witnesses.iter().any(|other| other.key.name() == key.name() || other.key.key() == key.key()) {
            return Err("must not name a witness twice".to_owned());
        }
        witnesses.push(Witness { key, url: Endpoint::parse(url)? });
    }
    if witnesses.len() > MAX_WITNESSES {
        return Err(format!("must name at most {MAX_WITNESSES} witnesses"));
    }
    Ok(witnesses)
}

/// An age from one minute on, or `never`.
pub(super) fn age(value: Value) -> Result<Option<Duration>, String> {
    let age = duration(&string(value)?)?;
    match age {
        Some(age) if age < Duration::from_secs(60) => Err("must be 1m or more, or never".to_owned()),
        _ => Ok(age),
    }
}

/// A size with an optional unit: `B`, `kB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`, in any case.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let error = || "must be a size such as 65536, 512KiB or 1MiB".to_owned();
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "kib" => 1 << 10,
        "mb" => 1_000_000,
        "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(error()),
    };
    number.parse::<usize>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_a_number_with_a_unit_or_never() {
        for (text, expected) in [
            ("0s", Some(Some(0))),
            ("30s", Some(Some(30))),
            ("2m", Some(Some(120))),
            ("1h", Some(Some(3600))),
            ("7d", Some(Some(604_800))),
            ("never", Some(None)),
            ("", None),
            ("s", None),
            ("5", None),
            ("-5s", None),
            ("+5s", None),
            ("1.5h", None),
            ("5ms", None),
            ("5é", None),
            ("99999999999999999999d", None),
            ("18446744073709551615d", None),
        ] {
            let parsed = duration(text).ok().map(|value| value.map(|value| value.as_secs()));
            assert_eq!(parsed, expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_a_number_with_an_optional_unit() {
        for (text, expected) in [
            ("1", Some(1)),
            ("10 B", Some(10)),
            ("2kB", Some(2000)),
            ("512KiB", Some(524_288)),
            ("1MiB", Some(1_048_576)),
            ("3 mb", Some(3_000_000)),
            ("1GiB", Some(1 << 30)),
            ("", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("1TiBx", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(size(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for (given, expected) in [
            ("https://app.example", "https://app.example"),
            ("HTTPS://App.Example:443", "https://app.example"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("https://b\u{fc}cher.example", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(origins(json!([given])), Ok(vec![expected.to_owned()]), "{given}");
        }
        for wrong in [
            "*",
            "null",
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://app.example?x",
            "https://app.example#x",
            "https://user@app.example",
            "https://*.app.example",
            "file:///x",
        ] {
            assert!(origins(json!([wrong])).is_err(), "{wrong}");
        }
        assert!(origins(json!("https://app.example")).is_err());
        assert_eq!(origins(json!([])), Ok(Vec::new()));
    }
}

//! The query parameters of the views: each is parsed once, and an unknown one is refused by its name.

use std::borrow::Cow;

use kms_attest::identity::DomainName;
use kms_client::text::number_and_unit;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::clock::unix_now;
use crate::error::{Error, Result};
use crate::events::{A_TIME, MAX_DIGITS, MAX_QUERY, hex, number, time};

/// A route without parameters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Parses the query string of a request.
///
/// # Errors
/// An unknown, repeated or invalid parameter.
pub fn read_query<T: DeserializeOwned>(query: Option<&str>) -> Result<T> {
    let query = query.unwrap_or_default();
    if query.len() > MAX_QUERY {
        return Err(Error::invalid(format!("the query is longer than {MAX_QUERY} bytes")));
    }
    let mut parameters = Map::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if value.is_empty() {
            continue;
        }
        let is_new = parameters.insert(key.to_string(), Value::String(value.into_owned())).is_none();
        if !is_new {
            return Err(Error::invalid(format!("parameter `{key}` is there twice")));
        }
    }
    serde_json::from_value(Value::Object(parameters))
        .map_err(|error| Error::invalid(error.to_string().replace("unknown field", "unknown parameter")))
}

/// Declares a parameter that is parsed from text.
macro_rules! parameter {
    ($(#[$about:meta])* $name:ident($inner:ty), $parse:expr, $expected:expr) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(pub(super) $inner);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> std::result::Result<Self, String> {
                let parse: fn(&str) -> Option<$inner> = $parse;
                parse(&text).map(Self).ok_or_else(|| $expected.to_owned())
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let expected: &str = &$expected;
                schemars::json_schema!({ "type": "string", "description": expected })
            }
        }
    };
}

parameter!(
    /// A time in milliseconds since 1970.
    Moment(u64),
    |text| time(text, unix_now() * 1000),
    format!("since and until must be {A_TIME}")
);

parameter!(
    /// Hexadecimal digits, in lower case and without `0x`.
    Digits(String),
    hex,
    "app, image and device must be hexadecimal digits"
);

parameter!(
    /// A name of letters, digits, `_` and `-`.
    Word(String),
    |text| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        (text.len() <= 64 && text.bytes().all(is_plain)).then(|| text.to_owned())
    },
    "code, tcb and method must be a name of at most 64 letters, digits, '_' or '-'"
);

parameter!(
    /// The name of a domain.
    Domain(DomainName),
    |text| text.parse().ok(),
    "domain must be the name of a domain"
);

parameter!(
    /// The most entries of a page.
    Limit(usize),
    |text| number(text).filter(|limit| (1..=200).contains(limit)).and_then(|limit| usize::try_from(limit).ok()),
    "limit must be a whole number from 1 to 200"
);

parameter!(
    /// Where a page continues: `next` of the page before.
    Cursor(u64),
    |text| number(text),
    "cursor must be `next` of an earlier response"
);

parameter!(
    /// Whether other nodes are asked for too.
    OfFleet(bool),
    |text| text.parse().ok(),
    "fleet must be true or false"
);

parameter!(
    /// A span of time in seconds.
    Window(u64),
    |text| span(text, 3600).filter(|window| (3600..=30 * 86_400).contains(window)),
    "window must be from 1h to 30d"
);

parameter!(
    /// An age in seconds.
    Age(u64),
    |text| span(text, 60).filter(|age| *age <= 3650 * 86_400),
    "max_age must be a span such as 30m, 12h or 90d"
);

parameter!(
    /// The number of steps of a chart.
    Points(u64),
    |text| number(text).filter(|points| (2..=500).contains(points)),
    "points must be a whole number from 2 to 500"
);

parameter!(
    /// Which part of a list, from 1.
    Page(u64),
    |text| number(text).filter(|page| *page > 0),
    "page must be a whole number from 1"
);

/// A span of time in seconds, whose unit has at least `min_unit` seconds.
fn span(text: &str, min_unit: u64) -> Option<u64> {
    let (count, unit) = number_and_unit(text)?;
    let is_accepted = unit >= min_unit && text.len() <= MAX_DIGITS + 1;
    count.checked_mul(unit).filter(|_| is_accepted)
}

impl Limit {
    /// The most entries; 50 unless it is said.
    pub(super) fn of(limit: Option<Self>) -> usize {
        limit.map_or(50, |Self(limit)| limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_a_number_with_a_unit_and_each_parameter_has_its_own() {
        for (text, window, age) in [
            ("1h", Some(3600), Some(3600)),
            ("30d", Some(2_592_000), Some(2_592_000)),
            ("31d", None, Some(2_678_400)),
            ("3650d", None, Some(315_360_000)),
            ("3651d", None, None),
            ("0h", None, Some(0)),
            ("120m", None, Some(7200)),
            ("7200s", None, None),
            ("00000000000000000002h", Some(7200), Some(7200)),
            ("000000000000000000002h", None, None),
            ("18446744073709551615d", None, None),
            ("+2h", None, None),
            ("2 h", None, None),
            ("2é", None, None),
            ("2", None, None),
            ("h", None, None),
            ("", None, None),
        ] {
            let parsed = Window::try_from(text.to_owned()).ok().map(|Window(seconds)| seconds);
            assert_eq!(parsed, window, "a window of {text:?}");
            let parsed = Age::try_from(text.to_owned()).ok().map(|Age(seconds)| seconds);
            assert_eq!(parsed, age, "an age of {text:?}");
        }
    }
}

//! The id of a request: the caller's, if it is short and plain, or else ours.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header of requests and responses with the id.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id of a caller, in bytes.
const MAX_CALLERS: usize = 64;

/// The id of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Ours(u128),
    Callers(Box<str>),
}

/// Makes ids that are unique, and that nobody can foretell.
#[derive(Debug, Default)]
pub struct Ids {
    /// A keyed hash function. Its key is random.
    key: RandomState,
    count: AtomicU64,
}

impl Ids {
    /// The id of a request with these headers.
    pub fn of(&self, headers: &HeaderMap) -> RequestId {
        let mut given = headers.get_all(HEADER).iter();
        match (given.next(), given.next()) {
            (Some(value), None) if is_plain(value.as_bytes()) => {
                let text = value.to_str().unwrap_or_default();
                RequestId(Kind::Callers(text.into()))
            }
            _ => RequestId::ours(self.next()),
        }
    }

    pub(super) fn next(&self) -> u128 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let halves = [0_u8, 1].map(|half| u128::from(self.key.hash_one((count, half))));
        halves[0] << 64 | halves[1]
    }
}

/// Whether a caller's text can be an id. A text without spaces, quotes and control characters cannot forge another
/// field or line of a log.
fn is_plain(text: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_CALLERS).contains(&text.len()) && text.iter().all(is_word)
}

impl RequestId {
    /// An id of ours.
    pub fn ours(number: u128) -> Self {
        Self(Kind::Ours(number))
    }

    /// The value of the response header: the caller's own text, or our 32 hex digits.
    pub fn header(&self) -> HeaderValue {
        let invalid = HeaderValue::from_static("invalid");
        match &self.0 {
            Kind::Ours(number) => {
                let mut digits = [0; 32];
                match hex::encode_to_slice(number.to_be_bytes(), &mut digits) {
                    Ok(()) => HeaderValue::from_bytes(&digits).unwrap_or(invalid),
                    Err(_) => invalid,
                }
            }
            Kind::Callers(text) => HeaderValue::from_str(text).unwrap_or(invalid),
        }
    }

    /// The id in logs and records, where a caller's id begins with `caller:`, so that it cannot pass for one of ours.
    pub fn logged(&self) -> impl fmt::Display {
        struct Logged<'a>(&'a RequestId);
        impl fmt::Display for Logged<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if matches!(self.0.0, Kind::Callers(_)) {
                    f.write_str("caller:")?;
                }
                self.0.fmt(f)
            }
        }
        Logged(self)
    }
}

/// The value of the header.
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Ours(number) => write!(f, "{number:032x}"),
            Kind::Callers(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn given(values: &[&[u8]]) -> HeaderMap {
        values.iter().map(|value| (HEADER, HeaderValue::from_bytes(value).unwrap())).collect()
    }

    #[test]
    fn a_plain_id_of_a_caller_is_kept_and_marked_in_logs() {
        for text in ["a", "01HV-x_y.z", &"7".repeat(MAX_CALLERS)] {
            let id = Ids::default().of(&given(&[text.as_bytes()]));
            assert_eq!((id.to_string(), id.header().to_str().unwrap()), (text.to_owned(), text));
            assert_eq!(id.logged().to_string(), format!("caller:{text}"));
        }
    }

    #[test]
    fn any_other_id_is_replaced_by_ours() {
        let long = "7".repeat(MAX_CALLERS + 1);
        let huge = "x".repeat(8192);
        let cases: [&[&[u8]]; 10] = [
            &[],
            &[b""],
            &[b"a b"],
            &[b"a\"b"],
            &[b"a=b"],
            &[b"caller:a"],
            &["\u{e9}".as_bytes()],
            &[long.as_bytes()],
            &[huge.as_bytes()],
            &[b"a", b"b"],
        ];
        for values in cases {
            let id = Ids::default().of(&given(values));
            let text = id.to_string();
            assert!(text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
            assert_eq!((id.header().to_str().unwrap(), id.logged().to_string()), (&*text, text.clone()));
        }
        // What would begin another line is not even a header.
        assert!(HeaderValue::from_bytes(b"a\r\nX-Admin: yes").is_err());
    }

    #[test]
    fn ids_of_ours_differ_also_between_processes() {
        let [one, two] = [Ids::default(), Ids::default()];
        let ids: HashSet<_> = (0..1000).flat_map(|_| [one.next(), two.next()]).collect();
        assert_eq!(ids.len(), 2000);
    }
}

//! JSON from outside, which must be UTF-8.

mod duplicates;

use serde::de::{DeserializeOwned, Error as _};

pub use duplicates::duplicate_keys;

/// Parses `body`. `serde_json` alone does not check the bytes of strings that it skips, so it would accept a
/// body that is not JSON text (RFC 8259, section 8.1).
///
/// # Errors
/// What `serde_json` says, or that the body is not UTF-8.
pub fn from_utf8<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => Err(serde_json::Error::custom("the body is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Known {
        known: u8,
    }

    #[test]
    fn bytes_that_are_not_utf_8_count_nowhere_in_a_body() {
        for (body, is_json) in [
            (&b"{\"known\": 1, \"other\": \"\xc3\xa9\"}"[..], true),
            (b"{\"known\": 1, \"other\": \"\xc3\"}", false),
            (b"{\"known\": 1, \"other\": [\"\xff\"]}", false),
            (b"{\"known\": 1, \"oth\xc3er\": 2}", false),
            (b"{\"known\": 1}\xc3", false),
            (b"", false),
        ] {
            let read = from_utf8::<Known>(body);
            assert_eq!(read.is_ok(), is_json, "{body:?}: {read:?}");
        }
    }
}

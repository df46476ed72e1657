//! Finds keys that occur twice in one JSON object: parsers silently take one of them, while a reader may see the other.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// At most this many are reported.
const MAX_REPORTED: usize = 16;

/// The paths of keys that an object gives more than once, such as `core.rpc.port` or `list[2].key`, in the order of
/// the text; at most 16. Empty if the text is not JSON.
pub fn duplicate_keys(json: &[u8]) -> Vec<String> {
    let mut found = Found::default();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // The reader of the file reports invalid JSON.
    let _ = Walk(&mut found).deserialize(&mut deserializer);
    found.paths
}

#[derive(Default)]
struct Found {
    at: Vec<String>,
    paths: Vec<String>,
}

struct Walk<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let shown: String = key.chars().take(64).collect();
            self.0.at.push(if self.0.at.is_empty() { shown } else { format!(".{shown}") });
            if !seen.insert(key) && self.0.paths.len() < MAX_REPORTED {
                self.0.paths.push(self.0.at.concat());
            }
            map.next_value_seed(Walk(self.0))?;
            self.0.at.pop();
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            self.0.at.push(format!("[{index}]"));
            let more = list.next_element_seed(Walk(self.0))?;
            self.0.at.pop();
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_given_twice_are_named_with_their_path() {
        for (json, expected) in [
            (r#"{"a": 1, "b": {"a": 1}}"#, vec![]),
            (r#"{"a": 1, "a": 1}"#, vec!["a"]),
            (r#"{"core": {"rpc": {"port": 1, "port": 2}}, "core": {}}"#, vec!["core.rpc.port", "core"]),
            (r#"{"a": [{"b": 1}, {"b": 1, "c": null, "b": -1.5}]}"#, vec!["a[1].b"]),
            (r#"{"a": 1, "\u0061": 2}"#, vec!["a"]),
            (r#"{"a": 1, "a": 1, "a": 1}"#, vec!["a", "a"]),
            ("[[true, \"x\"]]", vec![]),
            ("7", vec![]),
            ("{\"a\": 1, \"a\": ", vec!["a"]),
            ("", vec![]),
        ] {
            assert_eq!(duplicate_keys(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let deep = "{\"a\":".repeat(100_000);
        assert_eq!(duplicate_keys(deep.as_bytes()), [""; 0]);
        let many = format!("{{{}\"a\": 1}}", "\"a\": 1,".repeat(1000));
        assert_eq!(duplicate_keys(many.as_bytes()).len(), MAX_REPORTED);
    }
}

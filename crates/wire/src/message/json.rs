//! JSON forms that serde does not derive: hex bytes, lenient integers, a field with two names.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes as hexadecimal: written lower case without `0x`, read in any case after any number of `0x`.
pub mod hex_bytes {
    use super::*;

    /// Writes lower-case hexadecimal.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        hex::serde::serialize(bytes, serializer)
    }

    /// Reads hexadecimal of even length.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Hex;
        impl Visitor<'_> for Hex {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string of hexadecimal digits")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
                let mut digits = text;
                while let Some(rest) = digits.strip_prefix("0x") {
                    digits = rest;
                }
                hex::decode(digits).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

struct Number<T>(PhantomData<T>);

impl<T: TryFrom<u64> + std::str::FromStr> Visitor<'_> for Number<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an unsigned integer, as a number or as decimal text")
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        T::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        // `from_str` accepts a sign; the wire format does not.
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| plain).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// Reads an unsigned integer, or one as decimal text (in older documents and in query strings).
pub fn number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64> + std::str::FromStr,
{
    deserializer.deserialize_any(Number(PhantomData))
}

/// Like [`number`]; `null` counts as missing.
pub fn optional_number<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64> + std::str::FromStr,
{
    struct Optional<T>(PhantomData<T>);
    impl<'de, T: TryFrom<u64> + std::str::FromStr> Visitor<'de> for Optional<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an unsigned integer, as a number or as decimal text, or null")
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
            Number(PhantomData).visit_u64(value).map(Some)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Number(PhantomData).visit_str(text).map(Some)
        }
    }
    // A query string has no options, so the value itself is asked for.
    deserializer.deserialize_any(Optional(PhantomData))
}

/// `tee_variant` and its older name `attestation_mode` with the same value, because older tools read the
/// latter (docs/compatibility.md).
pub mod tee_variant {
    use super::*;

    /// Writes both names.
    pub fn serialize<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("tee_variant", value)?;
        map.serialize_entry("attestation_mode", value)?;
        map.end()
    }

    /// Reads either name.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        #[derive(Deserialize, Serialize, Default)]
        #[serde(default)]
        struct Names {
            tee_variant: Option<String>,
            attestation_mode: Option<String>,
        }
        let names = Names::deserialize(deserializer)?;
        Ok(names.tee_variant.or(names.attestation_mode).unwrap_or_default())
    }
}

//! Values from arguments and files, parsed once.

use std::fmt;
use std::str::FromStr;

use kms_attest::identity::AppId;
use zeroize::Zeroizing;

/// Bytes as hexadecimal, with or without `0x`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> FromStr for Hex<N> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = decode(text)?;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| format!("must be {N} bytes ({} digits), got {length}", 2 * N))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Bytes of any length as hexadecimal.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).map_err(|error| match error {
        hex::FromHexError::InvalidHexCharacter { index, .. } => {
            format!("not hexadecimal at character {}", index + 1)
        }
        _ => "must have an even number of hexadecimal digits".to_owned(),
    })
}

/// A secret of 32 bytes.
pub(crate) fn decode_secret(text: &str) -> Result<Zeroizing<[u8; 32]>, String> {
    let bytes = Zeroizing::new(decode(text)?);
    let secret = bytes.as_slice().try_into().map_err(|_| format!("must be 32 bytes, got {}", bytes.len()))?;
    Ok(Zeroizing::new(secret))
}

pub(crate) fn app_id(text: &str) -> Result<AppId, String> {
    let Hex(bytes) = text.parse::<Hex<20>>()?;
    Ok(AppId(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_with_and_without_its_prefix() {
        assert_eq!("0xAB01".parse::<Hex<2>>().expect("hex").0, [0xab, 1]);
        assert_eq!(" ab01\n".parse::<Hex<2>>().expect("hex").0, [0xab, 1]);
        for (text, expected) in [
            ("ab", "must be 2 bytes (4 digits), got 1"),
            ("abc", "must have an even number of hexadecimal digits"),
            ("abxx", "not hexadecimal at character 3"),
        ] {
            assert_eq!(text.parse::<Hex<2>>().expect_err(text), expected);
        }
    }
}

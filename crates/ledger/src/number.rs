//! Sizes of trees and indexes of leaves.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a size or an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not decimal digits alone, or a leading zero.
    #[error("must be decimal digits without a leading zero")]
    Malformed,
    /// 2⁶³ or more.
    #[error("must be below 2^63")]
    TooLarge,
}

/// Reads ASCII digits without sign and without leading zero. `None` in the result is a number above `u64`.
pub(crate) fn decimal(text: &str) -> Result<Option<u64>, NumberError> {
    let digits = text.as_bytes();
    let is_plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !is_plain || (digits[0] == b'0' && digits.len() > 1) {
        return Err(NumberError::Malformed);
    }
    Ok(text.parse().ok())
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The largest number that is read or written.
            pub const MAX: Self = Self(i64::MAX.cast_unsigned());

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = NumberError;

            fn try_from(number: u64) -> Result<Self, NumberError> {
                if number > Self::MAX.0 { Err(NumberError::TooLarge) } else { Ok(Self(number)) }
            }
        }

        /// ASCII decimal without sign and leading zero.
        impl FromStr for $name {
            type Err = NumberError;

            fn from_str(text: &str) -> Result<Self, NumberError> {
                decimal(text)?.ok_or(NumberError::TooLarge)?.try_into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

number! {
    /// How many leaves a tree has: below 2⁶³, as in the Go implementations. `tlog-checkpoint` itself has no bound.
    Size
}

number! {
    /// The place of a leaf, from 0.
    Index
}

impl Size {
    /// The empty tree.
    pub const ZERO: Self = Self(0);

    /// The size after one more leaf.
    ///
    /// # Errors
    /// [`NumberError::TooLarge`].
    pub fn next(self) -> Result<Self, NumberError> {
        Self::try_from(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_text() {
        for number in [0, 1, 9, 10, 70_000, Size::MAX.get()] {
            let text = number.to_string();
            assert_eq!(text.parse(), Ok(Size(number)));
            assert_eq!(text.parse(), Ok(Index(number)));
            assert_eq!(Size(number).to_string(), text);
        }
        for text in
            ["", "-1", "+1", "-0", "00", "07", " 7", "7 ", "7\n", "0x7", "1_000", "7.0", "1e3", "٧", "７"]
        {
            assert_eq!(text.parse::<Size>(), Err(NumberError::Malformed), "{text:?}");
        }
        for text in
            ["9223372036854775808", "18446744073709551615", "18446744073709551616", &"9".repeat(1 << 20)]
        {
            assert_eq!(text.parse::<Size>(), Err(NumberError::TooLarge), "{text:.40}");
        }
        assert_eq!(Size::MAX.next(), Err(NumberError::TooLarge));
    }
}

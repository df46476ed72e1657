//! Whether a token has 128 bits, as far as its text shows.
//!
//! The estimate is the length times the bits of a character of the smallest usual alphabet that has all characters: 4 bits
//! for hexadecimal, so 32 digits. A text that repeats itself, has few different characters, or goes through its alphabet
//! in even steps counts as weak.

use std::collections::BTreeSet;

/// The least.
const BITS: f64 = 128.0;
/// Fewer different characters are no random text of this length.
const MIN_DISTINCT: usize = 8;

/// How to make a token.
pub(super) const ADVICE: &str = "32 or more hex digits of a random source (openssl rand -hex 32)";

/// Whether `text` may have 128 bits.
pub(super) fn is_strong(text: &str) -> bool {
    // The hyphens of a UUID are no part of its secret.
    let digits = text.replace('-', "");
    let text = if is_hex(&digits) { &digits } else { text };
    let characters: Vec<u32> = text.chars().map(u32::from).collect();
    let distinct = characters.iter().collect::<BTreeSet<_>>().len();
    let bits = period(&characters) as f64 * f64::from(alphabet(text)).log2();
    bits >= BITS && distinct >= MIN_DISTINCT && !is_even(&characters)
}

/// Whether it has hex digits only, with letters of one case.
fn is_hex(text: &str) -> bool {
    let any = |test: fn(&u8) -> bool| text.bytes().any(|byte| test(&byte));
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && !(any(u8::is_ascii_lowercase) && any(u8::is_ascii_uppercase))
}

/// The size of the smallest usual alphabet with all these characters.
fn alphabet(text: &str) -> u32 {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return 10;
    }
    if is_hex(text) {
        return 16;
    }
    let sized = |test: fn(&u8) -> bool, size| if text.bytes().any(|byte| test(&byte)) { size } else { 0 };
    sized(u8::is_ascii_lowercase, 26)
        + sized(u8::is_ascii_uppercase, 26)
        + sized(u8::is_ascii_digit, 10)
        + sized(|byte| !byte.is_ascii_alphanumeric(), 32)
}

/// The length of the part that the text repeats.
fn period(characters: &[u32]) -> usize {
    let repeats =
        |length: &usize| characters.iter().zip(characters.iter().skip(*length)).all(|(a, b)| a == b);
    (1..=characters.len() / 2).find(repeats).unwrap_or(characters.len())
}

/// Whether more than half of the steps from one character to the next are the same, as in `abcdefgh`.
fn is_even(characters: &[u32]) -> bool {
    let steps: Vec<i64> = characters
        .iter()
        .zip(characters.iter().skip(1))
        .map(|(a, b)| i64::from(*b) - i64::from(*a))
        .collect();
    steps.iter().any(|step| steps.iter().filter(|other| *other == step).count() * 2 > steps.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_needs_128_bits() {
        for (text, expected) in [
            ("9f86d081884c7d659a2feaa0c55ad015", true),
            ("9F86D081884C7D659A2FEAA0C55AD015", true),
            ("9f86d081884c7d659a2feaa0c55ad01", false),
            ("7c9e6679-7425-40de-944b-e07fc1f90ae7", true),
            ("7c9e6679-7425-40de-944b-e07fc1f90ae", false),
            ("4pY7rQm2ZxKd9Ue1LbTcVw", true),
            ("4pY7rQm2ZxKd9Ue1LbTcV", false),
            ("314159265358979323846264338327950288419", true),
            ("31415926535897932384626433832795028841", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("deadbeefdeadbeefdeadbeefdeadbeef", false),
            ("0123456789abcdef0123456789abcdef", false),
            ("abcdefghijklmnopqrstuvwxyz0123456789", false),
            ("abababcdcdcdababababcdcdcdababab", false),
            ("correct horse battery", false),
            ("password", false),
            ("", false),
        ] {
            assert_eq!(is_strong(text), expected, "{text:?}");
        }
    }

    #[test]
    fn random_tokens_of_128_bits_are_strong() {
        for _ in 0..1_000 {
            let mut random = [0; 16];
            aws_lc_rs::rand::fill(&mut random).unwrap();
            let text = hex::encode(random);
            assert!(is_strong(&text), "{text}");
        }
    }
}

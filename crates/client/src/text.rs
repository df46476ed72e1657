//! Texts from and for people: durations, untrusted text made safe to print, errors with their causes.

use std::error::Error;
use std::time::Duration;

/// The longest text that is kept, in characters.
pub(crate) const MAX_CHARS: usize = 512;

/// One line of at most [`MAX_CHARS`] characters without control characters.
pub(crate) fn printable(foreign: &str) -> String {
    foreign.trim().chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An error with its causes, `a: b: c`. A cause whose text was already printed is not repeated.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

/// "1 CVM", "3 CVMs": for nouns that only get an s.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Parses a duration such as `90s`, `30m`, `8h` or `7d`: digits and one unit.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, seconds) = number_and_unit(text)?;
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

/// The number of a duration, and its unit in seconds: for callers that accept fewer units, or any product.
pub fn number_and_unit(text: &str) -> Option<(u64, u64)> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_number)?, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn every_cause_is_said_once() {
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        let refused = || layer("Connection refused", None);
        for (error, expected) in [
            (refused(), "Connection refused"),
            (layer("tcp", Some(refused())), "tcp: Connection refused"),
            (layer("tcp: Connection refused", Some(refused())), "tcp: Connection refused"),
            (layer("http", Some(layer("tcp", Some(refused())))), "http: tcp: Connection refused"),
        ] {
            assert_eq!(causes(&error), expected);
        }
    }

    #[test]
    fn foreign_text_is_one_bounded_line() {
        assert_eq!(printable(" Boot denied: \u{1b}[31mno\nreally "), "Boot denied:  [31mno really");
        assert_eq!(printable(&"ä".repeat(10_000)).chars().count(), MAX_CHARS);
    }
}

//! Texts for people: what came from the other side, made safe to print, and errors with all that caused them.

use std::error::Error;

/// Longest part kept, in characters.
pub(crate) const MAX_CHARS: usize = 512;

/// One line of at most [`MAX_CHARS`] characters without control characters.
pub(crate) fn printable(foreign: &str) -> String {
    foreign.trim().chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An error with everything that caused it, `a: b: c`. A cause whose text stands there already is not repeated.
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

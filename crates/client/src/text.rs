//! Text that came from the other side, made safe to print.

/// Longest part kept, in characters.
pub(crate) const MAX_CHARS: usize = 512;

/// One line of at most [`MAX_CHARS`] characters without control characters.
pub(crate) fn printable(foreign: &str) -> String {
    foreign.trim().chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_one_bounded_line() {
        assert_eq!(printable(" Boot denied: \u{1b}[31mno\nreally "), "Boot denied:  [31mno really");
        assert_eq!(printable(&"ä".repeat(10_000)).chars().count(), MAX_CHARS);
    }
}

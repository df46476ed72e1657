//! Two behaviours of Python's standard library that `vmm-cli.py` inherits.

/// Strips the same characters as `str.strip`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

/// The lines of a file opened in text mode: they end in `\n`, `\r\n` or `\r`.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.split('\r')
    })
}

/// Appends a JSON text as `json.dumps` writes it: ASCII only, other characters as UTF-16 escapes.
pub(super) fn push_json_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    const DIGITS: &[u8; 16] = b"0123456789abcdef";
                    out.push_str("\\u");
                    for shift in [12, 8, 4, 0] {
                        out.push(char::from(DIGITS[usize::from(*unit >> shift & 0xf)]));
                    }
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_written_as_python_writes_it() {
        let mut out = String::new();
        push_json_text(&mut out, "a\"\\\n\r\t\u{8}\u{c}\u{1}\u{7f}/é😀");
        assert_eq!(out, r#""a\"\\\n\r\t\b\f\u0001\u007f/\u00e9\ud83d\ude00""#);
    }

    #[test]
    fn lines_end_as_in_pythons_text_mode() {
        assert_eq!(lines("a\r\nb\rc\n\nd").collect::<Vec<_>>(), ["a", "b", "c", "", "d"]);
        assert_eq!(strip("\u{a0} \x1c a b \x1f\t\r"), "a b");
    }
}

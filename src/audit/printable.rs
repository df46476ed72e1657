//! Texts of others without anything that can change how a line looks.

use std::fmt::Write as _;

/// The text without anything that can change how a line looks: control characters, line and paragraph
/// separators, marks of direction and characters without width become `\u{…}`, and a backslash becomes two.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => printable.push_str(r"\\"),
            '\n' => printable.push_str(r"\n"),
            '\t' => printable.push_str(r"\t"),
            '\r' => printable.push_str(r"\r"),
            _ if is_deceptive(character) => {
                let _ = write!(printable, "{}", character.escape_unicode());
            }
            _ => printable.push(character),
        }
    }
    printable
}

pub(super) fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printable_stays_and_the_rest_is_named() {
        for (given, shown) in [
            ("plain – ünïcode 漢字 🙂", "plain – ünïcode 漢字 🙂"),
            ("a\0b\u{7f}\u{85}", r"a\u{0}b\u{7f}\u{85}"),
            ("line\u{2028}para\u{2029}", r"line\u{2028}para\u{2029}"),
            ("\u{202e}evil\u{200b}\u{feff}", r"\u{202e}evil\u{200b}\u{feff}"),
            (r"\n", r"\\n"),
        ] {
            assert_eq!(printable(given), shown);
        }
    }
}

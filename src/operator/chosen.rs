//! A secret that an operator chooses, and what is the least that it must be.

use std::collections::BTreeSet;
use std::fmt;

use zeroize::Zeroizing;

/// Fewer characters are refused.
const MIN_CHARACTERS: usize = 12;
/// The most bytes.
const MAX_BYTES: usize = 256;
/// Fewer different characters are refused.
const MIN_DISTINCT: usize = 6;
/// Values that stand in our documents, in lower case. A test of `config::production` compares them with the documents.
pub const DOCUMENTED: [&str; 2] = ["a token of your own", "…"];
/// Texts that are tried first, in lower case.
const USUAL: [&str; 6] = [
    "correct horse battery staple",
    "correcthorsebatterystaple",
    "administrator",
    "password1234",
    "passwordpassword",
    "qwertyuiop123",
];

/// A secret that is not too weak. Its `Debug` prints nothing.
pub struct ChosenSecret(Zeroizing<String>);

/// Why a secret is refused. The messages do not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    /// Not UTF-8, or with control characters.
    #[error("the secret must be text in UTF-8 without control characters")]
    NotText,
    /// Too short.
    #[error("the secret must have at least {MIN_CHARACTERS} characters, got {0}")]
    Short(usize),
    /// Too long.
    #[error("the secret must have at most {MAX_BYTES} bytes, got {0}")]
    Long(usize),
    /// Mostly the same characters.
    #[error("the secret must have at least {MIN_DISTINCT} different characters, got {0}")]
    Repetitive(usize),
    /// In a document of this program, or one of the first guesses.
    #[error("the secret is one that everybody knows; choose another one (openssl rand -hex 32)")]
    Known,
    /// It would be read as the token of another credential.
    #[error("the secret must not begin like a token of a named credential")]
    Token,
}

impl ChosenSecret {
    /// Reads a secret; a line break at its end, which files have, is no part of it.
    ///
    /// # Errors
    /// [`WeakSecret`]
    pub fn parse(bytes: &[u8]) -> Result<Self, WeakSecret> {
        let text = std::str::from_utf8(bytes).map_err(|_| WeakSecret::NotText)?;
        let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        if text.chars().any(char::is_control) {
            return Err(WeakSecret::NotText);
        }
        if text.len() > MAX_BYTES {
            return Err(WeakSecret::Long(text.len()));
        }
        let characters = text.chars().count();
        if characters < MIN_CHARACTERS {
            return Err(WeakSecret::Short(characters));
        }
        let distinct = text.chars().collect::<BTreeSet<_>>().len();
        if distinct < MIN_DISTINCT {
            return Err(WeakSecret::Repetitive(distinct));
        }
        if super::named::begins_like_a_token(text) {
            return Err(WeakSecret::Token);
        }
        if is_documented(text.trim()) || USUAL.contains(&text.trim().to_lowercase().as_str()) {
            return Err(WeakSecret::Known);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Whether a text is a value of our documents.
pub fn is_documented(text: &str) -> bool {
    DOCUMENTED.contains(&text.to_lowercase().as_str())
}

impl fmt::Debug for ChosenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChosenSecret").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_secrets_are_refused_and_others_are_read_without_their_line_break() {
        for (bytes, expected) in [
            ("0123456789ab", Ok("0123456789ab")),
            ("0123456789ab\n", Ok("0123456789ab")),
            ("0123456789ab\r\n", Ok("0123456789ab")),
            ("pä:ss: wörd!", Ok("pä:ss: wörd!")),
            ("0123456789a", Err(WeakSecret::Short(11))),
            ("0123456789a\n", Err(WeakSecret::Short(11))),
            ("", Err(WeakSecret::Short(0))),
            ("ababababababab", Err(WeakSecret::Repetitive(2))),
            ("0123456789ab\n\n", Err(WeakSecret::NotText)),
            ("0123456789\0ab", Err(WeakSecret::NotText)),
            ("A Token of your OWN", Err(WeakSecret::Known)),
            ("correct horse battery staple", Err(WeakSecret::Known)),
            ("ckms_admin_0123456789ab", Err(WeakSecret::Token)),
        ] {
            let read = ChosenSecret::parse(bytes.as_bytes());
            assert_eq!(
                read.as_ref().map(ChosenSecret::expose).map_err(|error| *error),
                expected,
                "{bytes:?}"
            );
        }
        assert_eq!(ChosenSecret::parse(b"0123456789ab\xff").err(), Some(WeakSecret::NotText));
        let long = [b"0123456789ab".repeat(22)].concat();
        assert_eq!(ChosenSecret::parse(&long).err(), Some(WeakSecret::Long(264)));
        assert_eq!(format!("{:?}", ChosenSecret::parse(b"0123456789ab").unwrap()), "ChosenSecret { .. }");
    }
}

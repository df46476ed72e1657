//! A secret string in the configuration.

use zeroize::Zeroizing;

/// A secret string: no `Debug`, `Display` or `Clone`; wiped when dropped.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Trims the text; `None` if nothing is left.
    pub fn trimmed(text: String) -> Option<Self> {
        let text = Zeroizing::new(text);
        let trimmed = text.trim();
        (!trimmed.is_empty()).then(|| Self(Zeroizing::new(trimmed.to_owned())))
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_trimmed_and_never_empty() {
        assert_eq!(Secret::trimmed(" token\n".to_owned()).unwrap().expose(), "token");
        assert!(Secret::trimmed(" \n".to_owned()).is_none());
    }
}

//! Epochs of keys, as callers name them.

use std::fmt;
use std::str::FromStr;

use crate::proto::{AppKeyResponse, KeyEpochs};

/// The epochs of an app's keys: which root keys, and which label of the app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epochs {
    /// Which root keys; 0 is the first.
    pub root: u32,
    /// Which label of the app in its derivation; 0 is none.
    pub app: u32,
}

impl Epochs {
    /// From the fields of a response, which are absent for 0 and 0.
    pub fn of(root: Option<u32>, app: Option<u32>) -> Self {
        Self { root: root.unwrap_or(0), app: app.unwrap_or(0) }
    }

    /// `1.2`: the form that [`FromStr`] reads.
    pub fn dotted(self) -> String {
        format!("{}.{}", self.root, self.app)
    }
}

impl From<&KeyEpochs> for Epochs {
    fn from(epochs: &KeyEpochs) -> Self {
        Self { root: epochs.root, app: epochs.app }
    }
}

impl From<&AppKeyResponse> for Epochs {
    fn from(keys: &AppKeyResponse) -> Self {
        Self::of(keys.root_epoch, keys.app_epoch)
    }
}

impl fmt::Display for Epochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root epoch {}, app epoch {}", self.root, self.app)
    }
}

/// Not the form of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a root epoch, or a root and an app epoch: 1 or 1.2")]
pub struct NotEpochs;

impl FromStr for Epochs {
    type Err = NotEpochs;

    /// `ROOT` or `ROOT.APP`; without an app epoch it is 0.
    fn from_str(text: &str) -> Result<Self, NotEpochs> {
        let (root, app) = text.split_once('.').unwrap_or((text, "0"));
        // `parse` accepts a sign and leading zeros.
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| number.to_string() == text);
        Ok(Self { root: number(root).ok_or(NotEpochs)?, app: number(app).ok_or(NotEpochs)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_read_in_one_form_only() {
        for (text, root, app) in [("0", 0, 0), ("1", 1, 0), ("1.2", 1, 2), ("4294967295.0", u32::MAX, 0)] {
            let epochs: Epochs = text.parse().expect(text);
            assert_eq!(epochs, Epochs { root, app });
            assert_eq!(epochs.dotted().parse(), Ok(epochs));
        }
        for text in ["", ".", "1.", ".1", "01", "1.02", "+1", "-1", "1.2.3", "4294967296", "1 ", "current"] {
            assert_eq!(text.parse::<Epochs>(), Err(NotEpochs), "{text}");
        }
    }
}

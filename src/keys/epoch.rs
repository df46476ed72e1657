//! The numbers of epochs: of root keys, and of one app.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The number of a set of root keys. Numbers are given in order and never used again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct RootEpoch(pub u32);

/// A number in the derivation of one app's keys. Another number gives other keys from the same root keys.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct AppEpoch(pub u32);

/// Both numbers that the keys of an app depend on.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct KeyEpochs {
    /// The epoch of the root keys.
    pub root: RootEpoch,
    /// The epoch of the app.
    pub app: AppEpoch,
}

impl RootEpoch {
    /// The root keys that a cluster begins with. The files of the peer hold these.
    pub const FIRST: Self = Self(0);
}

impl AppEpoch {
    /// The number of an app whose keys were never changed.
    pub const FIRST: Self = Self(0);
}

impl KeyEpochs {
    /// The keys of an app as the peer derives them: 0 and 0.
    pub const FIRST: Self = Self { root: RootEpoch::FIRST, app: AppEpoch::FIRST };

    /// Whether these are the keys as the peer derives them.
    pub fn is_first(self) -> bool {
        self == Self::FIRST
    }
}

impl fmt::Display for RootEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AppEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `root/app`, such as `1/0`.
impl fmt::Display for KeyEpochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.root, self.app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_numbers_in_json_and_ordered_by_root_first() {
        let epochs = KeyEpochs { root: RootEpoch(3), app: AppEpoch(1) };
        let text = serde_json::to_string(&epochs).unwrap();
        assert_eq!(text, r#"{"root":3,"app":1}"#);
        assert_eq!(serde_json::from_str::<KeyEpochs>(&text).unwrap(), epochs);
        assert_eq!(epochs.to_string(), "3/1");
        assert!(epochs < KeyEpochs { root: RootEpoch(4), app: AppEpoch(0) });
        assert!(KeyEpochs::FIRST.is_first() && !epochs.is_first());
        for wrong in [r#"{"root":3}"#, r#"{"root":-1,"app":0}"#, r#"{"root":0,"app":4294967296}"#] {
            assert!(serde_json::from_str::<KeyEpochs>(wrong).is_err(), "{wrong}");
        }
    }
}

//! `profile`: whether this KMS starts with settings that are unsafe for keys that matter.

use serde_json::Value;

use super::values;

/// `profile`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Relaxed settings give warnings.
    Standard,
    /// A setting of [`super::Config::unsafe_settings`] stops the start.
    Production,
}

impl Profile {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Production => "production",
        }
    }

    pub(super) fn parse(value: Value) -> Result<Self, String> {
        match values::string(value)?.as_str() {
            "standard" => Ok(Self::Standard),
            "production" => Ok(Self::Production),
            _ => Err("must be \"standard\" or \"production\"".to_owned()),
        }
    }
}

//! Known values that what is proved must have.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::Refusal;
use super::statement::decode;

/// A value that can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// SHA-256 of the SubjectPublicKeyInfo of the root CA, 32 bytes.
    RootCaSpkiSha256,
    /// The secp256k1 root key, compressed, 33 bytes.
    K256PublicKey,
    /// Everything that is measured, 32 bytes.
    MrAggregated,
    /// The OS image that the VM's configuration claims, 32 bytes.
    OsImageHash,
    /// SHA-256 of the app's compose file, 32 bytes.
    ComposeHash,
    /// The app, 20 bytes.
    AppId,
    /// The key of the audit log, a verifier key as text.
    LogKey,
    /// The digest of the policy of the domain `default`, 32 bytes.
    PolicyDigest,
}

impl Pin {
    /// All, in the order in which they are compared.
    pub const ALL: [Self; 8] = [
        Self::RootCaSpkiSha256,
        Self::K256PublicKey,
        Self::MrAggregated,
        Self::OsImageHash,
        Self::ComposeHash,
        Self::AppId,
        Self::LogKey,
        Self::PolicyDigest,
    ];

    /// Its key in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RootCaSpkiSha256 => "root_ca_spki_sha256",
            Self::K256PublicKey => "k256_public_key",
            Self::MrAggregated => "mr_aggregated",
            Self::OsImageHash => "os_image_hash",
            Self::ComposeHash => "compose_hash",
            Self::AppId => "app_id",
            Self::LogKey => "log_key",
            Self::PolicyDigest => "policy_digest",
        }
    }

    /// Its length in bytes; `None` for text.
    const fn length(self) -> Option<usize> {
        match self {
            Self::RootCaSpkiSha256
            | Self::MrAggregated
            | Self::OsImageHash
            | Self::ComposeHash
            | Self::PolicyDigest => Some(32),
            Self::K256PublicKey => Some(33),
            Self::AppId => Some(20),
            Self::LogKey => None,
        }
    }

    /// Whether this pin alone says which KMS is meant. The values of the other pins can be those of anyone's KMS.
    const fn is_sufficient(self) -> bool {
        matches!(self, Self::RootCaSpkiSha256 | Self::MrAggregated)
    }
}

/// Pinned values: for each key one value or several, of which what is proved must have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins(BTreeMap<Pin, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Pins {
    /// Parses a JSON object.
    ///
    /// # Errors
    /// [`Refusal::BadPins`].
    pub fn parse(json: &str) -> Result<Self, Refusal> {
        if let Some(key) = kms_attest::json::duplicate_keys(json.as_bytes()).first() {
            return Err(Refusal::BadPins(format!("{} is there more than once", crate::text::printable(key))));
        }
        let given: BTreeMap<Pin, OneOrMore> =
            serde_json::from_str(json).map_err(|error| Refusal::BadPins(error.to_string()))?;
        let mut pins = Self::default();
        for (pin, values) in given {
            let values = match values {
                OneOrMore::One(value) => vec![value],
                OneOrMore::More(values) => values,
            };
            if values.is_empty() {
                return Err(Refusal::BadPins(format!("{} is an empty list", pin.name())));
            }
            for value in values {
                pins.add(pin, value)?;
            }
        }
        Ok(pins)
    }

    /// Adds a value.
    ///
    /// # Errors
    /// [`Refusal::BadPins`].
    pub fn add(&mut self, pin: Pin, value: String) -> Result<(), Refusal> {
        if let Some(length) = pin.length()
            && decode(&value).is_none_or(|bytes| bytes.len() != length)
        {
            let (name, digits) = (pin.name(), 2 * length);
            return Err(Refusal::BadPins(format!("{name} must be {digits} lower-case hexadecimal digits")));
        }
        if value.is_empty() {
            return Err(Refusal::BadPins(format!("{} is empty", pin.name())));
        }
        self.0.entry(pin).or_default().push(value);
        Ok(())
    }

    /// Whether it says which KMS is meant.
    pub fn is_sufficient(&self) -> bool {
        self.0.keys().any(|pin| pin.is_sufficient())
    }

    /// Whether this is pinned.
    pub fn has(&self, pin: Pin) -> bool {
        self.0.contains_key(&pin)
    }

    /// Compares the proved value, which may be missing.
    pub(super) fn check(&self, pin: Pin, found: Option<&str>) -> Result<(), Refusal> {
        match (self.0.get(&pin), found) {
            (None, _) => Ok(()),
            (Some(values), Some(found)) if values.iter().any(|value| value == found) => Ok(()),
            (Some(_), found) => {
                let found = crate::text::printable(found.unwrap_or("missing"));
                Err(Refusal::PinMismatch { pin, found })
            }
        }
    }
}

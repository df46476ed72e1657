//! App info: the identity as one record, and its MessagePack form in the certificate extension of that name.

use serde::{Deserialize, Serialize};

use crate::evidence::pack::{Reader, TextForm, Writer};
use crate::evidence::{FieldError, Problem};

/// The most init scripts that an identity can hold.
pub const MAX_INIT_SCRIPTS: usize = 5;

/// Who a CVM is. In JSON, bytes are hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppInfo {
    /// 20 bytes, if the evidence is an app's; see [`super::AppId`].
    #[serde(with = "hex::serde")]
    pub app_id: Vec<u8>,
    /// SHA-256 of the compose file.
    #[serde(with = "hex::serde")]
    pub compose_hash: Vec<u8>,
    /// 20 bytes, or empty if the app does without.
    #[serde(with = "hex::serde")]
    pub instance_id: Vec<u8>,
    /// SHA-256 of the device's raw id; of nothing in unverified decoding.
    #[serde(with = "hex::serde")]
    pub device_id: Vec<u8>,
    /// Hardware, firmware, system and key provider.
    #[serde(with = "hex::serde")]
    pub mr_system: [u8; 32],
    /// Everything that is measured.
    #[serde(with = "hex::serde")]
    pub mr_aggregated: [u8; 32],
    /// The OS image that the configuration claims; empty if it does not.
    #[serde(with = "hex::serde")]
    pub os_image_hash: Vec<u8>,
    /// JSON: who gave the guest its keys; empty at boot time.
    #[serde(with = "hex::serde")]
    pub key_provider_info: Vec<u8>,
    /// SHA-256 of each init script; `None` where the evidence cannot say.
    #[serde(default, with = "hashes")]
    pub init_script_hashes: Option<Vec<[u8; 32]>>,
}

/// Why bytes are not app info.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppInfoError {
    /// A field that does not decode.
    #[error("app info does not decode: {0}")]
    Field(#[from] FieldError),
    /// An array of another length.
    #[error("app info must have 8 or 9 elements, got {0}")]
    Elements(usize),
    /// A measurement of another length.
    #[error("{field} in app info must be 32 bytes, got {length}")]
    Length {
        /// The field.
        field: &'static str,
        /// Its length.
        length: usize,
    },
    /// App info, and something behind it.
    #[error("{0} trailing bytes after the app info")]
    Trailing(usize),
}

impl AppInfo {
    /// The extension's payload: an array of nine elements.
    pub fn to_msgpack(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer
            .array(9)
            .bin(&self.app_id)
            .bin(&self.compose_hash)
            .bin(&self.instance_id)
            .bin(&self.device_id)
            .bin(&self.mr_system)
            .bin(&self.mr_aggregated)
            .bin(&self.os_image_hash)
            .bin(&self.key_provider_info);
        match &self.init_script_hashes {
            None => writer.nil(),
            Some(hashes) => writer.sequence(hashes, |writer, hash| {
                writer.bin(hash);
            }),
        };
        writer.into_bytes()
    }

    /// Reads the extension's payload, also an old one without the last element.
    pub fn from_msgpack(bytes: &[u8]) -> Result<Self, AppInfoError> {
        let mut reader = Reader::new(bytes);
        let elements = reader.array(usize::MAX, "app_info")?;
        if !(8..=9).contains(&elements) {
            return Err(AppInfoError::Elements(elements));
        }
        let mut bytes = |field| reader.bytes(TextForm::None, field);
        let app_info = Self {
            app_id: bytes("app_id")?,
            compose_hash: bytes("compose_hash")?,
            instance_id: bytes("instance_id")?,
            device_id: bytes("device_id")?,
            mr_system: measurement("mr_system", bytes("mr_system")?)?,
            mr_aggregated: measurement("mr_aggregated", bytes("mr_aggregated")?)?,
            os_image_hash: bytes("os_image_hash")?,
            key_provider_info: bytes("key_provider_info")?,
            init_script_hashes: if elements == 9 { read_hashes(&mut reader)? } else { None },
        };
        match reader.rest() {
            [] => Ok(app_info),
            rest => Err(AppInfoError::Trailing(rest.len())),
        }
    }
}

fn read_hashes(reader: &mut Reader<'_>) -> Result<Option<Vec<[u8; 32]>>, FieldError> {
    const FIELD: &str = "init_script_hashes";
    if reader.nil() {
        return Ok(None);
    }
    let hash = |reader: &mut Reader<'_>| {
        let bytes = reader.bytes(TextForm::None, FIELD)?;
        bytes.try_into().map_err(|_| Problem::WrongType { expected: "32 bytes" }.in_field(FIELD))
    };
    reader.sequence(MAX_INIT_SCRIPTS, FIELD, hash).map(Some)
}

fn measurement(field: &'static str, bytes: Vec<u8>) -> Result<[u8; 32], AppInfoError> {
    bytes.try_into().map_err(|bytes: Vec<u8>| AppInfoError::Length { field, length: bytes.len() })
}

/// Serde of optional hashes as hex texts.
mod hashes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Hash(#[serde(with = "hex::serde")] [u8; 32]);

    pub(super) fn serialize<S: Serializer>(
        hashes: &Option<Vec<[u8; 32]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let hashes = hashes.as_ref().map(|hashes| hashes.iter().map(|hash| Hash(*hash)));
        hashes.map(Iterator::collect::<Vec<_>>).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<[u8; 32]>>, D::Error> {
        let hashes = Option::<Vec<Hash>>::deserialize(deserializer)?;
        Ok(hashes.map(|hashes| hashes.into_iter().map(|Hash(hash)| hash).collect()))
    }
}

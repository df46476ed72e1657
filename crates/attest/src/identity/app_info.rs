//! App info: what evidence or a certificate states about a guest, and its MessagePack form in the certificate
//! extension of that name.

use serde::{Deserialize, Serialize};

use crate::codec::pack::{Known, Reader, TextForm, Writer, required, set};
use crate::codec::{FieldError, Problem};

/// Maximum number of init scripts in app info.
pub const MAX_INIT_SCRIPTS: usize = 5;

/// What evidence or a certificate states about a guest: its fields have any width. In JSON, bytes are hex.
/// [`super::Identity`] is what verified evidence states, with the right widths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppInfo {
    /// 20 bytes, if the evidence is an app's; see [`super::AppId`].
    #[serde(with = "hex::serde")]
    pub app_id: Vec<u8>,
    /// SHA-256 of the compose file.
    #[serde(with = "hex::serde")]
    pub compose_hash: Vec<u8>,
    /// 20 bytes, or empty if the instances of the app have no id.
    #[serde(with = "hex::serde")]
    pub instance_id: Vec<u8>,
    /// SHA-256 of the raw device id. In unverified decoding that id is empty.
    #[serde(with = "hex::serde")]
    pub device_id: Vec<u8>,
    /// Hardware, firmware, system and key provider.
    #[serde(with = "hex::serde")]
    pub mr_system: [u8; 32],
    /// Everything that is measured.
    #[serde(with = "hex::serde")]
    pub mr_aggregated: [u8; 32],
    /// The OS image that the configuration claims; empty if it claims none.
    #[serde(with = "hex::serde")]
    pub os_image_hash: Vec<u8>,
    /// The key provider as JSON; empty at boot time.
    #[serde(with = "hex::serde")]
    pub key_provider_info: Vec<u8>,
    /// SHA-256 of each init script; `None` if the evidence has no such field.
    #[serde(default, with = "hashes")]
    pub init_script_hashes: Option<Vec<[u8; 32]>>,
}

/// Why bytes are not valid app info.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppInfoError {
    /// A field that does not decode.
    #[error("app info does not decode: {0}")]
    Field(#[from] FieldError),
    /// An array of the wrong length.
    #[error("app info must have 8 or 9 elements, got {0}")]
    Elements(usize),
    /// A measurement of the wrong length.
    #[error("{field} in app info must be 32 bytes, got {length}")]
    Length {
        /// The name of the field.
        field: &'static str,
        /// Its length.
        length: usize,
    },
    /// Bytes after the app info.
    #[error("{0} trailing bytes after the app info")]
    Trailing(usize),
}

/// The keys of the map, in the order in which [`AppInfo::to_msgpack`] writes them.
mod key {
    pub(super) const APP_ID: &str = "app_id";
    pub(super) const COMPOSE_HASH: &str = "compose_hash";
    pub(super) const INSTANCE_ID: &str = "instance_id";
    pub(super) const DEVICE_ID: &str = "device_id";
    pub(super) const MR_SYSTEM: &str = "mr_system";
    pub(super) const MR_AGGREGATED: &str = "mr_aggregated";
    pub(super) const OS_IMAGE_HASH: &str = "os_image_hash";
    pub(super) const KEY_PROVIDER_INFO: &str = "key_provider_info";
    pub(super) const INIT_SCRIPT_HASHES: &str = "init_script_hashes";
}

impl AppInfo {
    /// The payload of the extension: a map of nine named values, as the peer writes it since 0.6.0.
    pub fn to_msgpack(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(9);
        for (name, bytes) in [
            (key::APP_ID, &self.app_id[..]),
            (key::COMPOSE_HASH, &self.compose_hash),
            (key::INSTANCE_ID, &self.instance_id),
            (key::DEVICE_ID, &self.device_id),
            (key::MR_SYSTEM, &self.mr_system),
            (key::MR_AGGREGATED, &self.mr_aggregated),
            (key::OS_IMAGE_HASH, &self.os_image_hash),
            (key::KEY_PROVIDER_INFO, &self.key_provider_info),
        ] {
            writer.text(name).bin(bytes);
        }
        writer.text(key::INIT_SCRIPT_HASHES);
        match &self.init_script_hashes {
            None => writer.nil(),
            Some(hashes) => writer.sequence(hashes, |writer, hash| {
                writer.bin(hash);
            }),
        };
        writer.into_bytes()
    }

    /// Reads the payload of the extension: the map, with unknown keys skipped, or the array of eight or nine
    /// elements of older writers.
    pub fn from_msgpack(bytes: &[u8]) -> Result<Self, AppInfoError> {
        let mut reader = Reader::new(bytes);
        let app_info = match bytes.first() {
            Some(0x80..=0x8f | 0xde | 0xdf) => Self::read_map(&mut reader)?,
            _ => Self::read_array(&mut reader)?,
        };
        match reader.rest() {
            [] => Ok(app_info),
            rest => Err(AppInfoError::Trailing(rest.len())),
        }
    }

    fn read_map(reader: &mut Reader<'_>) -> Result<Self, AppInfoError> {
        let (mut app_id, mut compose_hash, mut instance_id, mut device_id) = (None, None, None, None);
        let (mut mr_system, mut mr_aggregated) = (None, None);
        let (mut os_image_hash, mut key_provider_info, mut init_script_hashes) = (None, None, None);
        reader.map("app_info", |reader, name| {
            let mut bytes =
                |slot: &mut Option<Vec<u8>>, field| set(slot, field, reader.bytes(TextForm::None, field)?);
            match name {
                key::APP_ID => bytes(&mut app_id, key::APP_ID),
                key::COMPOSE_HASH => bytes(&mut compose_hash, key::COMPOSE_HASH),
                key::INSTANCE_ID => bytes(&mut instance_id, key::INSTANCE_ID),
                key::DEVICE_ID => bytes(&mut device_id, key::DEVICE_ID),
                key::MR_SYSTEM => bytes(&mut mr_system, key::MR_SYSTEM),
                key::MR_AGGREGATED => bytes(&mut mr_aggregated, key::MR_AGGREGATED),
                key::OS_IMAGE_HASH => bytes(&mut os_image_hash, key::OS_IMAGE_HASH),
                key::KEY_PROVIDER_INFO => bytes(&mut key_provider_info, key::KEY_PROVIDER_INFO),
                key::INIT_SCRIPT_HASHES => {
                    set(&mut init_script_hashes, key::INIT_SCRIPT_HASHES, read_hashes(reader)?)
                }
                _ => Ok(Known::No),
            }
        })?;
        Ok(Self {
            app_id: required(app_id, key::APP_ID)?,
            compose_hash: required(compose_hash, key::COMPOSE_HASH)?,
            instance_id: required(instance_id, key::INSTANCE_ID)?,
            device_id: required(device_id, key::DEVICE_ID)?,
            mr_system: measurement(key::MR_SYSTEM, required(mr_system, key::MR_SYSTEM)?)?,
            mr_aggregated: measurement(key::MR_AGGREGATED, required(mr_aggregated, key::MR_AGGREGATED)?)?,
            os_image_hash: required(os_image_hash, key::OS_IMAGE_HASH)?,
            key_provider_info: required(key_provider_info, key::KEY_PROVIDER_INFO)?,
            init_script_hashes: init_script_hashes.flatten(),
        })
    }

    fn read_array(reader: &mut Reader<'_>) -> Result<Self, AppInfoError> {
        let elements = reader.array(usize::MAX, "app_info")?;
        if !(8..=9).contains(&elements) {
            return Err(AppInfoError::Elements(elements));
        }
        let mut bytes = |field| reader.bytes(TextForm::None, field);
        Ok(Self {
            app_id: bytes(key::APP_ID)?,
            compose_hash: bytes(key::COMPOSE_HASH)?,
            instance_id: bytes(key::INSTANCE_ID)?,
            device_id: bytes(key::DEVICE_ID)?,
            mr_system: measurement(key::MR_SYSTEM, bytes(key::MR_SYSTEM)?)?,
            mr_aggregated: measurement(key::MR_AGGREGATED, bytes(key::MR_AGGREGATED)?)?,
            os_image_hash: bytes(key::OS_IMAGE_HASH)?,
            key_provider_info: bytes(key::KEY_PROVIDER_INFO)?,
            init_script_hashes: if elements == 9 { read_hashes(reader)? } else { None },
        })
    }
}

fn read_hashes(reader: &mut Reader<'_>) -> Result<Option<Vec<[u8; 32]>>, FieldError> {
    const FIELD: &str = key::INIT_SCRIPT_HASHES;
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

/// Serde of optional hashes as hex text.
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

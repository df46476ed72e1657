//! An entry of `kms.images`: a KMS by what it runs, on a machine of any shape.

use std::fmt;

use kms_attest::identity::{AppId, BootInfo, ComposeHash, OsImageHash};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::hex_text::bytes_of;

/// A KMS that runs this compose file in this OS image. What a VM shape and an instance add to `mr_aggregated` does not count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KmsImage {
    pub(crate) image: OsImageHash,
    pub(crate) compose: ComposeHash,
    /// What gives the guest the key of its disk, which then holds the root keys. Where that is not the host's choice but
    /// the guest's own random number, `None`.
    pub(crate) key_provider: Option<KeyProvider>,
    /// `None` is any app id.
    pub(crate) app: Option<AppId>,
}

/// The content of the event `key-provider`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyProvider {
    /// `local-sgx`, `kms` or `tpm`.
    name: String,
    /// MRENCLAVE, the public key of a KMS, or nothing.
    id: Box<[u8]>,
}

impl fmt::Display for KeyProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, hex::encode(&self.id))
    }
}

impl KmsImage {
    /// Reads an entry. Every key of it restricts, so unknown ones are refused.
    pub(crate) fn parse(entry: Value) -> Result<Self, String> {
        if !entry.is_object() {
            return Err("must be an object".to_owned());
        }
        let entry = Written::deserialize(entry).map_err(|error| bounded(&error))?;
        let Written { os_image_hash, compose_hash, key_provider, app_id } = entry;
        Ok(Self {
            image: OsImageHash(exact(&os_image_hash, "osImageHash")?),
            compose: ComposeHash(exact(&compose_hash, "composeHash")?),
            key_provider: key_provider.map(WrittenProvider::parse).transpose()?.flatten(),
            app: app_id.map(|id| exact(&id, "appId").map(AppId)).transpose()?,
        })
    }

    /// The most exact entry that fits a caller; `None` if there is none, because the caller names no OS image, or its key
    /// provider is not as guests write it.
    pub(crate) fn of(caller: &BootInfo) -> Option<Self> {
        Some(Self {
            image: OsImageHash(caller.os_image_hash[..].try_into().ok()?),
            compose: ComposeHash(caller.compose_hash[..].try_into().ok()?),
            key_provider: measured(&caller.key_provider_info)?,
            app: Some(AppId::try_from(&caller.app_id[..]).ok()?),
        })
    }

    /// As it is written in a file, without the app id.
    pub(crate) fn written(&self) -> Value {
        let mut entry = json!({
            "osImageHash": self.image.to_string(),
            "composeHash": self.compose.to_string(),
        });
        if let Some(KeyProvider { name, id }) = &self.key_provider {
            entry["keyProvider"] = json!({ "name": name, "id": hex::encode(id) });
        }
        entry
    }
}

/// The key provider of a guest, as it has measured it. The outer `None` is one that no entry can name, such as that of a
/// guest that still boots, and has not said yet what its disk is encrypted with.
fn measured(info: &[u8]) -> Option<Option<KeyProvider>> {
    let written: WrittenProvider = kms_attest::json::from_utf8(info).ok()?;
    written.parse().ok()
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    os_image_hash: String,
    compose_hash: String,
    key_provider: Option<WrittenProvider>,
    app_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProvider {
    name: String,
    #[serde(default)]
    id: String,
}

impl WrittenProvider {
    /// `None` is a guest that makes its own key.
    fn parse(self) -> Result<Option<KeyProvider>, String> {
        let Self { name, id } = self;
        let id = match id.as_str() {
            "" => Box::default(),
            id => bytes_of(id).ok_or("keyProvider.id must be hex")?,
        };
        match name.as_str() {
            "none" if id.is_empty() => Ok(None),
            "none" => Err("keyProvider.id must be empty with the name none".to_owned()),
            "" => Err("keyProvider.name must be local-sgx, kms, tpm or none".to_owned()),
            _ => Ok(Some(KeyProvider { name, id })),
        }
    }
}

fn exact<const N: usize>(text: &str, key: &str) -> Result<[u8; N], String> {
    let bytes = bytes_of(text).and_then(|bytes| <[u8; N]>::try_from(&bytes[..]).ok());
    bytes.ok_or_else(|| format!("{key} must have {} hex digits", 2 * N))
}

fn bounded(error: &serde_json::Error) -> String {
    error.to_string().chars().take(160).collect()
}

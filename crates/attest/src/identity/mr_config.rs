//! MRCONFIGID (HOST_DATA on SEV-SNP): what the host states about the app at launch. The guest checks it
//! against itself.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use sha3::Keccak256;

use super::AppId;

/// The source of a guest's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyProvider {
    /// No key provider.
    None,
    /// An SGX enclave on the same host.
    Local,
    /// A KMS.
    Kms,
    /// The guest's TPM.
    Tpm,
}

impl KeyProvider {
    fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Local => 1,
            Self::Kms => 2,
            Self::Tpm => 3,
        }
    }

    /// The provider's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Local => "local",
            Self::Kms => "kms",
            Self::Tpm => "tpm",
        }
    }
}

/// `01 ‖ compose_hash`, padded with zeros.
pub fn version_1(compose_hash: &[u8; 32]) -> [u8; 48] {
    padded(1, compose_hash)
}

/// `02 ‖ Keccak-256(compose_hash ‖ app_id ‖ kind ‖ key provider id)`, padded with zeros.
pub fn version_2(
    compose_hash: &[u8; 32],
    app_id: &AppId,
    key_provider: KeyProvider,
    key_provider_id: &[u8],
) -> [u8; 48] {
    let hash = Keccak256::new()
        .chain_update(compose_hash)
        .chain_update(app_id)
        .chain_update([key_provider.number()])
        .chain_update(key_provider_id)
        .finalize();
    padded(2, &hash.into())
}

/// `03 ‖ SHA-256("dstack-mr-config-v3:" ‖ 00 ‖ document)`, padded with zeros. The hash is over the exact
/// bytes.
pub fn version_3(document: &str) -> [u8; 48] {
    padded(3, &host_data(document))
}

/// HOST_DATA of a SEV-SNP guest: `SHA-256("dstack-mr-config-v3:" ‖ 00 ‖ document)`.
pub fn host_data(document: &str) -> [u8; 32] {
    Sha256::new().chain_update(b"dstack-mr-config-v3:\0").chain_update(document).finalize().into()
}

fn padded(version: u8, hash: &[u8; 32]) -> [u8; 48] {
    let mut id = [0; 48];
    id[0] = version;
    id[1..33].copy_from_slice(hash);
    id
}

/// The document that version 3 hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MrConfigDocument {
    /// The app.
    #[serde(default, with = "optional_hex", skip_serializing_if = "Option::is_none")]
    pub app_id: Option<Vec<u8>>,
    /// SHA-256 of the compose file.
    #[serde(with = "hex::serde")]
    pub compose_hash: Vec<u8>,
    /// SHA-256 of the GPU policy.
    #[serde(default, with = "optional_hex", skip_serializing_if = "Option::is_none")]
    pub gpu_policy_hash: Option<Vec<u8>>,
    /// SHA-256 of each init script, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_script_hashes: Option<Vec<Hash>>,
    /// The instance.
    #[serde(default, with = "optional_hex", skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<Vec<u8>>,
    /// The source of the guest's keys.
    pub key_provider: KeyProvider,
    /// The public key or measurement of the key provider.
    #[serde(default, with = "optional_hex", skip_serializing_if = "Option::is_none")]
    pub key_provider_id: Option<Vec<u8>>,
    /// 3.
    pub version: Version3,
}

/// A hash, in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash(#[serde(with = "hex::serde")] pub [u8; 32]);

/// The number 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version3;

impl Serialize for Version3 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(3)
    }
}

impl<'de> Deserialize<'de> for Version3 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            3 => Ok(Self),
            other => Err(serde::de::Error::custom(format!("version must be 3, got {other}"))),
        }
    }
}

/// Why a text is not such a document.
#[derive(Debug, thiserror::Error)]
#[error("the mr_config document does not parse: {0}")]
pub struct MrConfigError(#[from] serde_json::Error);

impl MrConfigDocument {
    /// Reads a document. An unknown key is an error.
    pub fn parse(text: &str) -> Result<Self, MrConfigError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The document in canonical form.
    pub fn to_text(&self) -> String {
        serde_jcs::to_string(self).expect("hex texts and a number have a canonical form")
    }
}

/// Serde of optional bytes as hex text.
mod optional_hex {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Hex(#[serde(with = "hex::serde")] Vec<u8>);

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.clone().map(Hex).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Hex>::deserialize(deserializer)?.map(|Hex(bytes)| bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_with_an_unknown_key_or_another_version_is_refused() {
        let cases = [
            (r#"{"compose_hash":"00","key_provider":"kms","version":3,"x":1}"#, "unknown field `x`"),
            (r#"{"compose_hash":"00","key_provider":"kms","version":2}"#, "version must be 3, got 2"),
            (r#"{"compose_hash":"00","key_provider":"nobody","version":3}"#, "unknown variant `nobody`"),
        ];
        for (document, reason) in cases {
            let error = MrConfigDocument::parse(document).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

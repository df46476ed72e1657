//! The file to which `app-key` writes the keys of an app, and from which other commands read them.

use std::path::Path;

use kms_attest::identity::AppId;
use kms_client::proto::AppKeyResponse;
use kms_client::{AppKeys, Epochs};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::exit::{Failure, Outcome};
use crate::{files, input};

const MAX_BYTES: usize = 256 << 10;

/// The fields as text; wiped when dropped.
#[derive(Serialize, Deserialize)]
pub(crate) struct AppKeysFile {
    /// The URL of the KMS that released them.
    #[serde(default)]
    pub(crate) kms_url: String,
    /// The public key of the root CA, SubjectPublicKeyInfo DER, in hexadecimal.
    #[serde(default)]
    pub(crate) key_provider_id: String,
    /// In hexadecimal; empty if the evidence has none.
    #[serde(default)]
    pub(crate) app_id: String,
    /// Root CA, PEM.
    #[serde(default)]
    pub(crate) ca_cert: String,
    /// Hex, 32 bytes.
    #[serde(default)]
    disk_crypt_key: String,
    /// Hex, 32 bytes.
    env_crypt_key: String,
    /// Hex, 32 bytes.
    #[serde(default)]
    k256_key: String,
    /// Hex, 65 bytes.
    #[serde(default)]
    k256_signature: String,
    #[serde(default)]
    gateway_app_id: String,
    /// Hex.
    #[serde(default)]
    os_image_hash: String,
    /// PEM.
    #[serde(default)]
    temp_ca_cert: String,
    /// PEM. Public by design.
    #[serde(default)]
    temp_ca_key: String,
    /// The epochs of the keys.
    #[serde(default)]
    root_epoch: u32,
    #[serde(default)]
    app_epoch: u32,
}

impl Drop for AppKeysFile {
    fn drop(&mut self) {
        self.disk_crypt_key.zeroize();
        self.env_crypt_key.zeroize();
        self.k256_key.zeroize();
        self.temp_ca_key.zeroize();
    }
}

impl From<&AppKeys> for AppKeysFile {
    fn from(keys: &AppKeys) -> Self {
        let AppKeyResponse { ca_cert, gateway_app_id, .. } = &keys.response;
        Self {
            kms_url: keys.url.to_string(),
            key_provider_id: hex::encode(&keys.key_provider),
            app_id: keys.app_id.map(|id| id.to_string()).unwrap_or_default(),
            ca_cert: ca_cert.clone(),
            disk_crypt_key: hex::encode(&keys.response.disk_crypt_key),
            env_crypt_key: hex::encode(&keys.response.env_crypt_key),
            k256_key: hex::encode(&keys.response.k256_key),
            k256_signature: hex::encode(&keys.response.k256_signature),
            gateway_app_id: gateway_app_id.clone(),
            os_image_hash: hex::encode(&keys.response.os_image_hash),
            temp_ca_cert: keys.temp_ca.temp_ca_cert.clone(),
            temp_ca_key: keys.temp_ca.temp_ca_key.clone(),
            root_epoch: keys.epochs().root,
            app_epoch: keys.epochs().app,
        }
    }
}

impl AppKeysFile {
    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let text = files::read_text(path, MAX_BYTES)?;
        // The parser's message contains no value.
        serde_json::from_str(&text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Failure::usage(format_args!(
                "{}: line {line}, column {column}: not a file of app keys as `kmsctl app-key` writes it",
                path.display()
            ))
        })
    }

    /// The file's JSON, wiped when dropped.
    pub(crate) fn to_json(&self) -> Outcome<Zeroizing<String>> {
        // Allocated at once, because growing would leave copies in memory.
        let mut json = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
        serde_json::to_writer_pretty(&mut *json, self).map_err(Failure::failed)?;
        json.push(b'\n');
        let text = std::str::from_utf8(&json).map_err(Failure::failed)?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// The epochs of the keys.
    pub(crate) fn epochs(&self) -> Epochs {
        Epochs { root: self.root_epoch, app: self.app_epoch }
    }

    /// The secret that decrypts the app's environment.
    pub(crate) fn env_crypt_key(&self) -> Result<Zeroizing<[u8; 32]>, String> {
        input::decode_secret(&self.env_crypt_key).map_err(|error| format!("env_crypt_key {error}"))
    }

    pub(crate) fn k256_key(&self) -> Result<Zeroizing<[u8; 32]>, String> {
        input::decode_secret(&self.k256_key).map_err(|error| format!("k256_key {error}"))
    }

    /// The root key's signature over the app's secp256k1 key.
    pub(crate) fn k256_signature(&self) -> Result<Vec<u8>, String> {
        input::decode(&self.k256_signature).map_err(|error| format!("k256_signature {error}"))
    }

    pub(crate) fn app_id(&self) -> Result<AppId, String> {
        input::app_id(&self.app_id).map_err(|error| format!("app_id {error}"))
    }
}

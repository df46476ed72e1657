//! What a key is for, and its one encoding in the derivation.

use kms_attest::identity::AppId;

use super::epoch::KeyEpochs;
use super::label;

/// The domain of all keys, as long as there is one only.
pub const DEFAULT_DOMAIN: &str = "default";

/// What a key of an app is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Encrypts the disk of an instance.
    DiskKey,
    /// The X25519 secret that decrypts the environment.
    EnvKey,
    /// The key of the app's certificate authority.
    AppCa,
    /// The secp256k1 key of the app.
    AppKey,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 4] = [Self::DiskKey, Self::EnvKey, Self::AppCa, Self::AppKey];

    /// Its label.
    pub fn label(self) -> &'static [u8] {
        match self {
            Self::DiskKey => label::APP_DISK_CRYPT_KEY,
            Self::EnvKey => label::ENV_ENCRYPT_KEY,
            Self::AppCa => label::APP_CA,
            Self::AppKey => label::APP_KEY,
        }
    }
}

/// Everything that makes one key of an app another than all other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyScope<'a> {
    /// The domain, [`DEFAULT_DOMAIN`] for all apps of today.
    pub domain: &'a str,
    /// The epochs.
    pub epochs: KeyEpochs,
    /// The app.
    pub app_id: &'a AppId,
    /// The instance; empty where all instances share the key.
    pub instance_id: &'a [u8],
    /// What the key is for.
    pub purpose: Purpose,
}

impl<'a> KeyScope<'a> {
    /// Whether the key is one that the peer derives too.
    pub fn is_first(&self) -> bool {
        self.domain == DEFAULT_DOMAIN && self.epochs.is_first()
    }

    /// The context items of the peer's derivation: `app_id ‖ instance_id ‖ label`.
    pub(super) fn first_context(&self) -> [&'a [u8]; 3] {
        [&self.app_id.0, self.instance_id, self.purpose.label()]
    }

    /// The info of the derivation of all other keys:
    /// `LP(domain) ‖ u32be(root epoch) ‖ u32be(app epoch) ‖ app_id ‖ LP(instance_id) ‖ LP(label)`, where
    /// `LP(x) = u32be(length of x) ‖ x`. No two scopes have the same, because each part has a fixed length or states it.
    pub fn info(&self) -> Vec<u8> {
        let label = self.purpose.label();
        let mut info = Vec::with_capacity(40 + self.domain.len() + self.instance_id.len() + label.len());
        prefixed(&mut info, self.domain.as_bytes());
        info.extend(self.epochs.root.0.to_be_bytes());
        info.extend(self.epochs.app.0.to_be_bytes());
        info.extend(self.app_id.0);
        prefixed(&mut info, self.instance_id);
        prefixed(&mut info, label);
        info
    }
}

fn prefixed(info: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("no domain, instance id or label has 4 GiB");
    info.extend(length.to_be_bytes());
    info.extend(part);
}

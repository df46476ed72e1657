//! Sealed environments, version 1, as guests of dstack 0.6.4 and later read them: HPKE to the app's key of one
//! epoch.
//!
//! RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, without additional data, with
//! `info` = `dstack-sealed-env-v1:<root_epoch>:<app_epoch>` in decimal digits. The file is a JSON object:
//! `version` (1), `root_epoch`, `app_epoch`, `enc` and `ciphertext` (base64). The plaintext is that of
//! [`Environment`](super::Environment). The sender is not authenticated: anyone can seal for an app.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::envelope::KEY_BYTES;
pub use crate::epochs::Epochs;

/// The version of the format.
pub const VERSION: u64 = 1;
/// The longest plaintext that is sealed or opened, in bytes.
pub const MAX_PLAINTEXT_BYTES: usize = 16 << 20;
const TAG_BYTES: usize = 16;
const MAX_CIPHERTEXT_BYTES: usize = MAX_PLAINTEXT_BYTES + TAG_BYTES;
/// The longest file that is read, in bytes: base64 is four thirds, and the rest is names and numbers.
pub const MAX_BYTES: usize = MAX_CIPHERTEXT_BYTES / 3 * 4 + 1024;

/// A sealed environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedEnv {
    epochs: Epochs,
    encapsulated: [u8; KEY_BYTES],
    ciphertext: Vec<u8>,
}

/// Why a sealed environment cannot be read, made or opened. Contains nothing of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedEnvError {
    /// A file longer than [`MAX_BYTES`].
    #[error("a sealed environment has at most {MAX_BYTES} bytes, got {0}")]
    TooLong(usize),
    /// Not JSON.
    #[error("line {line}, column {column}: not JSON, as a sealed environment is")]
    Json {
        /// Line of the first invalid character, from 1.
        line: usize,
        /// Column of the first invalid character.
        column: usize,
    },
    /// A field is missing, of another type, out of range, there twice or not known.
    #[error(
        "line {line}, column {column}: not a sealed environment: it has version, root_epoch, app_epoch, enc and \
         ciphertext, once each, and nothing else"
    )]
    Fields {
        /// Line at which it was noticed, from 1.
        line: usize,
        /// Column at which it was noticed.
        column: usize,
    },
    /// A later version.
    #[error("version {0} of sealed environments is not known; this program reads version {VERSION}")]
    Version(u64),
    /// Not base64, or not its one encoding.
    #[error("{0} must be base64 with the standard alphabet and padding")]
    Base64(&'static str),
    /// `enc` of another length.
    #[error("enc must be {KEY_BYTES} bytes, got {0}")]
    Encapsulated(usize),
    /// `ciphertext` too short or too long.
    #[error("ciphertext must be {TAG_BYTES} to {MAX_CIPHERTEXT_BYTES} bytes, got {0}")]
    Ciphertext(usize),
    /// A plaintext longer than [`MAX_PLAINTEXT_BYTES`].
    #[error("an environment to seal has at most {MAX_PLAINTEXT_BYTES} bytes, got {0}")]
    Plaintext(usize),
    /// A public key that allows no key agreement, such as a point of small order.
    #[error("the public key is not one to seal to")]
    PublicKey,
    /// Sealed to another key or for other epochs, or modified.
    #[error("it is for {0}, and was not sealed to this key, or it was changed since")]
    Open(Epochs),
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    version: u64,
    root_epoch: u32,
    app_epoch: u32,
    #[serde(borrow)]
    enc: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    ciphertext: std::borrow::Cow<'a, str>,
}

/// Other versions may have other fields.
#[derive(Deserialize)]
struct AnyVersion {
    version: u64,
}

impl SealedEnv {
    /// Seals `plaintext` to the public key that an app has in these epochs.
    ///
    /// # Errors
    /// If the plaintext is too long, or nothing can be sealed to the key.
    pub fn seal(
        public_key: &[u8; KEY_BYTES],
        epochs: Epochs,
        plaintext: &[u8],
    ) -> Result<Self, SealedEnvError> {
        if plaintext.len() > MAX_PLAINTEXT_BYTES {
            return Err(SealedEnvError::Plaintext(plaintext.len()));
        }
        let key = HpkePublicKey(public_key.to_vec());
        let sealed = SUITE.seal(info(epochs).as_bytes(), &[], plaintext, &key);
        let (EncapsulatedSecret(encapsulated), ciphertext) = sealed.map_err(|_| SealedEnvError::PublicKey)?;
        let encapsulated = encapsulated.try_into().map_err(|_| SealedEnvError::PublicKey)?;
        Ok(Self { epochs, encapsulated, ciphertext })
    }

    /// Opens it with the secret that the app has in its epochs (`env_crypt_key`).
    ///
    /// # Errors
    /// If it was sealed to another key or for other epochs than it says, or was changed.
    pub fn open(&self, secret: &[u8; KEY_BYTES]) -> Result<Zeroizing<Vec<u8>>, SealedEnvError> {
        let enc = EncapsulatedSecret(self.encapsulated.to_vec());
        let key = HpkePrivateKey::from(secret.to_vec());
        SUITE
            .open(&enc, info(self.epochs).as_bytes(), &[], &self.ciphertext, &key)
            .map(Zeroizing::new)
            .map_err(|_| SealedEnvError::Open(self.epochs))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it is not a sealed environment of version 1; the error says where.
    pub fn parse(file: &[u8]) -> Result<Self, SealedEnvError> {
        if file.len() > MAX_BYTES {
            return Err(SealedEnvError::TooLong(file.len()));
        }
        let not_text = |_| unread(&serde::de::Error::custom("the body is not UTF-8"));
        let text = std::str::from_utf8(file).map_err(not_text)?;
        let AnyVersion { version } = serde_json::from_str(text).map_err(|error| unread(&error))?;
        if version != VERSION {
            return Err(SealedEnvError::Version(version));
        }
        let read: File<'_> = serde_json::from_str(text).map_err(|error| unread(&error))?;
        let enc = decoded("enc", &read.enc)?;
        let length = enc.len();
        let encapsulated = enc.try_into().map_err(|_| SealedEnvError::Encapsulated(length))?;
        let ciphertext = decoded("ciphertext", &read.ciphertext)?;
        if !(TAG_BYTES..=MAX_CIPHERTEXT_BYTES).contains(&ciphertext.len()) {
            return Err(SealedEnvError::Ciphertext(ciphertext.len()));
        }
        Ok(Self { epochs: Epochs { root: read.root_epoch, app: read.app_epoch }, encapsulated, ciphertext })
    }

    /// The file, JSON in one line without a line break.
    ///
    /// # Panics
    /// Never: text and numbers are always JSON.
    pub fn to_json(&self) -> String {
        let file = File {
            version: VERSION,
            root_epoch: self.epochs.root,
            app_epoch: self.epochs.app,
            enc: STANDARD.encode(self.encapsulated).into(),
            ciphertext: STANDARD.encode(&self.ciphertext).into(),
        };
        serde_json::to_string(&file).expect("text and numbers")
    }

    /// The epochs that it is sealed for, as it says itself: true if it opens.
    pub fn epochs(&self) -> Epochs {
        self.epochs
    }
}

fn info(Epochs { root, app }: Epochs) -> String {
    format!("dstack-sealed-env-v1:{root}:{app}")
}

fn unread(error: &serde_json::Error) -> SealedEnvError {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Data => SealedEnvError::Fields { line, column },
        _ => SealedEnvError::Json { line, column },
    }
}

fn decoded(name: &'static str, text: &str) -> Result<Vec<u8>, SealedEnvError> {
    STANDARD.decode(text).map_err(|_| SealedEnvError::Base64(name))
}

#[cfg(test)]
mod tests;

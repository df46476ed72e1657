//! Officers' files: `age`, armored, to one recipient. Encryption happens in the TEE, decryption where the officer's key is.

use std::io::{self, BufReader, Read, Write};
use std::time::Duration;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
pub use age::secrecy::SecretString;
pub use age::{Callbacks, NoCallbacks};
use age::{plugin, ssh, tag, tagpq, x25519};
use bech32::primitives::decode::CheckedHrpstring;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::montgomery::MontgomeryPoint;
use zeroize::Zeroizing;

use crate::officer::{Recipient, RecipientError};
use crate::plugin::{MAX_PLUGIN_TIME, TimedOut, in_time};
use crate::share::{MAX_SHARE, MAX_SHARE_FILE, Share, ShareFormatError};

/// A parsed recipient.
pub(crate) enum Key {
    X25519(x25519::Recipient),
    Ssh(ssh::Recipient),
    Tag(tag::Recipient),
    TagPq(Box<tagpq::Recipient>),
    Plugin(plugin::Recipient),
}

impl Key {
    /// The key, and its canonical text.
    pub(crate) fn parse(text: &str) -> Result<(Self, String), RecipientError> {
        let upper = text.to_ascii_uppercase();
        if upper.starts_with("AGE-SECRET-KEY-")
            || upper.starts_with("AGE-PLUGIN-")
            || upper.contains("PRIVATE KEY")
        {
            return Err(RecipientError::Private);
        }
        if text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.starts_with("sk-") {
            return ssh_key(text);
        }
        if let Ok(key) = text.parse::<x25519::Recipient>() {
            let canonical = key.to_string();
            return if x25519_is_small(&canonical) {
                Err(RecipientError::SmallOrder)
            } else {
                Ok((Key::X25519(key), canonical))
            };
        }
        if let Ok(key) = text.parse::<tag::Recipient>() {
            let canonical = key.to_string();
            return Ok((Key::Tag(key), canonical));
        }
        if let Ok(key) = text.parse::<tagpq::Recipient>() {
            let canonical = key.to_string();
            return Ok((Key::TagPq(Box::new(key)), canonical));
        }
        // The plugins of both tags are for their private keys only.
        match text.parse::<plugin::Recipient>() {
            Ok(key) if !matches!(key.plugin(), "tag" | "tagpq") => {
                let canonical = key.to_string();
                Ok((Key::Plugin(key), canonical))
            }
            _ => Err(RecipientError::Unknown),
        }
    }

    /// The program that encrypts to it.
    pub(crate) fn plugin(&self) -> Option<String> {
        match self {
            Key::Plugin(key) => Some(format!("age-plugin-{}", key.plugin())),
            Key::X25519(_) | Key::Ssh(_) | Key::Tag(_) | Key::TagPq(_) => None,
        }
    }
}

fn ssh_key(text: &str) -> Result<(Key, String), RecipientError> {
    let key: ssh::Recipient = text.parse().map_err(|_| RecipientError::SshKey)?;
    if let ssh::Recipient::SshEd25519(encoded, _) = &key {
        // The wire form ends with the point (RFC 8709, section 4).
        let point = encoded.len().checked_sub(32).and_then(|start| encoded.get(start..));
        let point = point.and_then(|point| CompressedEdwardsY::from_slice(point).ok()?.decompress());
        if point.ok_or(RecipientError::SshKey)?.is_small_order() {
            return Err(RecipientError::SmallOrder);
        }
    }
    let canonical = key.to_string();
    Ok((Key::Ssh(key), canonical))
}

/// `age` stops the process at a point whose product with every clamped scalar is zero.
fn x25519_is_small(canonical: &str) -> bool {
    let Ok(decoded) = CheckedHrpstring::new::<bech32::Bech32>(canonical) else { return true };
    let Ok(point) = <[u8; 32]>::try_from(decoded.byte_iter().collect::<Vec<u8>>()) else { return true };
    MontgomeryPoint(point).mul_clamped([9; 32]).0 == [0; 32]
}

/// Why a share could not be encrypted to an officer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    /// The plugin is not there.
    #[error("the program {0} is not beside the KMS: it is needed to encrypt to this recipient")]
    NoPlugin(String),
    /// The plugin failed, or it asked for something.
    #[error("the program {0} failed to encrypt to this recipient")]
    Plugin(String),
    /// The plugin did not answer in time, and was ended.
    #[error("the program {0} did not answer within {limit} s and was ended", limit = MAX_PLUGIN_TIME.as_secs())]
    Late(String),
    /// The environment makes age print what it tells the plugin.
    #[error("AGEDEBUG is set, with which age prints the keys of files: unset it and start again")]
    Debug,
    /// Something else failed.
    #[error("age failed to encrypt to this recipient")]
    Failed,
    /// The file would be longer than any officer's may be.
    #[error("the encrypted file is longer than {MAX_SHARE_FILE} bytes")]
    TooLong,
}

/// An armored age file to one recipient. A plugin may wait for something, so this may block, for [`MAX_PLUGIN_TIME`].
pub(crate) fn encrypt(recipient: &Recipient, plaintext: &[u8]) -> Result<String, EncryptError> {
    encrypt_within(MAX_PLUGIN_TIME, recipient, plaintext)
}

/// The same with another time for a plugin.
pub(crate) fn encrypt_within(
    limit: Duration,
    recipient: &Recipient,
    plaintext: &[u8],
) -> Result<String, EncryptError> {
    match recipient.key() {
        Key::X25519(key) => encrypt_to(&key, plaintext).map_err(|()| EncryptError::Failed),
        Key::Ssh(key) => encrypt_to(&key, plaintext).map_err(|()| EncryptError::Failed),
        Key::Tag(key) => encrypt_to(&key, plaintext).map_err(|()| EncryptError::Failed),
        Key::TagPq(key) => encrypt_to(&*key, plaintext).map_err(|()| EncryptError::Failed),
        Key::Plugin(key) => {
            if prints_keys() {
                return Err(EncryptError::Debug);
            }
            let program = format!("age-plugin-{}", key.plugin());
            let plugin =
                plugin::RecipientPluginV1::new(key.plugin(), std::slice::from_ref(&key), &[], NoCallbacks)
                    .map_err(|_| EncryptError::NoPlugin(program.clone()))?;
            let plaintext = Zeroizing::new(plaintext.to_vec());
            in_time(limit, move || encrypt_to(&plugin, &plaintext))
                .map_err(|TimedOut| EncryptError::Late(program.clone()))?
                .map_err(|()| EncryptError::Plugin(program))
        }
    }
    .and_then(|file| if file.len() <= MAX_SHARE_FILE { Ok(file) } else { Err(EncryptError::TooLong) })
}

/// Whether age would print what it and a plugin tell each other, among it the keys of files.
fn prints_keys() -> bool {
    std::env::var_os("AGEDEBUG").is_some()
}

fn encrypt_to(recipient: &dyn age::Recipient, plaintext: &[u8]) -> Result<String, ()> {
    let encrypt = || -> io::Result<Vec<u8>> {
        let encryptor =
            age::Encryptor::with_recipients(std::iter::once(recipient)).map_err(io::Error::other)?;
        let armor = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
        let mut writer = encryptor.wrap_output(armor)?;
        writer.write_all(plaintext)?;
        writer.finish()?.finish()
    };
    String::from_utf8(encrypt().map_err(drop)?).map_err(drop)
}

/// Private keys of an officer.
pub struct Identities(Vec<Box<dyn age::Identity>>);

/// Why bytes are no private keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Too long.
    #[error("an identity file has at most {MAX_IDENTITY} bytes")]
    TooLong,
    /// An SSH key that is not supported.
    #[error("age does not decrypt with this SSH key: {0}")]
    SshKey(&'static str),
    /// It is encrypted with a passphrase.
    #[error("the identity file is encrypted; decrypt it first: age -d -o identity.txt FILE")]
    Encrypted,
    /// A line is no identity.
    #[error(
        "the identity file has something else than identities (AGE-SECRET-KEY-…, AGE-PLUGIN-…) or an SSH private key"
    )]
    NotIdentities,
    /// There is none.
    #[error("the identity file has no identity")]
    Empty,
    /// The environment makes age print what a plugin tells it.
    #[error("AGEDEBUG is set, with which age prints the keys of files: unset it and start again")]
    Debug,
    /// A plugin is not there.
    #[error("a program age-plugin-… that an identity needs is not in PATH")]
    NoPlugin,
}

/// The longest identity file.
const MAX_IDENTITY: usize = 64 << 10;

impl Identities {
    /// Keys of tests.
    #[cfg(test)]
    pub(crate) fn of(key: &x25519::Identity) -> Self {
        Identities(vec![Box::new(key.clone())])
    }

    /// Reads an identity file of `age`, or an SSH private key. `callbacks` asks for passphrases and what plugins want to know.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn parse(bytes: &[u8], callbacks: impl Callbacks) -> Result<Self, IdentityError> {
        if bytes.len() > MAX_IDENTITY {
            return Err(IdentityError::TooLong);
        }
        if bytes.starts_with(b"age-encryption.org/")
            || bytes.trim_ascii_start().starts_with(b"-----BEGIN AGE ")
        {
            return Err(IdentityError::Encrypted);
        }
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
            let key = ssh::Identity::from_buffer(bytes.trim_ascii_start(), None)
                .map_err(|_| IdentityError::SshKey("it cannot be read"))?;
            if matches!(key, ssh::Identity::Unsupported(_)) {
                return Err(IdentityError::SshKey("use ssh-ed25519 or ssh-rsa, and no hardware key"));
            }
            return Ok(Identities(vec![Box::new(key.with_callbacks(callbacks))]));
        }
        if prints_keys() && bytes.windows(11).any(|part| part.eq_ignore_ascii_case(b"AGE-PLUGIN-")) {
            return Err(IdentityError::Debug);
        }
        let file = age::IdentityFile::from_buffer(bytes).map_err(|_| IdentityError::NotIdentities)?;
        let identities =
            file.with_callbacks(callbacks).into_identities().map_err(|_| IdentityError::NoPlugin)?;
        if identities.is_empty() {
            return Err(IdentityError::Empty);
        }
        Ok(Identities(identities.into_iter().map(|identity| identity as Box<dyn age::Identity>).collect()))
    }
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

/// Why an officer's file gives no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// Too long.
    #[error("an officer's file has at most {MAX_SHARE_FILE} bytes")]
    TooLong,
    /// Not an age file.
    #[error("the file is not an age file, or it was altered")]
    NotAge,
    /// It is encrypted to another key.
    #[error("none of the identities opens the file: it is for another officer")]
    OtherKey,
    /// The private key could not be used.
    #[error("the identity could not be used: a passphrase is wrong or missing, or a plugin failed")]
    Identity,
    /// The content is not what was encrypted.
    #[error("the file was altered: it does not decrypt")]
    Altered,
    /// The content is no share.
    #[error(transparent)]
    Share(#[from] ShareFormatError),
}

/// Decrypts an officer's file, armored or not. May block, while a plugin waits for its hardware.
///
/// # Errors
/// [`DecryptError`]
pub fn decrypt(file: &[u8], identities: &Identities) -> Result<Share, DecryptError> {
    if file.len() > MAX_SHARE_FILE {
        return Err(DecryptError::TooLong);
    }
    let reader = ArmoredReader::new(BufReader::new(file));
    let decryptor = age::Decryptor::new_buffered(reader).map_err(|_| DecryptError::NotAge)?;
    // A file to a passphrase is no officer's, and would cost time and memory.
    if decryptor.is_scrypt() {
        return Err(DecryptError::OtherKey);
    }
    let keys = identities.0.iter().map(|identity| identity.as_ref() as &dyn age::Identity);
    let reader = decryptor.decrypt(keys).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => DecryptError::OtherKey,
        age::DecryptError::DecryptionFailed
        | age::DecryptError::InvalidHeader
        | age::DecryptError::InvalidMac
        | age::DecryptError::UnknownFormat
        | age::DecryptError::Io(_)
        | age::DecryptError::ExcessiveWork { .. } => DecryptError::Altered,
        // Of the private key, of its plugin, or new in age.
        _ => DecryptError::Identity,
    })?;
    // With its full capacity, so that no copy is left behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(MAX_SHARE + 1));
    let limit = u64::try_from(MAX_SHARE + 1).expect("small");
    reader.take(limit).read_to_end(&mut plaintext).map_err(|_| DecryptError::Altered)?;
    Ok(Share::parse(&plaintext)?)
}

//! Making and signing bundles: for tools, never for the server.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_ledger::key::{KeyName, VerifyingKey};
use kms_ledger::note::Note;
use kms_ledger::signature::SigningKey;
use zeroize::Zeroizing;

use super::{BundleError, FIRST_LINE, Header, MAX_BUNDLE, UnverifiedBundle, rules};

/// What the text of a private key begins with, as in the notes of Go's checksum database.
const PREFIX: &str = "PRIVATE+KEY+";
/// The byte for Ed25519 in front of a key.
const ED25519: u8 = 0x01;

/// Why a text is not a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a private key of a signer: one line PRIVATE+KEY+<name>+<8 hex digits>+<base64>, of type Ed25519"
)]
pub struct SecretKeyError;

/// Why a bundle cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The policy has a control character that is not white space of JSON.
    #[error("the policy is not valid: it has a control character or is not UTF-8")]
    Characters,
    /// The result would not be a bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// This key has signed it already.
    #[error("{0} has signed this bundle already")]
    Signed(String),
}

/// The private key of a signer of bundles. It prints nothing and is wiped when dropped.
pub struct SecretKey {
    seed: Zeroizing<[u8; 32]>,
    key: SigningKey,
}

impl SecretKey {
    /// Makes a key.
    ///
    /// # Errors
    /// The system has no randomness, or the library does not take the key.
    pub fn generate(name: KeyName) -> Result<Self, SecretKeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(&mut seed[..]).map_err(|_| SecretKeyError)?;
        let key = SigningKey::from_seed(name, &seed).map_err(|_| SecretKeyError)?;
        Ok(Self { seed, key })
    }

    /// Reads `PRIVATE+KEY+<name>+<id>+<base64(01 ‖ seed)>`, as Go's `note.GenerateKey` writes it.
    ///
    /// # Errors
    /// [`SecretKeyError`]
    pub fn parse(text: &str) -> Result<Self, SecretKeyError> {
        let mut parts = text.trim().strip_prefix(PREFIX).ok_or(SecretKeyError)?.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SecretKeyError);
        };
        let bytes = Zeroizing::new(STANDARD.decode(key).map_err(|_| SecretKeyError)?);
        let Some((&ED25519, seed)) = bytes.split_first() else { return Err(SecretKeyError) };
        let seed = Zeroizing::new(<[u8; 32]>::try_from(seed).map_err(|_| SecretKeyError)?);
        let key = SigningKey::from_seed(name.parse().map_err(|_| SecretKeyError)?, &seed);
        let key = key.map_err(|_| SecretKeyError)?;
        if key.verifying_key().id().to_string() != id {
            return Err(SecretKeyError);
        }
        Ok(Self { seed, key })
    }

    /// The line of its file, with the newline.
    pub fn expose(&self) -> Zeroizing<String> {
        let VerifyingKeyParts { name, id } = self.verifying_key().into();
        let bytes = Zeroizing::new([&[ED25519][..], &self.seed[..]].concat());
        let encoded = Zeroizing::new(STANDARD.encode(&*bytes));
        Zeroizing::new([PREFIX, &name, "+", &id, "+", &encoded, "\n"].concat())
    }

    /// The public key, which a configuration pins.
    pub fn verifying_key(&self) -> &VerifyingKey {
        self.key.verifying_key()
    }
}

struct VerifyingKeyParts {
    name: String,
    id: String,
}

impl From<&VerifyingKey> for VerifyingKeyParts {
    fn from(key: &VerifyingKey) -> Self {
        Self { name: key.name().to_string(), id: key.id().to_string() }
    }
}

/// Makes a bundle of an `auth-config.json`, with one signature.
///
/// # Errors
/// [`SignError`]
pub fn sign(header: &Header, policy: &[u8], key: &SecretKey) -> Result<Vec<u8>, SignError> {
    sign_text(&unsigned(header, policy)?, key)
}

/// The text of a bundle of an `auth-config.json`: what its signers sign.
///
/// # Errors
/// [`SignError`]
pub fn unsigned(header: &Header, policy: &[u8]) -> Result<String, SignError> {
    let policy = std::str::from_utf8(policy).map_err(|_| SignError::Characters)?;
    // A tab or a carriage return is never in a string of JSON, and a note has none.
    let policy = policy.trim().replace('\t', "    ").replace('\r', "");
    if policy.contains(|c: char| c < ' ' && c != '\n') {
        return Err(SignError::Characters);
    }
    if !policy.starts_with('{') || !policy.ends_with('}') {
        return Err(BundleError::Object.into());
    }
    rules(&policy)?;
    Ok(format!("{FIRST_LINE}\n{}\n{policy}\n", header.line()))
}

/// Signs the text of a bundle that has no signature.
///
/// # Errors
/// [`SignError`]
pub fn sign_text(text: &str, key: &SecretKey) -> Result<Vec<u8>, SignError> {
    let bundle = format!("{text}\n{}", key.key.sign(text)).into_bytes();
    if bundle.len() > MAX_BUNDLE {
        return Err(BundleError::TooLarge.into());
    }
    // What was written is read by the reader of the server.
    UnverifiedBundle::parse(&bundle)?;
    Ok(bundle)
}

/// Adds a signature to a bundle. Its digest stays the same.
///
/// # Errors
/// [`SignError`]
pub fn add_signature(bundle: &UnverifiedBundle, key: &SecretKey) -> Result<Vec<u8>, SignError> {
    let own = key.verifying_key();
    let mut lines = bundle.note.iter().flat_map(Note::signatures);
    if lines.any(|line| line.name() == own.name() && line.id() == own.id()) {
        return Err(SignError::Signed(own.name().to_string()));
    }
    let mut bytes = bundle.content.as_bytes().to_vec();
    bytes.extend_from_slice(key.key.sign(bundle.text()).as_bytes());
    UnverifiedBundle::parse(&bytes)?;
    Ok(bytes)
}

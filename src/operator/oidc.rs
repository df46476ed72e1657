//! Access tokens of OpenID Connect (RFC 9068), verified without a network: the header, the signature, and then the claims.

mod claims;
mod keys;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use kms_wire::role::Role;
use zeroize::Zeroizing;

use self::claims::{Claims, UniqueObject};
pub use self::keys::{KeySet, KeySetError};

/// The longest token in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;
/// The longest id of a key in bytes.
const MAX_KEY_ID: usize = 256;
/// A token must end within this time: one that never ends could not be taken back.
const MAX_LIFETIME: u64 = 24 * 3600;

/// Which tokens are accepted, and what their holders may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// `iss`, exactly.
    pub issuer: String,
    /// Must be in `aud`.
    pub audience: String,
    /// The claim with the holder's groups: a name, or a path with dots.
    pub claim: String,
    /// The claim with the holder's name for the audit log.
    pub name_claim: String,
    /// What the members of a group may do.
    pub roles: BTreeMap<String, Role>,
    /// How far the issuer's clock may be from ours.
    pub clock_skew: Duration,
}

/// Why a token is refused. No text of the token is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not a token in this form.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Another algorithm, such as `none` or one with a shared secret.
    #[error("the token is not signed with RS256, ES256 or EdDSA")]
    Algorithm,
    /// The issuer has no such key, as far as is known.
    #[error("the token is signed with a key that the issuer does not have")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature of the token is wrong")]
    Signature,
    /// The issuer has signed it, and it is not for here or not for now.
    #[error("the token does not count: {0}")]
    Claim(&'static str),
}

/// A token whose signature was not verified.
pub struct Token {
    text: Zeroizing<String>,
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// The holder of a token that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// `sub`, which the issuer gives to nobody else.
    pub subject: String,
    /// For the audit log.
    pub name: String,
    /// What the holder may do; `None` if no group has a role.
    pub role: Option<Role>,
    /// The end of the token, Unix seconds, with the tolerance for clocks.
    pub expires_at: u64,
}

/// Whether a text has the form of a token, so that it is verified and not compared with secrets.
pub fn looks_like_token(text: &str) -> bool {
    // The base64 of `{"`.
    text.len() <= MAX_TOKEN
        && text.starts_with("eyJ")
        && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Token {
    /// Reads the header.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] and [`TokenError::Algorithm`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN {
            return Err(TokenError::Malformed("it is too long"));
        }
        let mut parts = text.split('.');
        let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed("it does not have three parts"));
        };
        let header: UniqueObject = object(&decoded(header)?)?;
        let algorithm = match header.text("alg") {
            Some("RS256") => Algorithm::RS256,
            Some("ES256") => Algorithm::ES256,
            Some("EdDSA") => Algorithm::EdDSA,
            Some(_) | None => return Err(TokenError::Algorithm),
        };
        if header.has("crit") {
            return Err(TokenError::Malformed("its header needs extensions"));
        }
        let is_type = |kind: &str| {
            ["JWT", "at+jwt", "application/at+jwt"].iter().any(|it| it.eq_ignore_ascii_case(kind))
        };
        if header.has("typ") && !header.text("typ").is_some_and(is_type) {
            return Err(TokenError::Malformed("it is of another type"));
        }
        let key_id = header.text("kid").map(str::to_owned);
        if header.has("kid") && key_id.as_ref().is_none_or(|id| id.is_empty() || id.len() > MAX_KEY_ID) {
            return Err(TokenError::Malformed("the id of its key is not a short text"));
        }
        Ok(Self { text: Zeroizing::new(text.to_owned()), algorithm, key_id })
    }

    /// Whether `keys` has the key that the token names.
    pub fn is_signed_with_one_of(&self, keys: &KeySet) -> bool {
        keys.find(self.algorithm, self.key_id.as_deref()).is_some()
    }

    /// Verifies the token at `now`, in Unix seconds.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, keys: &KeySet, rules: &Rules, now: u64) -> Result<Holder, TokenError> {
        let key = keys.find(self.algorithm, self.key_id.as_deref()).ok_or(TokenError::UnknownKey)?;
        let malformed = TokenError::Malformed("it does not have three parts");
        let (message, signature) = self.text.rsplit_once('.').ok_or(malformed)?;
        let is_right = jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, self.algorithm);
        if !is_right.unwrap_or(false) {
            return Err(TokenError::Signature);
        }
        let (_, payload) = message.split_once('.').ok_or(malformed)?;
        dangerous_unsigned_holder(&decoded(payload)?, rules, now)
    }
}

/// The holder that these claims name. Nothing says that the issuer has written them.
///
/// # Errors
/// [`TokenError::Malformed`] and [`TokenError::Claim`].
pub fn dangerous_unsigned_holder(claims: &[u8], rules: &Rules, now: u64) -> Result<Holder, TokenError> {
    Claims::new(object(claims)?).holder(rules, now)
}

fn decoded(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("a part is not base64url"))
}

/// A part of a token: an object without repeated members.
fn object(bytes: &[u8]) -> Result<UniqueObject, TokenError> {
    let object = kms_attest::json::from_utf8(bytes);
    object.map_err(|_| TokenError::Malformed("a part is not a JSON object, or repeats a member"))
}

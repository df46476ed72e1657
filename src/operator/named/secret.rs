//! Secrets of credentials, and what is kept of them.

use std::fmt;
use std::str::FromStr;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::super::chosen::ChosenSecret;
use super::CredentialName;

/// The prefix of a token, by which secret scanners find it.
const PREFIX: &str = "ckms_";

/// Hex digits of a generated secret.
const SECRET_DIGITS: usize = 64;

/// Memory (KiB), passes and lanes of one hash: OWASP's recommendation for Argon2id.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);

/// A new secret. Its `Debug` prints nothing; [`Secret::token`] shows it.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// 256 random bits in hex.
    ///
    /// # Errors
    /// The random number generator failed.
    pub fn generate() -> Result<Self, NoRandomNumbers> {
        let mut bytes = Zeroizing::new([0; SECRET_DIGITS / 2]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| NoRandomNumbers)?;
        Ok(Self(Zeroizing::new(hex::encode(*bytes))))
    }

    /// The secret alone, as the password of a user.
    pub fn password(&self) -> &str {
        &self.0
    }

    /// The holder's token: `ckms_<name>_<secret>`.
    pub fn token(&self, name: &CredentialName) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{name}_{}", self.0.as_str()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// The system's random number generator failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system random number generator failed")]
pub struct NoRandomNumbers;

/// Whether a text begins as tokens do.
pub(in super::super) fn begins_like_a_token(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Name and secret in a token; `None` if it is not a token of a named credential.
pub(in super::super) fn parts_of_token(token: &str) -> Option<(&str, &str)> {
    let (name, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let is_secret = secret.len() == SECRET_DIGITS && secret.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_secret && name.parse::<CredentialName>().is_ok()).then_some((name, secret))
}

/// An Argon2id hash in PHC form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretHash(String);

/// A text that is not an Argon2id hash with our parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash is not Argon2id in PHC form with the parameters of this program")]
pub struct BadHash;

impl SecretHash {
    /// Hashes a secret: about 20 ms and 19 MiB.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn of(secret: &Secret) -> Result<Self, NoRandomNumbers> {
        Self::of_text(&secret.0)
    }

    /// Hashes a secret that an operator has chosen.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn of_chosen(secret: &ChosenSecret) -> Result<Self, NoRandomNumbers> {
        Self::of_text(secret.expose())
    }

    fn of_text(text: &str) -> Result<Self, NoRandomNumbers> {
        let mut salt = [0; 16];
        SystemRandom::new().fill(&mut salt).map_err(|_| NoRandomNumbers)?;
        let hash = argon2id().hash_password_with_salt(text.as_bytes(), &salt);
        let hash: PasswordHash = hash.expect("a short secret, and a salt of the usual length");
        Ok(Self(hash.to_string()))
    }

    /// The PHC text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `secret` has this hash: as long as [`SecretHash::of`], and compared in constant time.
    pub fn is_of(&self, secret: &str) -> bool {
        is_hash_of(&self.0, secret)
    }
}

impl FromStr for SecretHash {
    type Err = BadHash;

    /// Accepts our own parameters only, because they set the memory and time of a login.
    fn from_str(text: &str) -> Result<Self, BadHash> {
        let hash = PasswordHash::new(text).map_err(|_| BadHash)?;
        let is_ours = hash.algorithm == argon2::ARGON2ID_IDENT
            && hash.version == Some(Version::V0x13.into())
            && hash.hash.is_some()
            && Params::try_from(&hash)
                .is_ok_and(|params| (params.m_cost(), params.t_cost(), params.p_cost()) == COST);
        if is_ours { Ok(Self(text.to_owned())) } else { Err(BadHash) }
    }
}

pub(super) fn is_hash_of(hash: &str, secret: &str) -> bool {
    #[cfg(test)]
    super::super::count_hash();
    let hash = PasswordHash::new(hash);
    hash.is_ok_and(|hash| argon2id().verify_password(secret.as_bytes(), &hash).is_ok())
}

fn argon2id() -> Argon2<'static> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).expect("recommended parameters");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

//! Named credentials: one for each person or program that operates this KMS, with a role of its own.
//!
//! A secret has 256 random bits, is shown once, and is stored as an Argon2id hash. Each request reads these credentials; only
//! `control::credentials` changes them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use kms_attest::identity::DomainName;
use kms_wire::role::Role;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::chosen::ChosenSecret;
use super::person::Person;
use super::wrong::WrongPasswords;
use crate::clock::{Floor, unix_now};

/// The prefix of a token, by which secret scanners find it.
const PREFIX: &str = "ckms_";
/// Hex digits of a generated secret.
const SECRET_DIGITS: usize = 64;
/// The longest name, in bytes.
const MAX_NAME: usize = 64;
/// Memory (KiB), passes and lanes of one hash: OWASP's recommendation for Argon2id.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);

/// The name of a credential: 1 to 64 lower-case letters, digits, `-` or `.`, the first of them a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialName(String);

/// A text that cannot be a credential's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a credential's name has 1 to {MAX_NAME} lower-case letters, digits, '-' or '.', and begins with a letter or a digit"
)]
pub struct BadName;

impl FromStr for CredentialName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.len() <= MAX_NAME && is_plain_name(text) { Ok(Self(text.to_owned())) } else { Err(BadName) }
    }
}

/// Lower-case letters, digits, `-` or `.`, the first of them a letter or a digit.
fn is_plain_name(text: &str) -> bool {
    let is_plain = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.bytes().next().is_some_and(is_plain)
        && text.bytes().all(|letter| is_plain(letter) || b"-.".contains(&letter))
}

impl CredentialName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
pub(super) fn begins_like_a_token(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Name and secret in a token; `None` if it is not a token of a named credential.
pub(super) fn parts_of_token(token: &str) -> Option<(&str, &str)> {
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

fn is_hash_of(hash: &str, secret: &str) -> bool {
    #[cfg(test)]
    super::count_hash();
    let hash = PasswordHash::new(hash);
    hash.is_ok_and(|hash| argon2id().verify_password(secret.as_bytes(), &hash).is_ok())
}

fn argon2id() -> Argon2<'static> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).expect("recommended parameters");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// The state of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its holder has a secret.
    Active(SecretHash),
    /// Its holder has an invitation, which can be exchanged for a secret once.
    Invited {
        /// The hash of the token's secret.
        hash: SecretHash,
        /// The end of the invitation, in Unix seconds.
        until: u64,
    },
}

/// The secret before a rotation, which is valid beside the new one until that is used, or until its end.
#[derive(Debug)]
pub struct Replaced {
    /// Its hash.
    pub hash: SecretHash,
    /// Its version.
    pub version: u64,
    /// Its end, in Unix seconds.
    pub until: u64,
    is_over: AtomicBool,
}

impl Replaced {
    /// Whether the secret after it has been used.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// A secret that is valid until `until`.
    pub fn new(hash: SecretHash, version: u64, until: u64) -> Self {
        Self { hash, version, until, is_over: AtomicBool::new(false) }
    }
}

/// An invitation to replace the secret of an active credential. That secret is valid until the invitation is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The hash of the token's secret.
    pub hash: SecretHash,
    /// Its version.
    pub version: u64,
    /// Its end, in Unix seconds.
    pub until: u64,
}

/// One credential.
#[derive(Debug)]
pub struct NamedCredential {
    /// Its name.
    pub name: CredentialName,
    /// What it may do.
    pub role: Role,
    /// The domain to which it is limited; `None` for the whole KMS.
    pub domain: Option<DomainName>,
    /// Its state.
    pub standing: Standing,
    /// Changes with the secret, so that a remembered earlier secret is invalid.
    pub version: u64,
    /// The secret before this one, if that had an overlap.
    pub replaced: Option<Replaced>,
    /// The invitation to replace its secret.
    pub invitation: Option<Invitation>,
    /// The other owner who has chosen its secret, and could use it.
    pub chosen_by: Option<Person>,
    /// Unix seconds.
    pub created_at: u64,
    /// The operator that created it.
    pub created_by: String,
    /// Its end, in Unix seconds.
    pub expires_at: Option<u64>,
    /// Unix seconds of its last use; 0 before the first.
    pub last_used: AtomicU64,
}

impl NamedCredential {
    /// The hash of the secret that was issued last.
    pub fn hash(&self) -> &SecretHash {
        match &self.standing {
            Standing::Active(hash) | Standing::Invited { hash, .. } => hash,
        }
    }

    /// The secret before this one, if it is valid at `now`.
    pub fn replaced(&self, now: u64) -> Option<&Replaced> {
        self.replaced.as_ref().filter(|old| !old.is_over.load(Ordering::Relaxed) && now < old.until)
    }

    /// Ends the secret before this one, if it is one that has ended meanwhile: when that of `earlier` was used.
    pub fn end_replaced_with(&self, earlier: &Self) {
        if let (Some(own), Some(other)) = (&self.replaced, &earlier.replaced)
            && own.version == other.version
            && other.is_over()
        {
            own.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// The invitation to replace its secret, if it is valid at `now`.
    pub fn invitation(&self, now: u64) -> Option<&Invitation> {
        self.invitation.as_ref().filter(|invitation| now < invitation.until)
    }

    /// The versions of the secrets and invitations that are valid at `now`, that of the active secret first.
    pub fn versions(&self, now: u64) -> impl Iterator<Item = u64> {
        let others = [
            self.replaced(now).map(|old| old.version),
            self.invitation(now).map(|invitation| invitation.version),
        ];
        [self.version].into_iter().chain(others.into_iter().flatten())
    }

    /// Whether it has expired at `now`, in Unix seconds.
    pub fn has_ended(&self, now: u64) -> bool {
        let ends = self.expires_at.is_some_and(|end| end <= now);
        match self.standing {
            Standing::Active(_) => ends,
            Standing::Invited { until, .. } => ends || until <= now,
        }
    }

    /// Whether it is an active owner of the whole KMS that does not expire.
    pub fn is_lasting_owner(&self) -> bool {
        self.role == Role::Owner
            && self.domain.is_none()
            && self.expires_at.is_none()
            && matches!(self.standing, Standing::Active(_))
    }

    /// Whether the credential is that of an owner of the whole KMS, also after its end: time must not take an owner away. An invitation
    /// counts until it ends.
    pub fn counts_as_owner(&self, now: u64) -> bool {
        let is_counted = match self.standing {
            Standing::Active(_) => true,
            Standing::Invited { .. } => !self.has_ended(now),
        };
        self.role == Role::Owner && self.domain.is_none() && is_counted
    }
}

/// All named credentials, by name.
pub type Directory = BTreeMap<CredentialName, Arc<NamedCredential>>;

/// The credential of this name in `directory`, unless it has expired.
pub(super) fn counting<'a>(
    directory: &'a Directory,
    name: &str,
    now: u64,
) -> Option<&'a Arc<NamedCredential>> {
    let name: CredentialName = name.parse().ok()?;
    directory.get(&name).filter(|credential| !credential.has_ended(now))
}

/// The named credentials in force.
#[derive(Default)]
pub struct Named {
    directory: ArcSwap<Directory>,
    /// Held for one change in memory.
    changes: Mutex<()>,
    /// Held while a name becomes that of a credential or of a user.
    names: tokio::sync::Mutex<()>,
    /// Tells of each change.
    changed: watch::Sender<()>,
    wrong: WrongPasswords,
    /// The earliest time that is assumed, even if the clock is set back.
    floor: OnceLock<Floor>,
}

/// The hash for unknown names, so that the response time does not reveal which names exist. No secret has this hash.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

impl Named {
    /// The credentials in force.
    pub fn current(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// To be held from the check whether a name is free until a credential or a user has it, in memory and on the disk:
    /// a start refuses a name that is one of both.
    pub async fn names(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.names.lock().await
    }

    /// Changes the credentials in force, from the next request on; leaves them if `change` fails.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn change<T, E>(&self, change: impl FnOnce(&mut Directory) -> Result<T, E>) -> Result<T, E> {
        let _turn = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut directory = Directory::clone(&self.current());
        let outcome = change(&mut directory)?;
        self.directory.store(Arc::new(directory));
        self.changed.send_replace(());
        Ok(outcome)
    }

    /// Tells of a change that is not one of named credentials.
    pub(super) fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Tells of each change from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The passwords that were wrong recently, for any name.
    pub fn wrong(&self) -> &WrongPasswords {
        &self.wrong
    }

    /// Sets the earliest time that is assumed.
    pub fn not_before(&self, floor: Floor) {
        let _ = self.floor.set(floor);
    }

    /// The time by which credentials expire, in Unix seconds.
    pub fn now(&self) -> u64 {
        unix_now().max(self.floor.get().map_or(0, Floor::newest))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.directory.load().is_empty()
    }

    /// The credential of this name, unless it has expired.
    pub fn get(&self, name: &str, now: u64) -> Option<Arc<NamedCredential>> {
        counting(&self.directory.load(), name, now).cloned()
    }

    /// The version of the secret or invitation of `name` that `secret` is, at `now`. As many hashes are computed for each
    /// name: one, one more while any credential has an old secret, and one more while any has an invitation beside its secret.
    pub(super) fn admits(&self, name: &str, secret: &str, now: u64) -> Option<u64> {
        let credential = self.get(name, now);
        let directory = self.directory.load();
        let has_overlap = directory.values().any(|credential| credential.replaced(now).is_some());
        let current = credential.as_ref().map_or(NOBODY, |credential| credential.hash().as_str());
        let is_current = is_hash_of(current, secret);
        let replaced = credential.as_ref().and_then(|credential| credential.replaced(now));
        let is_replaced = has_overlap && is_hash_of(replaced.map_or(NOBODY, |old| old.hash.as_str()), secret);
        let has_invitation = directory.values().any(|credential| credential.invitation(now).is_some());
        let invitation = credential.as_ref().and_then(|credential| credential.invitation(now));
        let is_invitation =
            has_invitation && is_hash_of(invitation.map_or(NOBODY, |it| it.hash.as_str()), secret);
        let version = credential.as_ref().map(|credential| credential.version).filter(|_| is_current);
        let version = version.or(replaced.map(|old| old.version).filter(|_| is_replaced));
        version.or(invitation.map(|invitation| invitation.version).filter(|_| is_invitation))
    }

    /// Notes a use of the secret `version` of `credential` at `now`. The use of a new secret ends the one before it.
    pub(super) fn used(&self, credential: &NamedCredential, version: u64, now: u64) {
        credential.last_used.fetch_max(now, Ordering::Relaxed);
        if version == credential.version
            && let Some(old) = credential.replaced(now)
        {
            old.is_over.store(true, Ordering::Relaxed);
            self.changed.send_replace(());
        }
    }
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Named({})", self.directory.load().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(name: &str, secret: &Secret, expires_at: Option<u64>) -> NamedCredential {
        NamedCredential {
            name: name.parse().unwrap(),
            role: Role::Viewer,
            domain: None,
            standing: Standing::Active(SecretHash::of(secret).unwrap()),
            version: 1,
            replaced: None,
            invitation: None,
            chosen_by: None,
            created_at: 0,
            created_by: "token".to_owned(),
            expires_at,
            last_used: AtomicU64::new(0),
        }
    }

    #[test]
    fn a_secret_admits_its_name_until_it_ends() {
        let (secret, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        let named = Named::default();
        let credential = Arc::new(credential("ci", &secret, Some(100)));
        let Ok(()) = named.change(|directory| {
            directory.insert(credential.name.clone(), credential);
            Ok::<_, std::convert::Infallible>(())
        });
        for (name, secret, now, admitted) in [
            ("ci", &secret, 99, true),
            ("ci", &secret, 100, false),
            ("ci", &other, 99, false),
            ("cj", &secret, 99, false),
            ("CI", &secret, 99, false),
        ] {
            assert_eq!(named.admits(name, secret.0.as_str(), now).is_some(), admitted, "{name} at {now}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_brings_back_no_credential() {
        let secret = Secret::generate().unwrap();
        let (named, end) = (Named::default(), unix_now() + 3600);
        let credential = Arc::new(credential("ci", &secret, Some(end)));
        let Ok(()) = named.change(|directory| {
            directory.insert(credential.name.clone(), credential);
            Ok::<_, std::convert::Infallible>(())
        });
        let floor = Floor::default();
        named.not_before(floor.clone());
        assert!(named.get("ci", named.now()).is_some());
        floor.raise_by_record(end);
        assert!(named.get("ci", named.now()).is_none());
    }

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let secret = Secret::generate().unwrap();
        let name: CredentialName = "a.b-9".parse().unwrap();
        let token = secret.token(&name);
        assert_eq!(parts_of_token(&token), Some(("a.b-9", secret.0.as_str())));
        let long = format!("{}0", token.as_str());
        for other in ["", "ckms_", "ckms_a_", "ckms__00", &token[..token.len() - 1], &long, &token[1..]] {
            assert_eq!(parts_of_token(other), None, "{other}");
        }
        assert_eq!(format!("{secret:?}"), "Secret { .. }");
    }

    #[test]
    fn names_that_could_be_mistaken_are_refused() {
        for name in ["a", "0", "ci-bot.eu", &"a".repeat(64)] {
            assert_eq!(name.parse::<CredentialName>().unwrap().as_str(), name);
        }
        for name in ["", "-a", ".a", "A", "a_b", "a b", "a:b", "ä", "a\n", &"a".repeat(65)] {
            assert_eq!(name.parse::<CredentialName>(), Err(BadName), "{name:?}");
        }
    }

    #[test]
    fn only_a_hash_with_our_parameters_is_read() {
        let hash = SecretHash::of(&Secret::generate().unwrap()).unwrap();
        assert_eq!(hash.as_str().parse(), Ok(hash.clone()));
        assert_eq!(NOBODY.parse::<SecretHash>().unwrap().as_str(), NOBODY);
        let text = hash.as_str();
        for other in [
            text.replace("m=19456", "m=4194304"),
            text.replace("t=2", "t=4000000"),
            text.replace("argon2id", "argon2i"),
            text.replace("v=19", "v=16"),
            text[..text.rfind('$').unwrap()].to_owned(),
            "$2y$10$abc".to_owned(),
            String::new(),
        ] {
            assert_eq!(other.parse::<SecretHash>(), Err(BadHash), "{other}");
        }
    }
}

//! Named credentials: one for each person or program that operates this KMS, with a role of its own.
//!
//! A secret has 256 random bits, is shown once, and is stored as an Argon2id hash. Each request reads these credentials; only
//! `control::credentials` changes them.

mod credential;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use self::credential::{Invitation, NamedCredential, Replaced, Standing};
use self::secret::is_hash_of;
pub use self::secret::{BadHash, NoRandomNumbers, Secret, SecretHash};
pub(super) use self::secret::{begins_like_a_token, parts_of_token};
use super::wrong::WrongPasswords;
use crate::clock::{Floor, unix_now};

/// The longest name, in bytes.
const MAX_NAME: usize = 64;

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
    use std::sync::atomic::AtomicU64;

    use kms_wire::role::Role;

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
            assert_eq!(named.admits(name, secret.password(), now).is_some(), admitted, "{name} at {now}");
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
        assert_eq!(parts_of_token(&token), Some(("a.b-9", secret.password())));
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

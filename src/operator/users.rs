//! Users of an htpasswd file, with bcrypt hashes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Password;

/// The entries of an htpasswd file.
#[derive(Default)]
pub struct Users {
    hashes: BTreeMap<String, Hash>,
    /// The hash for unknown names, so that the response time does not tell which names exist.
    pub(super) nobody: Option<String>,
    /// Changes with the file, so that a remembered password of another one is invalid.
    pub(super) generation: u64,
}

struct Hash {
    text: String,
    cost: u32,
}

/// The users whose entries differ between two htpasswd files, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserChanges {
    /// In the new file only.
    pub added: Vec<String>,
    /// In the old file only.
    pub removed: Vec<String>,
    /// With another hash.
    pub changed: Vec<String>,
}

impl UserChanges {
    /// How long all names are, in bytes.
    pub fn names_length(&self) -> usize {
        [&self.added, &self.removed, &self.changed].into_iter().flatten().map(String::len).sum()
    }
}

impl fmt::Display for UserChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, removed, changed } = self;
        let parts = [("new", added), ("removed", removed), ("with another password", changed)];
        let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<_> = parts
            .map(|(what, names)| {
                let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
                format!("{what}: {}", names.join(", "))
            })
            .collect();
        if parts.is_empty() { f.write_str("no user is changed") } else { f.write_str(&parts.join("; ")) }
    }
}

/// A name that cannot be taken for several, or for a part of a sentence.
fn quoted(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._@+".contains(letter);
    if name.chars().all(is_plain) { name.to_owned() } else { format!("{name:?}") }
}

/// Why an htpasswd file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadHtpasswd {
    /// A line is not an entry.
    #[error("line {line} of the htpasswd file is not `user:bcrypt hash` ($2a$, $2b$ or $2y$)")]
    Malformed {
        /// The line number, from 1.
        line: usize,
    },
    /// A hash whose cost is too low or too high.
    #[error(
        "line {line} of the htpasswd file has a bcrypt cost of {cost}; {MIN_COST} to {MAX_COST} can be used, 10 to 12 are usual"
    )]
    Cost {
        /// The line number, from 1.
        line: usize,
        /// The cost of the entry.
        cost: u32,
    },
    /// Two entries for one name, of which only one would be used.
    #[error("line {line} of the htpasswd file names a user that an earlier line names")]
    Repeated {
        /// The line number, from 1.
        line: usize,
    },
    /// A byte order mark, which would become part of the first name.
    #[error("the htpasswd file starts with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Not text, or not in this encoding.
    #[error("the htpasswd file is not UTF-8")]
    NotUtf8,
    /// It names nobody.
    #[error(
        "the htpasswd file names no user, so nobody could log in with it; add one, or do not name the file"
    )]
    NoUsers,
}

const BCRYPT_LENGTH: usize = 60;
/// bcrypt's lowest cost.
const MIN_COST: u32 = 4;
/// A hash of a higher cost takes longer than a request may.
const MAX_COST: u32 = 18;
/// A hash of a higher cost delays every login by two seconds or more.
const USUAL_COST: u32 = 14;
const BYTE_ORDER_MARK: char = '\u{feff}';

impl Users {
    /// Reads a file; see [`Users::parse`].
    ///
    /// # Errors
    /// [`BadHtpasswd`].
    pub fn read(bytes: &[u8]) -> Result<Self, BadHtpasswd> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| BadHtpasswd::NotUtf8)?)
    }

    /// Reads `user:hash` lines; empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// [`BadHtpasswd`] with the first invalid line.
    pub fn parse(text: &str) -> Result<Self, BadHtpasswd> {
        if text.starts_with(BYTE_ORDER_MARK) {
            return Err(BadHtpasswd::ByteOrderMark);
        }
        let mut hashes = BTreeMap::new();
        for (index, entry) in text.lines().enumerate() {
            let (line, entry) = (index + 1, entry.trim());
            if entry.is_empty() || entry.starts_with('#') {
                continue;
            }
            let malformed = || BadHtpasswd::Malformed { line };
            let (user, hash) = entry.split_once(':').ok_or_else(malformed)?;
            let is_name = !user.is_empty()
                && user.trim() == user
                && !user.chars().any(|character| character.is_control() || character == BYTE_ORDER_MARK);
            let known = ["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind));
            if !is_name || !known || hash.len() != BCRYPT_LENGTH {
                return Err(malformed());
            }
            let parts: bcrypt::HashParts = hash.parse().map_err(|_| malformed())?;
            let cost = parts.get_cost();
            if !(MIN_COST..=MAX_COST).contains(&cost) {
                return Err(BadHtpasswd::Cost { line, cost });
            }
            if hashes.insert(user.to_owned(), Hash { text: hash.to_owned(), cost }).is_some() {
                return Err(BadHtpasswd::Repeated { line });
            }
        }
        Ok(Self { nobody: nobody(&hashes), hashes, generation: 0 })
    }

    /// The same as another file of this process.
    pub(super) fn of_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    /// Whether the file has no entries.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Users with a slow hash, which makes other logins wait, and its cost.
    pub fn slow(&self) -> impl Iterator<Item = (&str, u32)> {
        let slow = self.hashes.iter().filter(|(_, hash)| hash.cost > USUAL_COST);
        slow.map(|(name, hash)| (name.as_str(), hash.cost))
    }

    /// The names in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hashes.keys().map(String::as_str)
    }

    /// What becomes different when this file replaces `old`.
    pub fn changes_from(&self, old: &Self) -> UserChanges {
        let names = |of: &Self, is_wanted: &dyn Fn(&str, &Hash) -> bool| -> Vec<String> {
            let wanted = of.hashes.iter().filter(|(name, hash)| is_wanted(name, hash));
            wanted.map(|(name, _)| name.clone()).collect()
        };
        UserChanges {
            added: names(self, &|name, _| !old.has(name)),
            removed: names(old, &|name, _| !self.has(name)),
            changed: names(self, &|name, new| old.hashes.get(name).is_some_and(|old| old.text != new.text)),
        }
    }

    /// A line for each user, with the SHA-256 of the entry `user:hash`. From a digest no password can be guessed, because
    /// the salt is not known.
    pub fn digests(&self) -> String {
        let line = |(name, hash): (&String, &Hash)| {
            let entry = Sha256::digest(format!("{name}:{}", hash.text));
            format!("{}: SHA-256 {}\n", quoted(name), hex::encode(entry))
        };
        self.hashes.iter().map(line).collect()
    }

    /// Whether the file has an entry for `user`.
    pub fn has(&self, user: &str) -> bool {
        self.hashes.contains_key(user)
    }

    /// Whether the password is that of the user. Takes as long as bcrypt takes, for every name.
    pub fn admits(&self, shown: &Password) -> bool {
        let known = self.hashes.get(&shown.user);
        let Some(hash) = known.map(|hash| &hash.text).or(self.nobody.as_ref()) else { return false };
        #[cfg(test)]
        super::count_hash();
        bcrypt::verify(shown.password.as_str(), hash).unwrap_or(false) && known.is_some()
    }
}

/// A hash with the most frequent cost (the lowest of several), but not one that delays every login.
fn nobody(hashes: &BTreeMap<String, Hash>) -> Option<String> {
    let pattern = hashes.values().next()?;
    let mut users_by_cost = BTreeMap::<u32, usize>::new();
    for hash in hashes.values() {
        *users_by_cost.entry(hash.cost).or_default() += 1;
    }
    let commonest = users_by_cost.iter().max_by_key(|(cost, users)| (**users, std::cmp::Reverse(**cost)));
    let cost = commonest.map_or(pattern.cost, |(cost, _)| *cost).min(USUAL_COST);
    // A hash begins with `$2y$12$`. After its cost is replaced, no known password matches it.
    Some(format!("{}{cost:02}{}", &pattern.text[..4], &pattern.text[6..]))
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.hashes.len())
    }
}

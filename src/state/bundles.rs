//! The files of the signed bundles of a domain: the bundles themselves, and which serials were seen. A bundle is written
//! before the record that names it, and the record is replaced by one rename.

use std::path::{Path, PathBuf};
use std::{fs, io};

use kms_attest::small_file::small_file;
use kms_attest::state_file::{self, Replaced, StateFile};
use kms_policy::bundle::{BundleDigest, MAX_BUNDLE};
use serde::{Deserialize, Serialize};

/// The largest record.
const MAX_FILE: u64 = 1 << 20;
/// The only version that is written and read.
const VERSION: u32 = 1;
/// More are not read: two are kept.
const MAX_KEPT: usize = 16;
/// The end of the name of a bundle.
const BUNDLE: &str = ".bundle";

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleFileError {
    /// It cannot be read.
    #[error("the record of policy bundles in the key directory cannot be read")]
    Unreadable(#[source] io::Error),
    /// Its content is invalid.
    #[error(
        "the record of policy bundles in the key directory is damaged ({0}); restore it, or remove it, and the serials in \
         the audit log count"
    )]
    Damaged(String),
}

/// What was seen of the bundles of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRecord {
    /// The highest serial that is known from elsewhere, such as the audit log.
    pub floor: u64,
    /// The highest serial that other nodes of the fleet have seen.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seen_by_fleet: u64,
    /// The digest of the bundle in force.
    pub in_force: Option<String>,
    /// The digest of the bundle that waits.
    pub pending: Option<String>,
    /// Another bundle with a serial that was known, or one that does not follow what was known.
    pub fork: Option<SeenFork>,
    /// What the bundle that waits would have changed so far, if it is tried.
    #[serde(default, rename = "rehearsal", skip_serializing_if = "Option::is_none")]
    pub shadow: Option<SeenShadow>,
    /// The bundles that were seen, the highest serial first.
    pub seen: Vec<SeenBundle>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A bundle that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenBundle {
    /// Its serial.
    pub serial: u64,
    /// Its digest, hex.
    pub digest: String,
    /// Its name.
    pub name: String,
    /// The pinned keys that had signed it.
    pub signers: Vec<String>,
    /// When it expires, Unix seconds.
    pub expires: u64,
    /// When it came, Unix seconds.
    pub received_at: u64,
    /// From where: `file`, `server`, `operators` or `fleet`.
    pub origin: String,
    /// When it was put in force, Unix seconds.
    pub activated_at: Option<u64>,
    /// Who put it in force.
    pub activated_by: Option<String>,
}

/// The shadow of a bundle that waits: what it would have changed in live requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenShadow {
    /// Its digest, hex.
    pub digest: String,
    /// For how many seconds it has judged requests.
    pub ran: u64,
    /// Requests that both have judged.
    pub compared: u64,
    /// Requests that only it allows.
    pub newly_allowed: u64,
    /// Requests that only the bundle in force allows.
    pub newly_denied: u64,
    /// Whether it denies this KMS itself.
    pub denies_this_kms: bool,
    /// Whether it waits for an operator.
    pub held: bool,
}

impl SeenShadow {
    /// One that begins.
    pub fn of(digest: String) -> Self {
        Self {
            digest,
            ran: 0,
            compared: 0,
            newly_allowed: 0,
            newly_denied: 0,
            denies_this_kms: false,
            held: false,
        }
    }
}

/// A bundle that contradicts what was known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenFork {
    /// Its serial.
    pub serial: u64,
    /// Its digest, hex.
    pub digest: String,
    /// When it came, Unix seconds.
    pub at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    bundles: BundleRecord,
}

/// The files of one domain, which no other process writes.
#[derive(Debug, Clone)]
pub struct BundleFiles {
    directory: PathBuf,
    domain: String,
    record: StateFile,
}

impl BundleFiles {
    /// The files in `directory`, which need not exist. The name of a domain has no `/`.
    pub fn new(directory: PathBuf, domain: &str) -> Self {
        let domain = domain.replace('/', "_");
        let record = directory.join(format!("{domain}.json")).into();
        Self { directory, domain, record }
    }

    fn bundle(&self, digest: BundleDigest) -> PathBuf {
        self.directory.join(format!("{}@{digest}{BUNDLE}", self.domain))
    }

    /// What was seen; `None` without a record.
    ///
    /// # Errors
    /// [`BundleFileError`]
    pub fn read(&self) -> Result<Option<BundleRecord>, BundleFileError> {
        super::parsed(&self.record, MAX_FILE, parse, BundleFileError::Unreadable, BundleFileError::Damaged)
    }

    /// The same files, and a record whose directory is synced like this, for tests of a disk that fails.
    #[cfg(test)]
    #[must_use]
    pub fn synced_by(self, sync: fn(&Path) -> io::Result<()>) -> Self {
        Self { record: self.record.synced_by(sync), ..self }
    }

    /// Replaces the record. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system; the old record is then unchanged.
    pub fn replace(&self, record: &BundleRecord) -> io::Result<Replaced> {
        let bundles = record.clone();
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, bundles })?;
        text.push(b'\n');
        self.record.replace(&text)
    }

    /// The bytes of a bundle that was kept.
    ///
    /// # Errors
    /// Those of the system.
    pub fn kept(&self, digest: BundleDigest) -> io::Result<Vec<u8>> {
        small_file(&self.bundle(digest), MAX_BUNDLE as u64)
    }

    /// Keeps a bundle. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system.
    pub fn keep(&self, digest: BundleDigest, bytes: &[u8]) -> io::Result<()> {
        state_file::replace(&self.bundle(digest), bytes)
    }

    /// Removes the bundles of this domain that nobody needs any more. What cannot be removed stays.
    pub fn forget_others(&self, needed: &[BundleDigest]) {
        let needed: Vec<PathBuf> = needed.iter().map(|digest| self.bundle(*digest)).collect();
        for path in self.bundles().filter(|path| !needed.contains(path)) {
            let _ = fs::remove_file(path);
        }
    }

    /// The bytes of all bundles that are kept, for a start that finds no record of them.
    pub fn all_kept(&self) -> impl Iterator<Item = Vec<u8>> + use<> {
        let paths = self.bundles().take(MAX_KEPT);
        paths.filter_map(|path| small_file(&path, MAX_BUNDLE as u64).ok())
    }

    fn bundles(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let prefix = format!("{}@", self.domain);
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(move |path| is_bundle(path, &prefix))
    }
}

fn is_bundle(path: &Path, prefix: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(BUNDLE))
}

/// Reads a record.
///
/// # Errors
/// Why it is damaged.
pub fn parse(bytes: &[u8]) -> Result<BundleRecord, String> {
    let content: Content = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    match content.version {
        VERSION => Ok(content.bundles),
        other => Err(format!("version must be {VERSION}, got {other}")),
    }
}

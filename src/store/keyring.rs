//! `keyring.json`: the root keys of the epochs after 0, the state of every epoch, and how the file is replaced so that
//! nothing of the old one stays on the disk.
//!
//! A replacement is written beside the file and takes its name by a rename, which puts it in force. Until the old
//! content is overwritten it keeps a second name, so that opening the directory can finish what was interrupted.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use kms_attest::p256::P256Key;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::disk::{exists, failed};
use super::file::{Derived, File, Permissions};
use super::fingerprints::Fingerprints;
use super::{KeyDirectory, StoreError};
use crate::keys::K256Key;
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::{
    EpochKeys, EpochParts, EpochState, EpochStatement, EpochTimes, Keyring, PublicRoot,
};

/// The name of the new content until it is complete.
pub(super) const NEW: &str = ".keyring.json.new";
/// The second name of the old content until it is overwritten.
pub(super) const OLD: &str = ".keyring.json.old";

/// The names of the key files of epoch 0 once they are destroyed, until they are overwritten: a file that is overwritten in
/// part may be another usable key, so it does not keep the name of one.
pub(super) const DESTROYED: [(File, &str); 2] =
    [(File::RootCaKey, ".root-ca.key.old"), (File::RootK256Key, ".root-k256.key.old")];

/// The version that is written and the only one that is read.
const VERSION: u32 = 1;
/// More than an epoch takes without its certificate.
const EPOCH_BYTES: usize = 1536;

/// Whether the bytes of keys that are not needed any more are overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Swept {
    /// They are.
    Now,
    /// The disk failed after the change had been made: it may not be on stable storage yet, or old keys are not
    /// overwritten. The next change or the next start finishes both.
    AtNextStart,
}

/// The file. Secrets are hex, which needs no escapes, so that the parser copies none of them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept<'a> {
    version: u32,
    /// How often the file was replaced; 0 of a file from before this was counted.
    #[serde(default)]
    changes: u64,
    #[serde(borrow)]
    epochs: Vec<KeptEpoch<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptEpoch<'a> {
    epoch: RootEpoch,
    times: EpochTimes,
    /// SubjectPublicKeyInfo DER, hex.
    ca_spki: &'a str,
    /// Compressed point, hex.
    k256_public: &'a str,
    /// The scalar, hex; epoch 0 has files of its own, and a destroyed epoch has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_key: Option<&'a str>,
    /// The scalar, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    k256_key: Option<&'a str>,
    /// PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_cert: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statement: Option<KeptStatement>,
}

/// What an older root states of the public keys.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptStatement {
    by: RootEpoch,
    #[serde(with = "hex::serde")]
    signature: [u8; 65],
}

/// What the file says.
pub(super) struct Contents {
    /// How often the file was replaced.
    pub(super) changes: u64,
    /// The epochs in order from 0.
    pub(super) records: Vec<Record>,
}

/// An epoch as the file has it.
pub(super) struct Record {
    epoch: RootEpoch,
    times: EpochTimes,
    pub(super) public: PublicRoot,
    /// `None` for epoch 0, whose keys are in files of their own, and for a destroyed epoch.
    keys: Option<(P256Key, K256Key)>,
    root_ca_pem: Option<String>,
    statement: Option<EpochStatement>,
}

impl Record {
    /// Whether the keys do not exist any more.
    pub(super) fn is_destroyed(&self) -> bool {
        self.times.state(0) == EpochState::Destroyed
    }

    /// The number of the epoch, and what an older root states of it.
    pub(super) fn stated(&self) -> Option<(RootEpoch, EpochStatement)> {
        Some((self.epoch, self.statement?))
    }

    /// The epoch's parts; `beside` are the keys in the files of epoch 0. `None` if keys are missing.
    pub(super) fn into_parts(self, beside: Option<(P256Key, K256Key)>) -> Option<EpochParts> {
        let keys = match self.is_destroyed() {
            true => EpochKeys::Destroyed(self.public),
            false => {
                let (ca, k256) = self.keys.or(beside)?;
                EpochKeys::Held { ca, k256 }
            }
        };
        Some(EpochParts { epoch: self.epoch, times: self.times, keys, root_ca_pem: self.root_ca_pem })
    }
}

/// The content of the file for this keyring.
pub(super) fn text(keyring: &Keyring, changes: u64) -> Zeroizing<Vec<u8>> {
    let secrets: Vec<Option<[Zeroizing<String>; 2]>> = keyring
        .epochs()
        .iter()
        .map(|epoch| {
            let keys = epoch.keys().filter(|_| epoch.number() != RootEpoch::FIRST)?;
            Some([keys.ca().scalar(), keys.k256().scalar()].map(|scalar| Zeroizing::new(hex::encode(scalar))))
        })
        .collect();
    let public: Vec<[String; 2]> = keyring
        .epochs()
        .iter()
        .map(|epoch| [hex::encode(epoch.public().ca_spki), hex::encode(epoch.public().k256)])
        .collect();
    let epochs = keyring.epochs().iter().zip(&secrets).zip(&public);
    let epochs: Vec<KeptEpoch<'_>> = epochs
        .map(|((epoch, secrets), [ca_spki, k256_public])| KeptEpoch {
            epoch: epoch.number(),
            times: epoch.times(),
            ca_spki,
            k256_public,
            ca_key: secrets.as_ref().map(|[ca, _]| ca.as_str()),
            k256_key: secrets.as_ref().map(|[_, k256]| k256.as_str()),
            ca_cert: epoch.root_ca_pem().filter(|_| epoch.number() != RootEpoch::FIRST).map(str::to_owned),
            statement: epoch
                .statement()
                .map(|EpochStatement { by, signature }| KeptStatement { by, signature }),
        })
        .collect();
    // Room for all of it from the start, because a vector that grows leaves copies of the keys in memory.
    let certificates: usize = epochs.iter().filter_map(|epoch| epoch.ca_cert.as_deref()).map(str::len).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(EPOCH_BYTES * (epochs.len() + 1) + 2 * certificates));
    serde_json::to_writer_pretty(&mut *text, &Kept { version: VERSION, changes, epochs })
        .expect("numbers and texts");
    text.push(b'\n');
    text
}

/// What the file says.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &[u8]) -> Result<Contents, &'static str> {
    let unread = "is not a file of root epochs, or it is cut off";
    let text = std::str::from_utf8(text).map_err(|_| unread)?;
    let kept: Kept<'_> = serde_json::from_str(text).map_err(|_| unread)?;
    if kept.version != VERSION {
        return Err("has a version that this program does not know");
    }
    let mut records = Vec::with_capacity(kept.epochs.len().min(crate::keys::keyring::MAX_EPOCHS));
    for (index, epoch) in kept.epochs.into_iter().enumerate() {
        if index >= crate::keys::keyring::MAX_EPOCHS || epoch.epoch.0 as usize != index {
            return Err("does not have its epochs in order from 0");
        }
        records.push(record(epoch)?);
    }
    match records.is_empty() {
        true => Err("has no epoch"),
        false => Ok(Contents { changes: kept.changes, records }),
    }
}

fn record(kept: KeptEpoch<'_>) -> Result<Record, &'static str> {
    const DAMAGED_KEY: &str = "has a key that is not usable";
    let KeptEpoch { epoch, times, ca_spki, k256_public, ca_key, k256_key, ca_cert, statement } = kept;
    let mut public = PublicRoot { ca_spki: [0; _], k256: [0; _] };
    hex::decode_to_slice(ca_spki, &mut public.ca_spki).map_err(|_| DAMAGED_KEY)?;
    hex::decode_to_slice(k256_public, &mut public.k256).map_err(|_| DAMAGED_KEY)?;
    let is_destroyed = times.state(0) == EpochState::Destroyed;
    let keys = match (ca_key, k256_key) {
        (Some(_), Some(_)) if epoch == RootEpoch::FIRST => {
            return Err("has keys of epoch 0, which have files of their own");
        }
        (Some(ca), Some(k256)) if !is_destroyed => {
            let ca = P256Key::from_scalar(&*scalar(ca).ok_or(DAMAGED_KEY)?).map_err(|_| DAMAGED_KEY)?;
            let k256 = K256Key::from_scalar(&*scalar(k256).ok_or(DAMAGED_KEY)?).map_err(|_| DAMAGED_KEY)?;
            if ca.spki_der() != public.ca_spki || *k256.public_key() != public.k256 {
                return Err("has a key that is not the one of its public key");
            }
            Some((ca, k256))
        }
        (None, None) if is_destroyed || epoch == RootEpoch::FIRST => None,
        _ => return Err("has a key too few or too many"),
    };
    let statement = statement.map(|KeptStatement { by, signature }| EpochStatement { by, signature });
    Ok(Record { epoch, times, public, keys, root_ca_pem: ca_cert, statement })
}

fn scalar(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut scalar = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text, &mut scalar[..]).ok()?;
    Some(scalar)
}

/// Whether bytes are such a file, for a fuzzer: what is read is written again the same.
///
/// # Errors
/// What is wrong with them.
pub fn check_keyring_file(content: &[u8]) -> Result<(), &'static str> {
    parse(content).map(drop)
}

impl KeyDirectory {
    /// Replaces the keyring: a crash leaves the old one or the new one. Keys that the new one does not have any more are
    /// overwritten.
    ///
    /// # Errors
    /// The directory has the old keyring still: from the rename on there is no error, because it has the new one then.
    pub fn write_keyring(&self, keyring: &Keyring) -> Result<Swept, StoreError> {
        let _lock = self.lock()?;
        self.sweep_locked()?;
        let [path, new, old] = [File::Keyring.name(), NEW, OLD].map(|name| self.path.join(name));
        let changes = self.changes()?.saturating_add(1);
        self.write_file(&new, File::Keyring, &text(keyring, changes))?;
        if exists(&path)? {
            self.disk.link(&path, &old)?;
        }
        // A disk may report a failure of what it has done.
        match self.disk.rename(&new, &path) {
            Err(error) if exists(&new).unwrap_or(true) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // The fingerprints never know of a change that is not on stable storage: they come last.
        let swept = self.sync_dir(&self.path).and_then(|()| self.sweep_locked()).and_then(|()| {
            self.write_derived_locked(Derived::Fingerprints, &Fingerprints::of(keyring, changes).text())
        });
        match swept {
            Ok(()) => Ok(Swept::Now),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "keyring.json is replaced, but the disk failed before all of it was on stable storage and old keys \
                     were overwritten; the next change or the next start finishes it"
                );
                Ok(Swept::AtNextStart)
            }
        }
    }

    /// How often the keyring was changed, as far as one of both files knows.
    fn changes(&self) -> Result<u64, StoreError> {
        let kept = self.keyring_changes()?;
        let known = self.read(File::Fingerprints)?.and_then(|text| Fingerprints::parse(&text));
        Ok(kept.max(known.map_or(0, |known| known.changes())))
    }

    /// How often `keyring.json` was replaced; 0 if there is none.
    pub(super) fn keyring_changes(&self) -> Result<u64, StoreError> {
        Ok(match self.read_records()? {
            Some(Ok(contents)) => contents.changes,
            Some(Err(_)) | None => 0,
        })
    }

    /// What the file says; `None` if there is no file.
    ///
    /// # Errors
    /// It cannot be read; the inner result is what is wrong with it.
    pub(super) fn read_records(&self) -> Result<Option<Result<Contents, &'static str>>, StoreError> {
        let read = || Ok::<_, StoreError>(self.read(File::Keyring)?.map(|text| parse(&text)));
        match read()? {
            // The file that was opened may have been replaced and overwritten meanwhile.
            Some(Err(_)) => read(),
            other => Ok(other),
        }
    }

    /// The file that says that there were root keys, where there is no file with any, whatever is in it. A commit moves
    /// the root keys into place first, so an attempt that was interrupted leaves no such file.
    pub(super) fn trace_of_lost_keys(&self) -> Result<Option<&'static str>, StoreError> {
        for file in File::ROOT_KEYS {
            if exists(&self.path.join(file.name()))? {
                return Ok(None);
            }
        }
        for name in [OLD, File::Fingerprints.name()] {
            if exists(&self.path.join(name))? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Whether there are files of keys that the keyring says are destroyed.
    pub(super) fn has_destroyed_keys(&self) -> bool {
        // What cannot be read is told when the directory is used.
        self.destroyed_files().is_ok_and(|files| !files.is_empty())
    }

    /// Overwrites and removes what an interrupted replacement or destruction left.
    pub(super) fn sweep_locked(&self) -> Result<(), StoreError> {
        let [path, new, old] = [File::Keyring.name(), NEW, OLD].map(|name| self.path.join(name));
        if exists(&old)? && !exists(&path)? {
            // No replacement does that: the file was lost, and this is what is left of it.
            return Ok(());
        }
        let mut is_changed = false;
        let destroyed = self.destroyed_files()?;
        if exists(&old)? || !destroyed.is_empty() {
            // The name of the new content may not be on stable storage yet, and the old is gone after this.
            self.sync_dir(&self.path)?;
        }
        if exists(&old)? {
            match is_same(&old, &path) {
                // The replacement did not happen.
                true => self.disk.remove_file(&old)?,
                false => self.wipe(&old)?,
            }
            is_changed = true;
        }
        if exists(&new)? {
            self.wipe(&new)?;
            is_changed = true;
        }
        for (file, old) in DESTROYED {
            let old = self.path.join(old);
            if destroyed.contains(&file) {
                self.disk.rename(&self.path.join(file.name()), &old)?;
                self.sync_dir(&self.path)?;
            }
            if exists(&old)? {
                self.wipe(&old)?;
                is_changed = true;
            }
        }
        match is_changed {
            true => self.sync_dir(&self.path),
            false => Ok(()),
        }
    }

    /// The files of epoch 0 that its destruction has to remove. A usable key that is not the destroyed one is not among
    /// them: another program may have made new keys.
    fn destroyed_files(&self) -> Result<Vec<File>, StoreError> {
        let mut files = Vec::new();
        for file in File::FIRST_KEYS {
            if exists(&self.path.join(file.name()))? {
                files.push(file);
            }
        }
        if files.is_empty() {
            return Ok(files);
        }
        let path = self.path.join(File::Keyring.name());
        let text = File::Keyring.read(&path, Permissions::InsecureAllowLoose)?;
        let Some(Ok(contents)) = text.map(|text| parse(&text)) else { return Ok(Vec::new()) };
        let destroyed = contents.records.first().filter(|first| first.is_destroyed());
        let Some(Record { public, .. }) = destroyed else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for file in files {
            if !self.is_of_others(file, public)? {
                found.push(file);
            }
        }
        Ok(found)
    }

    /// Whether a file of epoch 0 holds a usable key with another public key than this.
    pub(super) fn is_of_others(&self, file: File, public: &PublicRoot) -> Result<bool, StoreError> {
        let content = file.read(&self.path.join(file.name()), Permissions::InsecureAllowLoose)?;
        let Some(content) = content else { return Ok(false) };
        Ok(match file {
            File::RootCaKey => std::str::from_utf8(&content)
                .ok()
                .and_then(|pem| P256Key::from_pem(pem).ok())
                .is_some_and(|key| key.spki_der() != public.ca_spki),
            File::RootK256Key => {
                K256Key::from_bytes(&content).is_ok_and(|key| *key.public_key() != public.k256)
            }
            // They have no key of epoch 0.
            File::TempCaKey
            | File::RpcKey
            | File::RootCaCertificate
            | File::TempCaCertificate
            | File::RpcCertificate
            | File::Domain
            | File::BootstrapInfo
            | File::Keyring
            | File::Fingerprints
            | File::AppEpochs
            | File::Domains => false,
        })
    }

    /// Overwrites a file in its place and removes it.
    fn wipe(&self, path: &Path) -> Result<(), StoreError> {
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let file = fs::OpenOptions::new().write(true).custom_flags(flags).open(path);
        let file = file.map_err(failed("open", path))?;
        let length = file.metadata().map_err(failed("look at", path))?.len().min(File::Keyring.limit());
        let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
        self.disk.write(&file, path, &zeros)?;
        self.disk.sync(&file, path)?;
        self.disk.remove_file(path)
    }
}

/// Whether both names are of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

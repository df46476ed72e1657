//! Writes keys to the disk: all of them or none, whenever the process stops.
//!
//! A commit writes and syncs everything into `.staging`, renames that to `.commit`, which is the commit point, and then
//! moves the files into place. Opening a directory completes a commit that was interrupted after the
//! commit point and discards one that was interrupted before.

use std::fs;
use std::path::Path;

use kms_attest::p256::P256Key;
use subtle::ConstantTimeEq;

use super::disk::{exists, failed};
use super::file::{Derived, File, Permissions};
use super::fingerprints::Fingerprints;
use super::{KeyDirectory, StoreError};
use crate::domain::Domain;
use crate::keys::epoch::RootEpoch;
use crate::keys::keyring::Keyring;

pub(super) const STAGING: &str = ".staging";
pub(super) const COMMIT: &str = ".commit";
/// More than all files of a commit together.
const PROBE_BYTES: usize = 64 * 1024;

/// Everything that a bootstrap or a takeover writes.
#[derive(Debug, Clone, Copy)]
pub struct NewKeys<'a> {
    /// The root keys of every epoch.
    pub keyring: &'a Keyring,
    /// The key of the TLS server.
    pub rpc_key: &'a P256Key,
    /// Root CA certificate of epoch 0, PEM; `None` if its keys are destroyed.
    pub root_ca_pem: Option<&'a str>,
    /// Temporary CA certificate, PEM.
    pub temp_ca_pem: &'a str,
    /// RPC leaf, PEM.
    pub rpc_pem: &'a str,
    /// The domain of the RPC leaf.
    pub domain: &'a Domain,
    /// The bootstrap response, JSON; a replica has none.
    pub bootstrap_info: Option<&'a [u8]>,
    /// The file of the epochs that operators chose for apps; `None` leaves the one that is there.
    pub app_epochs: Option<&'a [u8]>,
    /// The file of the domains that operators made; `None` leaves the one that is there.
    pub domains: Option<&'a [u8]>,
}

impl KeyDirectory {
    /// Writes a whole set of keys, once. Refused where there is any root key or was one, and then nothing is
    /// changed.
    pub fn commit(&self, keys: &NewKeys<'_>) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.recover_locked()?;
        for file in File::ROOT_KEYS {
            if exists(&self.path.join(file.name()))? {
                return Err(StoreError::HoldsRootKey(file.name()));
            }
        }
        if let Some(trace) = self.trace_of_lost_keys()? {
            return Err(StoreError::LostRootKeys(trace));
        }
        for file in File::ALL {
            let path = self.path.join(file.name());
            if exists(&path)? && !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                return Err(StoreError::NotAFile(file.name()));
            }
        }
        self.stage(keys)?;
        if keys.bootstrap_info.is_none() {
            // Otherwise a replica would report the bootstrap of an attempt that was never completed.
            self.disk.remove_file(&self.path.join(File::BootstrapInfo.name()))?;
        }
        self.disk.rename(&self.path.join(STAGING), &self.path.join(COMMIT))?;
        self.sync_dir(&self.path)?;
        self.roll_forward()
    }

    /// Writes the fingerprints of root keys, which a directory of the peer lacks, and those of a change that was
    /// interrupted.
    pub fn write_fingerprints(&self, keyring: &Keyring) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let text = Fingerprints::of(keyring, self.keyring_changes()?).text();
        self.write_derived_locked(Derived::Fingerprints, &text)
    }

    /// Replaces one file that can be made again from the keys; a crash leaves the old content or the new.
    pub fn write_derived(&self, file: Derived, content: &[u8]) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.write_derived_locked(file, content)
    }

    pub(super) fn write_derived_locked(&self, file: Derived, content: &[u8]) -> Result<(), StoreError> {
        let new = self.path.join(file.new_name());
        self.disk.remove_file(&new)?;
        self.write_file(&new, file.file(), content)?;
        self.disk.rename(&new, &self.path.join(file.file().name()))?;
        self.sync_dir(&self.path)
    }

    /// Writes a file, syncs it and removes it again, under the name of a replacement under way: should the process die
    /// here, the next start clears it away.
    ///
    /// # Errors
    /// Why files cannot be written to the directory.
    pub fn probe(&self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let file = Derived::RpcCertificate;
        let path = self.path.join(file.new_name());
        self.disk.remove_file(&path)?;
        let written = self
            .write_file(&path, file.file(), &[b'\n'; PROBE_BYTES])
            .and_then(|()| self.sync_dir(&self.path));
        let removed = self.disk.remove_file(&path).and_then(|()| self.sync_dir(&self.path));
        written.and(removed)
    }

    /// Completes or undoes the commit of an earlier process. A clean directory is not changed, since it may
    /// be read-only.
    pub(super) fn recover(&self) -> Result<(), StoreError> {
        let unfinished = [STAGING, COMMIT, super::keyring::NEW, super::keyring::OLD]
            .map(str::to_owned)
            .into_iter()
            .chain(super::keyring::DESTROYED.map(|(_, old)| old.to_owned()))
            .chain(Derived::ALL.map(Derived::new_name));
        for name in unfinished {
            if exists(&self.path.join(name))? {
                let _lock = self.lock()?;
                return self.recover_locked();
            }
        }
        if self.has_destroyed_keys() {
            let _lock = self.lock()?;
            self.sweep_locked()?;
        }
        Ok(())
    }

    fn recover_locked(&self) -> Result<(), StoreError> {
        for derived in Derived::ALL {
            self.disk.remove_file(&self.path.join(derived.new_name()))?;
        }
        let staging = self.path.join(STAGING);
        if exists(&staging)? {
            self.remove_set(&staging)?;
        }
        if exists(&self.path.join(COMMIT))? {
            self.roll_forward()?;
        }
        self.sweep_locked()
    }

    fn stage(&self, keys: &NewKeys<'_>) -> Result<(), StoreError> {
        let staging = self.path.join(STAGING);
        self.disk.create_dir(&staging)?;
        let first = keys.keyring.epoch(RootEpoch::FIRST).and_then(|epoch| epoch.keys());
        let root_ca_key = first.map(|root| root.ca().pem());
        let temp_ca_key = keys.keyring.temp_ca().pem();
        let rpc_key = keys.rpc_key.pem();
        // A directory with epoch 0 only is the peer's.
        let changes = u64::from(!keys.keyring.is_first_only());
        let keyring = (changes > 0).then(|| super::keyring::text(keys.keyring, changes));
        let fingerprints = Fingerprints::of(keys.keyring, changes).text();
        let files = [
            (File::RootCaKey, root_ca_key.as_ref().map(|pem| pem.as_bytes())),
            (File::RootK256Key, first.map(|root| &root.k256().scalar()[..])),
            (File::Keyring, keyring.as_ref().map(|text| &text[..])),
            (File::TempCaKey, Some(temp_ca_key.as_bytes())),
            (File::RpcKey, Some(rpc_key.as_bytes())),
            (File::RootCaCertificate, keys.root_ca_pem.map(str::as_bytes)),
            (File::TempCaCertificate, Some(keys.temp_ca_pem.as_bytes())),
            (File::RpcCertificate, Some(keys.rpc_pem.as_bytes())),
            (File::Domain, Some(keys.domain.as_str().as_bytes())),
            (File::BootstrapInfo, keys.bootstrap_info),
            (File::AppEpochs, keys.app_epochs),
            (File::Domains, keys.domains),
            (File::Fingerprints, Some(&fingerprints[..])),
        ];
        for (file, content) in files {
            if let Some(content) = content {
                self.write_file(&staging.join(file.name()), file, content)?;
            }
        }
        self.sync_dir(&staging)
    }

    /// Moves the committed files into place, root keys first. Every step can be repeated.
    fn roll_forward(&self) -> Result<(), StoreError> {
        self.check_commit()?;
        let commit = self.path.join(COMMIT);
        for file in File::ALL {
            let committed = commit.join(file.name());
            if exists(&committed)? {
                self.disk.rename(&committed, &self.path.join(file.name()))?;
            }
        }
        self.sync_dir(&self.path)?;
        self.remove_set(&commit)
    }

    /// Refuses a commit that would replace a root key by another one.
    pub(super) fn check_commit(&self) -> Result<(), StoreError> {
        for file in File::ROOT_KEYS {
            let path = self.path.join(COMMIT).join(file.name());
            let committed = file.read(&path, Permissions::InsecureAllowLoose)?;
            let (Some(committed), Some(present)) = (committed, self.read(file)?) else { continue };
            if !bool::from(committed.ct_eq(&present)) {
                return Err(StoreError::TwoSets(file.name()));
            }
        }
        Ok(())
    }

    pub(super) fn write_file(&self, path: &Path, file: File, content: &[u8]) -> Result<(), StoreError> {
        let open = self.disk.create(path, file.mode())?;
        self.disk.write(&open, path, content)?;
        self.disk.sync(&open, path)
    }

    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        let open = fs::File::open(path).map_err(failed("open", path))?;
        self.disk.sync(&open, path)
    }

    /// Removes a staging directory with the files that a commit puts into it.
    fn remove_set(&self, path: &Path) -> Result<(), StoreError> {
        for file in File::ALL {
            self.disk.remove_file(&path.join(file.name()))?;
        }
        self.disk.remove_dir(path)?;
        self.sync_dir(&self.path)
    }
}

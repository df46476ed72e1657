//! The files of a key directory, nine of the peer and four of ours: names, modes, sizes, and how to read them.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::StoreError;
use crate::config::Core;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What to do about key files that group or others may read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permissions {
    /// Refuse to use them.
    OwnerOnly,
    /// Use them, with a warning.
    InsecureAllowLoose,
}

impl From<&Core> for Permissions {
    fn from(core: &Core) -> Self {
        match core.insecure_world_readable_keys {
            true => Self::InsecureAllowLoose,
            false => Self::OwnerOnly,
        }
    }
}

/// A file of the key directory. All but the last four have the peer's names, so that either program starts on the other's
/// directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    RootCaKey,
    RootK256Key,
    TempCaKey,
    RpcKey,
    RootCaCertificate,
    TempCaCertificate,
    RpcCertificate,
    Domain,
    BootstrapInfo,
    Keyring,
    Fingerprints,
    AppEpochs,
    Domains,
}

/// A file that can be made again from the keys, and so replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Derived {
    /// `rpc.key`
    RpcKey,
    /// `root-ca.crt`
    RootCaCertificate,
    /// `tmp-ca.crt`
    TempCaCertificate,
    /// `rpc.crt`
    RpcCertificate,
    /// `bootstrap-info.json`
    BootstrapInfo,
    /// `root-fingerprints.json`
    Fingerprints,
}

impl Derived {
    pub(super) const ALL: [Derived; 6] = [
        Derived::RpcKey,
        Derived::RootCaCertificate,
        Derived::TempCaCertificate,
        Derived::RpcCertificate,
        Derived::BootstrapInfo,
        Derived::Fingerprints,
    ];

    pub(super) fn file(self) -> File {
        match self {
            Derived::RpcKey => File::RpcKey,
            Derived::RootCaCertificate => File::RootCaCertificate,
            Derived::TempCaCertificate => File::TempCaCertificate,
            Derived::RpcCertificate => File::RpcCertificate,
            Derived::BootstrapInfo => File::BootstrapInfo,
            Derived::Fingerprints => File::Fingerprints,
        }
    }

    /// Its name in the key directory.
    pub fn name(self) -> &'static str {
        self.file().name()
    }

    /// Where the new content stands until it is complete.
    pub(super) fn new_name(self) -> String {
        format!(".{}.new", self.file().name())
    }
}

impl File {
    /// In the order in which a commit moves them into place. Root keys come first, so that the directory does not look
    /// empty from the first move on.
    pub(super) const ALL: [File; 13] = [
        File::RootCaKey,
        File::RootK256Key,
        File::Keyring,
        File::TempCaKey,
        File::RpcKey,
        File::RootCaCertificate,
        File::TempCaCertificate,
        File::RpcCertificate,
        File::Domain,
        File::BootstrapInfo,
        File::AppEpochs,
        File::Domains,
        File::Fingerprints,
    ];

    /// The keys that cannot be derived again.
    pub(super) const ROOT_KEYS: [File; 3] = [File::RootCaKey, File::RootK256Key, File::Keyring];

    /// The key files of epoch 0.
    pub(super) const FIRST_KEYS: [File; 2] = [File::RootCaKey, File::RootK256Key];

    pub(super) fn name(self) -> &'static str {
        match self {
            File::RootCaKey => "root-ca.key",
            File::RootK256Key => "root-k256.key",
            File::TempCaKey => "tmp-ca.key",
            File::RpcKey => "rpc.key",
            File::RootCaCertificate => "root-ca.crt",
            File::TempCaCertificate => "tmp-ca.crt",
            File::RpcCertificate => "rpc.crt",
            File::Domain => "rpc-domain",
            File::BootstrapInfo => "bootstrap-info.json",
            File::Keyring => "keyring.json",
            File::AppEpochs => crate::config::APP_EPOCHS,
            File::Domains => crate::config::DOMAINS,
            File::Fingerprints => "root-fingerprints.json",
        }
    }

    fn is_key(self) -> bool {
        matches!(self, File::RootCaKey | File::RootK256Key | File::Keyring | File::TempCaKey | File::RpcKey)
    }

    /// Permission bits of a new file, before umask.
    pub(super) fn mode(self) -> u32 {
        if self.is_key() || matches!(self, Self::AppEpochs | Self::Domains) { 0o600 } else { 0o644 }
    }

    pub(super) fn limit(self) -> u64 {
        match self {
            File::RootK256Key | File::Domain => KIB,
            File::RootCaKey | File::TempCaKey | File::RpcKey | File::Fingerprints => 64 * KIB,
            File::RootCaCertificate | File::TempCaCertificate | File::Keyring => MIB,
            File::AppEpochs | File::Domains => 8 * MIB,
            File::RpcCertificate | File::BootstrapInfo => 32 * MIB,
        }
    }

    /// The content of this file at `path`, or `None` if there is none. Links, devices, oversized files and key files
    /// open to others are errors.
    pub(super) fn read(
        self,
        path: &Path,
        permissions: Permissions,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let io = |cause| StoreError::Io { doing: "read", path: path.to_owned(), cause };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(descriptor) => fs::File::from(descriptor),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(StoreError::NotAFile(self.name())),
            Err(error) => return Err(io(error.into())),
        };
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(StoreError::NotAFile(self.name()));
        }
        self.check_mode(metadata.permissions().mode() & 0o7777, permissions)?;
        let too_large = StoreError::TooLarge { file: self.name(), limit: self.limit() };
        if metadata.len() > self.limit() {
            return Err(too_large);
        }
        // Full capacity from the start, because a vector that grows leaves copies of the key in memory.
        let mut content =
            Zeroizing::new(vec![0; usize::try_from(self.limit().min(metadata.len() + 1)).unwrap_or(0)]);
        let length = fill(&file, &mut content).map_err(io)?;
        if length as u64 > metadata.len() {
            return Err(too_large);
        }
        content.truncate(length);
        Ok(Some(content))
    }

    /// Whether `mode` lets others use a private key.
    pub(super) fn is_loose(self, mode: u32) -> bool {
        self.is_key() && mode & 0o077 != 0
    }

    fn check_mode(self, mode: u32, permissions: Permissions) -> Result<(), StoreError> {
        if !self.is_loose(mode) {
            return Ok(());
        }
        match permissions {
            Permissions::OwnerOnly => Err(StoreError::LoosePermissions { file: self.name(), mode }),
            Permissions::InsecureAllowLoose => Ok(()),
        }
    }
}

/// Whether a name in the key directory is one that this module gives.
pub(super) fn is_ours(name: &str) -> bool {
    File::ALL.iter().any(|file| file.name() == name)
        || name == super::commit::COMMIT
        || name == super::commit::STAGING
        || Derived::ALL.iter().any(|file| file.new_name() == name)
        || [super::keyring::NEW, super::keyring::OLD].contains(&name)
        || super::keyring::DESTROYED.iter().any(|(_, old)| *old == name)
}

/// Reads until `buffer` is full or the file ends.
fn fill(mut file: &fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

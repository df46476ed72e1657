//! The directory that is kept between runs: keys, policy, log, and the seed of the simulated hardware.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

/// The state directory, locked for this process.
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, and creates it with mode 0700 if it is missing.
    pub(crate) fn open(chosen: Option<PathBuf>) -> Result<Self> {
        let path = match chosen {
            Some(path) => path,
            None => usual()?,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("create {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("open {}", path.display()))?;
        let lock = File::create(path.join("lock")).with_context(|| format!("write to {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!("another kms-sandbox uses {}; choose a directory of its own with --dir", path.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The key directory of the KMS.
    pub(crate) fn certs(&self) -> PathBuf {
        self.path.join("certs")
    }

    /// The root CA certificate of the KMS.
    pub(crate) fn root_ca(&self) -> PathBuf {
        self.certs().join("root-ca.crt")
    }

    /// Whether the KMS has keys from an earlier run.
    pub(crate) fn has_keys(&self) -> bool {
        self.certs().join("root-ca.key").exists()
    }

    pub(crate) fn policy(&self) -> PathBuf {
        self.path.join("auth-config.json")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("kms.toml")
    }

    /// The simulated hardware vendor's root certificate.
    pub(crate) fn hardware_root(&self) -> PathBuf {
        self.path.join("simulated-root-ca.pem")
    }

    /// The settings that a shell needs for `kmsctl`.
    pub(crate) fn environment(&self) -> PathBuf {
        self.path.join("env")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("kms.log")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    /// The seed of the simulated hardware: random at the first run, then the same, so that measurements and
    /// devices stay those that the policy allows.
    pub(crate) fn seed(&self) -> Result<Vec<u8>> {
        match self.read("hardware-seed")? {
            Some(text) => hex::decode(text.trim())
                .map_err(|_| anyhow!("{} is not hexadecimal", self.path.join("hardware-seed").display())),
            None => {
                let seed = rand::random::<[u8; 32]>();
                self.write("hardware-seed", &hex::encode(seed))?;
                Ok(seed.to_vec())
            }
        }
    }

    /// A file of an earlier run.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Replaces a file in one step, so that readers see the old text or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path.join(name);
        let written = tempfile::NamedTempFile::new_in(&self.path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)
        });
        written.map(drop).with_context(|| format!("write {}", path.display()))
    }
}

/// The XDG state directory, and not the cache, because it holds keys.
fn usual() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("kms-sandbox"))
        .context("neither XDG_STATE_HOME nor HOME is set: choose a directory with --dir")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_made_once() {
        let home = tempfile::tempdir().expect("directory");
        let state = StateDir::open(Some(home.path().join("deep/down"))).expect("state");
        let seed = state.seed().expect("seed");
        assert_eq!(seed.len(), 32);
        assert_eq!(state.seed().expect("seed"), seed);
    }

    #[test]
    fn one_directory_serves_one_sandbox() {
        let home = tempfile::tempdir().expect("directory");
        let first = StateDir::open(Some(home.path().to_owned())).expect("state");
        let error = StateDir::open(Some(home.path().to_owned())).err().expect("locked").to_string();
        assert!(error.starts_with("another kms-sandbox uses "), "{error}");
        drop(first);
        StateDir::open(Some(home.path().to_owned())).expect("free again");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let home = tempfile::tempdir().expect("directory");
        let state = StateDir::open(Some(home.path().to_owned())).expect("state");
        assert_eq!(state.read("policy").expect("nothing yet"), None);
        state.write("policy", "one").expect("first");
        state.write("policy", "two").expect("second");
        assert_eq!(state.read("policy").expect("there").as_deref(), Some("two"));
    }
}

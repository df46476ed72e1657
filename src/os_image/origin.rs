//! What made a measurement: this program, and the ACPI program if one is configured. Measurements of other
//! programs are not used.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::program::AcpiProgram;

/// The running program, even if its file was replaced.
const OURSELVES: &str = "/proc/self/exe";

/// A file that changed this recently may change again without a new modification time.
const UNSETTLED: Duration = Duration::from_millis(100);

/// SHA-256 of this program, which changes with every change of our code. Computed once per process.
static OUR_DIGEST: LazyLock<Option<[u8; 32]>> =
    LazyLock::new(|| digest_of(&mut File::open(OURSELVES).ok()?).ok());

/// Identifies everything that a measurement depends on besides the VM's configuration and the image, which
/// its hash identifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin(String);

impl Origin {
    /// This program, with the tables of `program` if there is one. `None` if either cannot be read; then
    /// nothing is cached. Blocks, and reads the program at the first call and after each change.
    pub(super) fn of(program: Option<&AcpiProgram>) -> Option<Self> {
        let ours = (*OUR_DIGEST)?;
        match program {
            None => Some(Self::named(&ours, &[])),
            Some(program) => Some(Self::named(&ours, &program.identity()?)),
        }
    }

    /// `program` is empty if the tables are computed here.
    fn named(ours: &[u8; 32], program: &[u8]) -> Self {
        Self(hex::encode(Sha256::new().chain_update(ours).chain_update(program).finalize()))
    }

    #[cfg(test)]
    pub(super) fn for_test(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The digest of a file, computed again when the file has changed.
#[derive(Debug, Default)]
pub(super) struct WatchedDigest(Mutex<Option<(Stamp, [u8; 32])>>);

/// Changes whenever a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl WatchedDigest {
    /// SHA-256 of the file at `path` now.
    pub(super) fn of(&self, path: &Path) -> io::Result<[u8; 32]> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let stamp = Stamp::of(&metadata);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, digest)) = known.filter(|(known, _)| *known == stamp) {
            return Ok(digest);
        }
        let digest = digest_of(&mut file)?;
        // A write during the read, or just before it, may leave the same stamp.
        let is_settled = is_settled(&metadata) && Stamp::of(&file.metadata()?) == stamp;
        *known = is_settled.then_some((stamp, digest));
        Ok(digest)
    }
}

fn is_settled(metadata: &Metadata) -> bool {
    let changed = u64::try_from(metadata.ctime()).ok().zip(u32::try_from(metadata.ctime_nsec()).ok());
    let Some((seconds, nanoseconds)) = changed else { return false };
    let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    SystemTime::now().duration_since(changed).is_ok_and(|age| age > UNSETTLED)
}

fn digest_of(file: &mut impl Read) -> io::Result<[u8; 32]> {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    hash.finish().as_ref().try_into().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_change_of_what_measures_is_another_origin() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).expect("file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
            path
        };
        let (one, copy, other) = (write("one", "#!1"), write("copy", "#!1"), write("other", "#!2"));
        let of = |path: &Path| Origin::of(Some(&AcpiProgram::new(path.to_owned()))).expect("an origin");
        let computed = Origin::of(None).expect("an origin");
        assert_eq!(Origin::of(None), Some(computed.clone()));
        assert_eq!(of(&one), of(&one));
        assert_ne!(of(&one), computed);
        assert_ne!(of(&one), of(&other), "another program");
        assert_ne!(of(&one), of(&copy), "another path");
        let program = AcpiProgram::new(one.clone());
        let before = Origin::of(Some(&program)).expect("an origin");
        for content in ["#!2", "#!1 ", "#!3", "#!1"] {
            write("one", content);
            let now = Origin::of(Some(&program)).expect("an origin");
            assert_eq!(now == before, content == "#!1", "{content}");
        }
        assert_eq!(Origin::of(Some(&AcpiProgram::new(directory.path().join("missing")))), None);
        assert_eq!(Origin::of(Some(&AcpiProgram::new(directory.path().to_owned()))), None);
        let ours = [1; 32];
        assert_ne!(Origin::named(&ours, &[]), Origin::named(&[2; 32], &[]), "another version of ours");
    }

    #[test]
    fn a_digest_is_that_of_the_content_however_often_it_changes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("program");
        let watched = WatchedDigest::default();
        for round in 0..200 {
            let content = format!("{}", round % 7);
            fs::write(&path, &content).expect("file");
            let expected: [u8; 32] = Sha256::digest(&content).into();
            for _ in 0..2 {
                assert_eq!(watched.of(&path).expect("readable"), expected, "round {round}");
            }
        }
    }
}

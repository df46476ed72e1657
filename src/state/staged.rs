//! Replaces a file of the configuration by one rename, when its new content is checked and on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kms_attest::state_file;

use crate::config::STAGED;

/// New content for a file, on the disk beside it. It is removed when dropped.
#[derive(Debug)]
pub struct StagedFile {
    staged: PathBuf,
    target: PathBuf,
}

/// Whether a change survives a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It does.
    Synced,
    /// The disk did not confirm it.
    Unconfirmed,
}

impl StagedFile {
    /// Writes and syncs `content` for the file at `path`, with the permissions of the file that is there, or else
    /// `mode`. A symbolic link stays: the file that it names is replaced. One caller at a time may stage a file.
    ///
    /// # Errors
    /// Errors of the system; the path names something that is not a regular file.
    pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<Self> {
        let target = resolved(path)?;
        let mode = match fs::symlink_metadata(&target) {
            Ok(there) if !there.is_file() => return Err(io::Error::other("it is not a regular file")),
            Ok(there) => there.permissions().mode() & 0o777,
            Err(error) if error.kind() == io::ErrorKind::NotFound => mode,
            Err(error) => return Err(error),
        };
        let staged = Self { staged: target.with_added_extension(STAGED), target };
        // Left by a crash. `create_new` below follows no link that stands there.
        match fs::remove_file(&staged.staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged.staged)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Puts it into its place.
    ///
    /// # Errors
    /// Errors of the system; the old file is then unchanged.
    pub fn commit(self) -> io::Result<Durability> {
        fs::rename(&self.staged, &self.target)?;
        let directory = self.target.parent().unwrap_or(Path::new("/"));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(if synced.is_ok() { Durability::Synced } else { Durability::Unconfirmed })
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // Gone after a commit.
        let _ = fs::remove_file(&self.staged);
    }
}

/// The absolute path of the file that `path` names, through symbolic links; it may be missing.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(io::Error::other("it is a symbolic link to a file that is missing"));
            }
            let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
            Ok(fs::canonicalize(state_file::directory(path))?.join(name))
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_at_the_commit_with_its_permissions() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("auth-config.json");
        assert_eq!(StagedFile::write(&path, b"1", 0o644).unwrap().commit().unwrap(), Durability::Synced);
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"1".to_vec(), 0o644));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let staged = StagedFile::write(&path, b"2", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1", "not before");
        staged.commit().unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"2".to_vec(), 0o640));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, b"old").unwrap();
        drop(StagedFile::write(&path, b"new", 0o600).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_stay_and_what_is_no_file_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let (file, link) = (home.path().join("real/file"), home.path().join("link"));
        fs::create_dir(home.path().join("real")).unwrap();
        fs::write(&file, b"old").unwrap();
        symlink("real/file", &link).unwrap();
        StagedFile::write(&link, b"new", 0o600).unwrap().commit().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");

        // A link at the name of the staged file is not followed.
        let victim = home.path().join("victim");
        fs::write(&victim, b"kept").unwrap();
        symlink(&victim, file.with_added_extension(STAGED)).unwrap();
        StagedFile::write(&link, b"newer", 0o600).unwrap().commit().unwrap();
        assert_eq!(
            (fs::read(&victim).unwrap(), fs::read(&file).unwrap()),
            (b"kept".to_vec(), b"newer".to_vec())
        );

        let dangling = home.path().join("dangling");
        symlink("nowhere", &dangling).unwrap();
        for path in [dangling, home.path().to_owned(), home.path().join("no/such/file"), "/dev/null".into()] {
            assert!(StagedFile::write(&path, b"x", 0o600).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_commit_that_fails_leaves_the_old_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, b"old").unwrap();
        let staged = StagedFile::write(&path, b"new", 0o600).unwrap();
        fs::remove_file(path.with_added_extension(STAGED)).unwrap();
        assert!(staged.commit().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}

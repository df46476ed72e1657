//! Files: read with a limit, written whole or not at all, secrets readable by their owner only.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kms_attest::small_file::{small_input, small_stdin};
use tempfile::{Builder, PersistError};
use zeroize::Zeroizing;

use crate::exit::{Failure, Outcome};

/// What to do with an existing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Kept,
    Replaced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Mode 0600.
    Owner,
    /// Mode 0644.
    Everyone,
}

/// The content of a file, or of standard input for `-`; at most `limit` bytes. Wiped when dropped.
pub(crate) fn read(path: &Path, limit: usize) -> Outcome<Zeroizing<Vec<u8>>> {
    let outcome =
        if path == Path::new("-") { small_stdin(limit as u64) } else { small_input(path, limit as u64) };
    outcome.map(Zeroizing::new).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => {
            Failure::usage(format_args!("{}: longer than {limit} bytes", path.display()))
        }
        _ => Failure::usage(format_args!("{}: {error}", path.display())),
    })
}

/// The text of a file, or of standard input for `-`.
pub(crate) fn read_text(path: &Path, limit: usize) -> Outcome<Zeroizing<String>> {
    let bytes = read(path, limit)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(Failure::usage(format_args!("{}: line {line}: not UTF-8", path.display())))
        }
    }
}

/// Reports early what would make `write` fail later, when work would be lost.
pub(crate) fn check_writable(path: &Path, existing: Existing) -> Outcome<()> {
    if existing == Existing::Kept && fs::symlink_metadata(path).is_ok() {
        return Err(exists(path));
    }
    let directory = directory_of(path);
    Builder::new()
        .prefix(".kmsctl-")
        .tempfile_in(directory)
        .map(|_| ())
        .map_err(|error| Failure::file("cannot write to", directory, &error))
}

/// Writes a file so that readers see all of it or nothing, even after a crash.
pub(crate) fn write(path: &Path, content: &[u8], readers: Readers, existing: Existing) -> Outcome<()> {
    write_with(path, readers, existing, |file| {
        file.write_all(content).map_err(|error| Failure::file("cannot write", path, &error))
    })
}

/// As [`write()`], with the content that `fill` writes.
pub(crate) fn write_with(
    path: &Path,
    readers: Readers,
    existing: Existing,
    fill: impl FnOnce(&mut File) -> Outcome<()>,
) -> Outcome<()> {
    let failed = |error: io::Error| Failure::file("cannot write", path, &error);
    let directory = directory_of(path);
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::Everyone => 0o644,
    };
    let mut file = Builder::new()
        .prefix(".kmsctl-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)
        .map_err(failed)?;
    fill(file.as_file_mut())?;
    file.as_file().sync_all().map_err(failed)?;
    let persisted = match existing {
        Existing::Replaced => file.persist(path),
        Existing::Kept => file.persist_noclobber(path),
    };
    match persisted {
        Ok(_) => {}
        Err(PersistError { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(exists(path));
        }
        Err(PersistError { error, .. }) => return Err(failed(error)),
    }
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn exists(path: &Path) -> Failure {
    Failure::usage(format_args!("{} exists; --force overwrites it", path.display()))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_for_their_owner_and_nothing_is_overwritten_unasked() {
        let home = tempfile::tempdir().expect("directory");
        let path = home.path().join("keys.json");
        write(&path, b"first", Readers::Owner, Existing::Kept).expect("written");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        let refusal = write(&path, b"second", Readers::Owner, Existing::Kept).expect_err("exists");
        assert!(refusal.message.ends_with("exists; --force overwrites it"), "{}", refusal.message);
        assert!(check_writable(&path, Existing::Kept).is_err());
        assert_eq!(fs::read(&path).expect("file"), b"first");
        check_writable(&path, Existing::Replaced).expect("writable");
        write(&path, b"third", Readers::Owner, Existing::Replaced).expect("replaced");
        assert_eq!(fs::read(&path).expect("file"), b"third");
        assert_eq!(fs::read_dir(home.path()).expect("directory").count(), 1, "nothing is left over");
    }

    #[test]
    fn reading_is_bounded_and_names_the_line_that_is_not_text() {
        let home = tempfile::tempdir().expect("directory");
        let path = home.path().join("file");
        fs::write(&path, b"ab\ncd\n\xff").expect("file");
        assert!(read(&path, 6).expect_err("long").message.ends_with("longer than 6 bytes"));
        assert!(read_text(&path, 100).expect_err("bytes").message.ends_with("line 3: not UTF-8"));
        assert_eq!(&read(&path, 7).expect("fits")[..2], b"ab");
    }
}

//! Keeps the file of a node that joins a fleet beside the one that replaces it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use crate::config::BEFORE_FLEET;

/// The most files of one name that are kept.
const MAX_KEPT: u32 = 100;

/// Gives the file at `path` a second name, which it keeps when the file is replaced, and returns that name.
///
/// # Errors
/// Those of the system.
pub fn set_aside(path: &Path) -> io::Result<String> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    for number in 0..MAX_KEPT {
        let mut aside = OsString::from(name);
        aside.push(format!(".{BEFORE_FLEET}"));
        if number > 0 {
            aside.push(format!(".{number}"));
        }
        match fs::hard_link(path, path.with_file_name(&aside)) {
            Ok(()) => return Ok(aside.to_string_lossy().into_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many files of earlier times are kept"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_file_stays_beside_the_new_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("domains.json");
        for (number, name) in ["domains.json.before-fleet", "domains.json.before-fleet.1"].iter().enumerate()
        {
            kms_attest::state_file::replace(&path, number.to_string().as_bytes()).unwrap();
            assert_eq!(set_aside(&path).unwrap(), *name);
            kms_attest::state_file::replace(&path, b"new").unwrap();
            assert_eq!(fs::read(home.path().join(name)).unwrap(), number.to_string().as_bytes());
        }
        assert!(set_aside(&home.path().join("none.json")).is_err());
    }
}

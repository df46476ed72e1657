//! The files of one audit log: the one that grows, and closed ones beside it, which are named by their last record.
//!
//! `audit.jsonl` grows. When the writer has to leave it, it becomes `audit.<number>.jsonl`, where the number is that of
//! the last record in it, and a new `audit.jsonl` goes on with the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kms_attest::state_file::suffixed;
use kms_ledger::compressed::{self, plain_name};

use super::disk::{Identity, Seen, directory};

/// Which file a record is in, by its place.
struct Names<'a> {
    directory: &'a Path,
    stem: &'a str,
    extension: Option<&'a str>,
}

impl<'a> Names<'a> {
    /// `None` for names that are not text: such a log has one file.
    fn of(path: &'a Path) -> Option<Self> {
        Some(Self {
            directory: directory(path),
            stem: path.file_stem()?.to_str()?,
            extension: match path.extension() {
                Some(extension) => Some(extension.to_str()?),
                None => None,
            },
        })
    }

    fn with(&self, middle: &str) -> PathBuf {
        let extension = self.extension.map(|extension| format!(".{extension}")).unwrap_or_default();
        self.directory.join(format!("{}.{middle}{extension}", self.stem))
    }

    /// The number in the name of a closed file.
    fn number(&self, file: &Path) -> Option<u64> {
        let file = plain_name(file);
        let name = file.file_name()?.to_str()?;
        let rest = name.strip_prefix(self.stem)?.strip_prefix('.')?;
        let middle = match self.extension {
            Some(extension) => rest.strip_suffix(extension)?.strip_suffix('.')?,
            None => rest,
        };
        middle.parse().ok().filter(|number: &u64| number.to_string() == middle)
    }
}

/// The note that the closed file of this number was moved away.
pub(super) fn archived_name(path: &Path, last: u64) -> PathBuf {
    path.with_extension(format!("{last}.archived"))
}

/// Such notes beside the log at `path`, in the order of their numbers.
pub(super) fn archived_notes(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut notes = Vec::new();
    for entry in fs::read_dir(directory(path))? {
        let file = entry?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let last = name.strip_suffix(".archived").and_then(|name| name.rsplit('.').next());
        if let Some(last) = last.and_then(|last| last.parse().ok())
            && archived_name(path, last).file_name() == file.file_name()
        {
            notes.push((last, file));
        }
    }
    notes.sort();
    Ok(notes.into_iter().map(|(_, file)| file).collect())
}

/// The files of the log at `path` in the order of their records, `path` last.
pub fn segments(path: &Path) -> io::Result<Vec<PathBuf>> {
    let closed = closed(path)?;
    Ok(closed.into_iter().chain([path.to_owned()]).collect())
}

/// The closed files of the log at `path` in the order of their records.
pub(super) fn closed(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(numbered(path)?.into_iter().map(|(_, path)| path).collect())
}

/// The same, each with the number of its last record, by the names that they have before they are compressed.
/// Lines after that one were never acknowledged.
pub(super) fn numbered(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut closed = Vec::new();
    if let Some(names) = Names::of(path) {
        for entry in fs::read_dir(names.directory)? {
            let file = entry?.path();
            if let Some(number) = names.number(&file) {
                closed.push((number, plain_name(&file)));
            }
        }
    }
    closed.sort();
    closed.dedup();
    Ok(closed)
}

/// A file of a log that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOfLog {
    /// Without its directory.
    pub name: String,
    /// The number of its last record; `None` for the file that grows.
    pub last: Option<u64>,
    /// Its length.
    pub bytes: u64,
    /// Whether it is compressed.
    pub is_compressed: bool,
}

/// The files of the log at `path` in the order of their records.
///
/// # Errors
/// The directory cannot be read.
pub fn files_of_log(path: &Path) -> io::Result<Vec<FileOfLog>> {
    let closed = numbered(path)?.into_iter().map(|(last, file)| (Some(last), file));
    let mut files = Vec::new();
    for (last, plain) in closed.chain([(None, path.to_owned())]) {
        let file = compressed::present_name(&plain);
        // It may be moved away at this moment.
        let Ok(metadata) = fs::metadata(&file) else { continue };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(FileOfLog { name, last, bytes: metadata.len(), is_compressed: file != plain });
    }
    Ok(files)
}

/// Where a new file stands until it is the one that grows.
pub(super) fn new_name(path: &Path) -> PathBuf {
    suffixed(path, ".new")
}

/// The file that holds space for the log.
pub(super) fn reserve_name(path: &Path) -> PathBuf {
    suffixed(path, ".reserve")
}

/// The directory of the tree over the records.
pub(super) fn tree_name(path: &Path) -> PathBuf {
    path.with_extension("tree")
}

/// The file that says which node of a cluster the log is of.
pub(super) fn node_name(path: &Path) -> PathBuf {
    path.with_extension("node")
}

/// The file with the newest signed checkpoint that stands beside the name of the node.
pub(super) fn checkpoint_name(path: &Path) -> PathBuf {
    path.with_extension("checkpoint")
}

/// Gives the file at `path` the name of a closed one whose last record has this number. It keeps its old name too,
/// which the next file takes: there is a log under that name at every moment.
pub(super) fn close(path: &Path, last: u64) -> io::Result<()> {
    keep(path, &last.to_string())
}

/// Keeps a file that is not of this log.
pub(super) fn set_aside(path: &Path, last: u64) -> io::Result<()> {
    keep(path, &format!("{last}.found"))
}

/// Keeps what has the temporary name of a new file of the log at `path`, under another one. Gives that.
pub(super) fn set_new_aside(path: &Path, last: u64) -> io::Result<PathBuf> {
    let new = new_name(path);
    let (kept, _) = free_name(path, &format!("{last}.found"), None)?;
    fs::rename(new, &kept)?;
    Ok(kept)
}

fn keep(path: &Path, middle: &str) -> io::Result<()> {
    let (kept, is_there) = free_name(path, middle, Seen::at(path)?.map(|own| own.identity))?;
    if is_there {
        return Ok(());
    }
    match fs::hard_link(path, &kept) {
        Ok(()) => Ok(()),
        // A file system without links: for a moment nothing has the name.
        Err(_) => fs::rename(path, &kept),
    }
}

/// A name that nothing has, or only the file itself: then `true`.
fn free_name(path: &Path, middle: &str, own: Option<Identity>) -> io::Result<(PathBuf, bool)> {
    let Some(names) = Names::of(path) else { return Err(io::ErrorKind::InvalidFilename.into()) };
    let mut name = names.with(middle);
    let mut copies = 0_u32;
    while let Some(taken) = Seen::at(&compressed::present_name(&name))? {
        if own == Some(taken.identity) {
            return Ok((name, true));
        }
        copies += 1;
        name = names.with(&format!("{middle}.{copies}"));
    }
    Ok((name, false))
}

/// Takes second names of the file at `path` away, which a crash has left.
pub(super) fn forget_second_names(path: &Path) -> io::Result<()> {
    let Some(own) = Seen::at(path)? else { return Ok(()) };
    for other in segments(path)? {
        if other != path && Seen::at(&other)?.is_some_and(|other| other.identity == own.identity) {
            fs::remove_file(other)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_files_come_in_the_order_of_their_records() {
        let directory = tempfile::tempdir().unwrap();
        for name in
            ["audit.10.jsonl", "audit.9.jsonl", "audit.jsonl", "audit.07.jsonl", "audit.x.jsonl", "b.1.jsonl"]
        {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let found = segments(&directory.path().join("audit.jsonl")).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["audit.9.jsonl", "audit.10.jsonl", "audit.jsonl"]);
    }

    #[test]
    fn nothing_is_overwritten_when_a_file_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "new").unwrap();
        fs::write(directory.path().join("log.7"), "old").unwrap();
        close(&path, 7).unwrap();
        assert_eq!(fs::read(directory.path().join("log.7")).unwrap(), b"old");
        assert_eq!(fs::read(directory.path().join("log.7.1")).unwrap(), b"new");
        close(&path, 8).unwrap();
        close(&path, 8).unwrap();
        forget_second_names(&path).unwrap();
        assert!(!directory.path().join("log.8").exists());
        assert!(path.exists());
    }
}

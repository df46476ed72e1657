//! Compresses closed files of the log, on a thread of its own. Nothing is removed before its compressed form
//! is on the disk and was read back.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};

use kms_ledger::compressed::{self, Content, Stored};

use super::disk::{Disk as _, OsDisk, Seen, directory};
use super::segments;

/// Space that is left to the log itself.
const LEFT: u64 = 64 << 20;

/// The thread; it ends with this.
pub(super) struct Compressor(SyncSender<()>);

impl Compressor {
    /// Begins with the closed files that are there.
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let (wake, woken) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("audit-compress".to_owned()).spawn(move || {
            while woken.recv().is_ok() {
                compress_closed(&path);
            }
        })?;
        let compressor = Self(wake);
        compressor.wake();
        Ok(compressor)
    }

    /// Looks for closed files again.
    pub(super) fn wake(&self) {
        // One that waits is enough.
        let _ = self.0.try_send(());
    }
}

fn compress_closed(log: &Path) {
    let closed = segments::closed(log).unwrap_or_default();
    for file in closed.into_iter().filter(|file| file.exists()) {
        if let Err(error) = compress(log, &file) {
            let _ = fs::remove_file(part_name(&file));
            tracing::warn!(file = %super::name(&file), %error, "a closed file of the audit log is not compressed");
        }
    }
}

fn part_name(file: &Path) -> PathBuf {
    let mut name = compressed::name(file).into_os_string();
    name.push(".part");
    PathBuf::from(name)
}

/// Replaces a closed file by its compressed form.
fn compress(log: &Path, file: &Path) -> io::Result<()> {
    let plain = File::open(file)?;
    match plain.try_lock() {
        Ok(()) => {}
        // It grows still, or is being moved away.
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let seen = Seen::of(&plain.metadata()?);
    let is_same = |other: Option<Seen>| other.is_some_and(|other| other.identity == seen.identity);
    if !seen.is_file || !is_same(Seen::at(file)?) || is_same(Seen::at(log)?) {
        return Ok(());
    }
    let target = compressed::name(file);
    let content = if target.exists() {
        // A crash came before the plain file was removed.
        compressed::content(&plain)?
    } else {
        let part = part_name(file);
        if OsDisk.room(log)?.free < seen.size.saturating_add(LEFT) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        let content = compressed::compress(&plain, &new)?;
        new.sync_all()?;
        check(&part, Stored::Compressed(File::open(&part)?), content)?;
        fs::rename(&part, &target)?;
        File::open(directory(&target))?.sync_data()?;
        content
    };
    check(&target, Stored::open(&target)?, content)?;
    fs::remove_file(file)?;
    File::open(directory(file))?.sync_data()
}

/// Checks that the file has this content.
fn check(file: &Path, stored: Stored, content: Content) -> io::Result<()> {
    if compressed::content(stored.reader())? == content {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} has another content", super::name(file))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_removed_only_when_its_compressed_form_has_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let (log, file) = (directory.path().join("audit.jsonl"), directory.path().join("audit.7.jsonl"));
        let gz = compressed::name(&file);
        let text = "{\"seq\":7}\n".repeat(1000);
        fs::write(&log, "").unwrap();
        fs::write(&file, &text).unwrap();

        // It cannot be written, as on a full disk.
        fs::create_dir(part_name(&file)).unwrap();
        compress_closed(&log);
        assert!(fs::read_to_string(&file).unwrap() == text && !gz.exists());
        fs::remove_dir(part_name(&file)).unwrap();
        // Another process works on it.
        let locked = File::open(&file).unwrap();
        locked.lock().unwrap();
        compress_closed(&log);
        assert!(file.exists() && !gz.exists());
        drop(locked);
        // It has the name of the log too.
        fs::remove_file(&log).unwrap();
        fs::hard_link(&file, &log).unwrap();
        compress_closed(&log);
        assert!(file.exists() && !gz.exists());
        fs::remove_file(&log).unwrap();

        // A crash has left half of it.
        fs::write(part_name(&file), "half").unwrap();
        compress_closed(&log);
        assert!(!file.exists() && !part_name(&file).exists());
        let read = |file: &Path| io::read_to_string(Stored::open(file).unwrap().reader()).unwrap();
        assert!(read(&file) == text);
        // A crash came before the plain file was removed.
        fs::write(&file, &text).unwrap();
        compress_closed(&log);
        assert!(!file.exists() && read(&file) == text);
        // Another file has its place: both stay.
        for other in [text.replacen('7', "8", 1), text[1..].to_owned(), String::new()] {
            fs::write(&file, &other).unwrap();
            compress_closed(&log);
            assert!(fs::read_to_string(&file).unwrap() == other && read(&gz) == text);
        }
    }
}

//! `kms audit archive`: moves closed files to another directory, and records that in the log.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use kms_attest::state_file::{self, sync_directory};
use kms_ledger::compressed;
use kms_ledger::files::Names;
use kms_ledger::verify::{Known, verify};
use sha2::{Digest as _, Sha256};

use super::Place;
use crate::audit::{ArchivedFile, note_archived};

#[derive(Debug, Args)]
pub(in super::super) struct Archive {
    #[command(flatten)]
    place: Place,
    /// The directory to move them to; created if it is missing
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Damage that has been looked into: the number of the last record before it
    #[arg(long, value_name = "NUMBER")]
    known_damage: Vec<u64>,
}

impl Archive {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let names = self.place.names()?;
        // Files that do not verify are not moved, so that they can be investigated.
        let verified = verify(&self.place.directories(), &names, Known::default())?;
        let Some(tree) = verified.tree else {
            bail!("the log has no signed tree: nothing would prove what the moved files held");
        };
        let unknown = verified.chain.damages.iter().find(|damage| !self.known_damage.contains(&damage.after));
        if let Some(damage) = unknown {
            bail!(
                "the log is damaged after record {0}: look at it with `kms audit verify`, then say --known-damage {0}",
                damage.after
            );
        }
        let made = DirBuilder::new().mode(0o700).create(&self.to);
        if made.is_ok() {
            sync_directory(state_file::directory(&self.to))?;
        } else if !self.to.is_dir() {
            made.with_context(|| format!("{} is not a directory and cannot be created", self.to.display()))?;
        }
        let own = Place { archive: Vec::new(), ..self.place };
        let beside = state_file::directory(&own.file);
        ensure!(
            !is_same(&fs::metadata(&self.to)?, &fs::metadata(beside)?),
            "{} is the directory of the log itself",
            self.to.display()
        );
        // The mark itself may not have reached the disk.
        File::open(names.tree("synced"))?.sync_all()?;
        let mut moved = 0_u64;
        for file in names.segments(&own.directories())? {
            let Some(last) = names.last_record(&file) else { continue };
            // The tree must be complete on the disk without these files.
            if last >= tree.first + tree.checkpoint.size.get().min(tree.synced) || tree.stale > 0 {
                bail!("the tree is not on the disk up to record {last} yet: try again");
            }
            let file = compressed::present_name(&file);
            let locked = File::open(&file).with_context(|| file.display().to_string())?;
            ensure!(locked.try_lock().is_ok(), "{} is being compressed: try again", file.display());
            let archived = copy(&names, &file, last, &self.to)?;
            note_archived(&own.file, &archived)
                .context("the archived files cannot be recorded in the log")?;
            fs::remove_file(&file).with_context(|| file.display().to_string())?;
            sync_directory(state_file::directory(&file))?;
            say!("{} was moved to {}", file.display(), self.to.display());
            moved += 1;
        }
        say!("{moved} files were moved");
        Ok(ExitCode::SUCCESS)
    }
}

/// Copies a file: complete and synced before it gets its name. An existing copy must be identical.
fn copy(names: &Names, file: &Path, last: u64, to: &Path) -> anyhow::Result<ArchivedFile> {
    let name = file.file_name().context("a file has a name")?;
    let (target, part) = (to.join(name), to.join(format!("{}.part", name.to_string_lossy())));
    let (sha256, bytes) = digest(file)?;
    if let Ok(found) = fs::symlink_metadata(&target) {
        let is_copy = found.is_file() && !is_same(&found, &fs::metadata(file)?);
        ensure!(is_copy, "{} is not a separate file", target.display());
    } else {
        let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        io::copy(&mut File::open(file)?, &mut copy)?;
        copy.flush()?;
        copy.sync_all()?;
        ensure!(digest(&part)? == (sha256, bytes), "the copy of {} differs", file.display());
        fs::rename(&part, &target)?;
        sync_directory(to)?;
    }
    ensure!(digest(&target)? == (sha256, bytes), "{} is a different file", target.display());
    debug_assert_eq!(names.last_record(&target), Some(last));
    Ok(ArchivedFile { last, bytes, sha256: hex::encode(sha256) })
}

/// Whether both are the same file or directory, under whatever names.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn digest(file: &Path) -> anyhow::Result<([u8; 32], u64)> {
    let mut reader = File::open(file).with_context(|| file.display().to_string())?;
    let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok((digest.finalize().into(), bytes));
        }
        digest.update(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_itself_is_no_place_for_its_copies() {
        let home = tempfile::tempdir().expect("a directory");
        let (log, to) = (home.path().join("audit.jsonl"), home.path().join("to"));
        let closed = home.path().join("audit.7.jsonl");
        fs::write(&closed, "record\n").expect("a file");
        fs::create_dir(&to).expect("a directory");
        let names = Names::of(&log).expect("names");
        // A hard link gives the file another name.
        fs::hard_link(&closed, to.join("audit.7.jsonl")).expect("a link");
        assert!(copy(&names, &closed, 7, &to).is_err());
        fs::remove_file(to.join("audit.7.jsonl")).expect("removed");
        std::os::unix::fs::symlink(&closed, to.join("audit.7.jsonl")).expect("a link");
        assert!(copy(&names, &closed, 7, &to).is_err());
        fs::remove_file(to.join("audit.7.jsonl")).expect("removed");
        for _ in 0..2 {
            assert_eq!(
                copy(&names, &closed, 7, &to).expect("copied").bytes,
                7,
                "also when it is there already"
            );
        }
        let metadata = |path: &Path| fs::metadata(path).expect("metadata");
        assert!(is_same(&metadata(home.path()), &metadata(&to.join(".."))));
    }
}

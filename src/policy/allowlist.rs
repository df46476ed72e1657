//! The policy of a file: auth-simple's `auth-config.json`, inside this process.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::rules::Rules;
use super::{Decision, Denial, Info, Subject};
use crate::config::{EmptyDevices, Relaxation};

/// No allow-list is larger.
const MAX_FILE: u64 = 64 << 20;

/// A file that changed this recently may change again without a new time stamp.
const UNSETTLED: Duration = Duration::from_millis(100);

/// Decides by the newest content of a file. A missing or invalid file denies everything.
pub struct Allowlist {
    path: Arc<Path>,
    empty_devices: EmptyDevices,
    snapshot: ArcSwap<Snapshot>,
    /// One reads, the others wait and find the result.
    reading: Mutex<()>,
}

impl Allowlist {
    /// Reads the file once; when it cannot be read, that is logged and everything is denied until it can.
    pub fn open(path: PathBuf, empty_devices: EmptyDevices) -> Self {
        let path: Arc<Path> = path.into();
        let snapshot = Snapshot::read(&path);
        snapshot.log();
        Self { path, empty_devices, snapshot: ArcSwap::from_pointee(snapshot), reading: Mutex::new(()) }
    }

    pub(super) async fn decide(&self, subject: Subject<'_>) -> Decision {
        self.refresh().await;
        self.snapshot_decide(subject)
    }

    pub(super) fn snapshot_decide(&self, subject: Subject<'_>) -> Decision {
        let snapshot = self.snapshot.load();
        match (snapshot.rules.decide(subject, self.empty_devices), &snapshot.error) {
            (Decision::Denied(denial), Some(error)) => Decision::Denied(Denial {
                code: "allowlist_unusable",
                expected: Some(format!("a readable allow-list: it {error}")),
                ..denial
            }),
            (decision, _) => decision,
        }
    }

    /// Reads the file again if it is not the one that was read.
    pub(super) async fn refresh(&self) {
        if self.snapshot.load().is_current(&self.path) {
            return;
        }
        let _reading = self.reading.lock().await;
        if self.snapshot.load().is_current(&self.path) {
            return;
        }
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || Snapshot::read(&path)).await;
        let snapshot = read.unwrap_or_else(|_| Snapshot::denying("could not be read".to_owned(), None));
        if !snapshot.is_same_file_as(&self.snapshot.load()) {
            snapshot.log();
        }
        self.snapshot.store(Arc::new(snapshot));
    }

    pub(super) fn info(&self) -> Info {
        self.snapshot.load().rules.info()
    }

    pub(super) fn last_error(&self) -> Option<String> {
        let snapshot = self.snapshot.load();
        snapshot.error.as_ref().map(|error| format!("the file of core.auth_api.allowlist.path {error}"))
    }

    pub(super) fn relaxation(&self) -> Option<Relaxation> {
        match self.empty_devices {
            EmptyDevices::AnyDevice => self.snapshot.load().rules.relaxation(),
            EmptyDevices::NoDevice => None,
        }
    }
}

/// What a file held, and how to see that it holds something else now.
struct Snapshot {
    rules: Rules,
    error: Option<String>,
    stamp: Option<Stamp>,
    is_settled: bool,
}

/// Changes whenever the file is written or replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Snapshot {
    fn read(path: &Path) -> Self {
        match contents(path) {
            Ok((bytes, metadata)) => {
                let stamp = Some(Stamp::of(&metadata));
                match Rules::parse(&bytes) {
                    Ok(rules) => Self { rules, error: None, stamp, is_settled: is_settled(&metadata) },
                    Err(error) => {
                        Self { is_settled: is_settled(&metadata), ..Self::denying(error.to_string(), stamp) }
                    }
                }
            }
            Err(error) => Self::denying(format!("cannot be read: {error}"), None),
        }
    }

    fn denying(error: String, stamp: Option<Stamp>) -> Self {
        Self { rules: Rules::deny_all(), error: Some(error), stamp, is_settled: true }
    }

    fn is_current(&self, path: &Path) -> bool {
        self.is_settled
            && self.stamp.is_some()
            && self.stamp == fs::metadata(path).ok().map(|file| Stamp::of(&file))
    }

    /// Whether there is nothing new to tell.
    fn is_same_file_as(&self, other: &Self) -> bool {
        self.stamp == other.stamp && self.error == other.error
    }

    fn log(&self) {
        match &self.error {
            None => tracing::info!(rules = self.rules.summary(), "allow-list read"),
            Some(error) => {
                tracing::error!(
                    error,
                    "the file of core.auth_api.allowlist.path is unusable: everything is denied"
                );
            }
        }
    }
}

/// By the time of change, which nobody can set; a clock that was put back does not unsettle a file for ever.
fn is_settled(metadata: &Metadata) -> bool {
    let changed = u64::try_from(metadata.ctime()).ok().zip(u32::try_from(metadata.ctime_nsec()).ok());
    let Some((seconds, nanoseconds)) = changed else { return true };
    let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    let age = SystemTime::now().duration_since(changed).unwrap_or_else(|ahead| ahead.duration());
    age > UNSETTLED
}

fn contents(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    // A pipe would be waited for.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    (&mut file).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 64 MiB"));
    }
    Ok((bytes, metadata))
}

#[cfg(test)]
mod tests;

//! The policy that a file defines: auth-simple's `auth-config.json`, read by this process.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

mod lookout;
mod stamp;

use arc_swap::{ArcSwap, ArcSwapOption};
use kms_attest::small_file;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use self::lookout::{Lookout, Silent};
use self::stamp::Stamp;
use crate::decision::{Decision, Denial, DenialCode, PolicyError, Ruling, Subject};
use crate::drop_in_background::drop_in_background;
use crate::epochs::AppEpochs;
use crate::examination::Examination;
use crate::info::{InForce, Info};
use crate::relaxation::Relaxation;
use crate::rules::{MAX_FILE, Rules};
use crate::settings::EmptyDevices;

/// A file that changed this recently can change again with the same time stamp.
const UNSETTLED: Duration = Duration::from_millis(100);

/// How long a decision waits for a changed file. Reading a typical file takes a few milliseconds.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Reading a file larger than this, with a thousand apps or more, takes so long that callers would notice.
const LARGE: u64 = 256 << 10;

/// How long a decision waits for a large file.
const MAX_WAIT_IF_LARGE: Duration = Duration::from_millis(20);

/// How long the previous rules still decide while a large changed file is read.
const MAX_STALENESS: Duration = Duration::from_secs(10);

/// The error that operators see while the file system does not respond.
const SILENT: &str = "the file system of core.auth_api.allowlist.path does not answer";

/// Decides by the newest content of a file. A missing or invalid file denies everything.
pub struct Allowlist {
    empty_devices: EmptyDevices,
    file: Arc<WatchedFile>,
}

impl Allowlist {
    /// Reads the file once. If that fails, the error is logged, and everything is denied until the file is
    /// readable.
    pub fn open(path: PathBuf, empty_devices: EmptyDevices) -> Self {
        Self { empty_devices, file: Arc::new(WatchedFile::open(path.into())) }
    }

    pub(crate) async fn decide(&self, subject: Subject<'_>) -> Result<Ruling, PolicyError> {
        self.read().await?;
        let snapshot = self.file.snapshot.load();
        Ok(Ruling { decision: snapshot.decide(subject, self.empty_devices), digest: snapshot.digest })
    }

    /// Ensures that the newest content of the file has been read.
    async fn read(&self) -> Result<(), PolicyError> {
        let silent = |Silent| PolicyError::Unavailable { detail: SILENT.to_owned() };
        self.refreshed().await.map_err(silent)?;
        if self.file.is_overdue().await.map_err(silent)? {
            let detail = "the file of core.auth_api.allowlist.path has changed and cannot be read to its end";
            return Err(PolicyError::Unavailable { detail: detail.to_owned() });
        }
        Ok(())
    }

    pub(crate) fn snapshot_decide(&self, subject: Subject<'_>) -> Decision {
        self.file.snapshot.load().decide(subject, self.empty_devices)
    }

    /// The decision by the newest content, the outcome of each of its rules, and the nearest entry.
    pub(crate) async fn examine(&self, subject: Subject<'_>) -> Examination {
        let read = self.read().await;
        let snapshot = self.file.snapshot.load();
        let rules = &snapshot.rules;
        match read {
            Ok(()) => Examination {
                decision: Ok(snapshot.decide(subject, self.empty_devices)),
                rules: rules.checks(subject, self.empty_devices).collect(),
                nearest: rules.nearest(subject, self.empty_devices),
                release_stage: rules.release_stage(subject),
                epochs: rules.epochs(subject),
                digest: snapshot.digest,
            },
            // These rules are outdated, so they cannot explain the result.
            Err(error) => Examination::of(Err(error)),
        }
    }

    /// Reads the file again if it has changed, and waits for that for a limited time.
    pub(crate) async fn refresh(&self) {
        // An error is in `last_error`.
        let _ = self.refreshed().await;
    }

    async fn refreshed(&self) -> Result<(), Silent> {
        let asked = Instant::now();
        let seen = self.file.lookout.look().await?;
        if !self.file.is_current(seen) {
            self.read_changed(asked, seen).await?;
        }
        Ok(())
    }

    /// Reads a file that had changed when `asked`; another request may have read it since.
    async fn read_changed(&self, asked: Instant, seen: Option<Stamp>) -> Result<(), Silent> {
        self.file.has_changed(asked);
        // A separate task, so that reading continues when the request is cancelled.
        let reading = tokio::spawn(Arc::clone(&self.file).read_again(asked, seen));
        match tokio::time::timeout(max_wait(seen), reading).await {
            Ok(_) => Ok(()),
            // The previous rules decide for some seconds.
            Err(_) if is_large(seen) => Ok(()),
            Err(_) => Err(Silent),
        }
    }

    /// The rules that decide now.
    pub(crate) fn in_force(&self) -> InForce {
        let snapshot = self.file.snapshot.load();
        InForce { digest: snapshot.digest.filter(|_| snapshot.error.is_none()), since: Some(snapshot.since) }
    }

    pub(crate) fn app_epochs(&self, app_id: &[u8]) -> Option<Arc<AppEpochs>> {
        self.file.snapshot.load().rules.epochs_of(app_id)
    }

    pub(crate) fn info(&self) -> Info {
        self.file.snapshot.load().rules.info()
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        if self.file.lookout.is_silent() {
            return Some(SILENT.to_owned());
        }
        let snapshot = self.file.snapshot.load();
        snapshot.error.as_ref().map(|error| format!("the file of core.auth_api.allowlist.path {error}"))
    }

    pub(crate) fn relaxation(&self) -> Option<Relaxation> {
        match self.empty_devices {
            EmptyDevices::AnyDevice => self.file.snapshot.load().rules.relaxation(),
            EmptyDevices::NoDevice => None,
        }
    }
}

/// A file, and its content when it was last read.
struct WatchedFile {
    path: Box<Path>,
    lookout: Lookout,
    snapshot: ArcSwap<Snapshot>,
    /// One task reads; the others wait for its result.
    reading: Mutex<()>,
    /// When a change was noticed that has not been read yet.
    changed: ArcSwapOption<Instant>,
}

impl WatchedFile {
    fn open(path: Box<Path>) -> Self {
        Self::seen_by(path, |path| fs::metadata(path).ok().map(|file| Stamp::of(&file)))
    }

    fn seen_by(path: Box<Path>, look: impl Fn(&Path) -> Option<Stamp> + Send + 'static) -> Self {
        let snapshot = Snapshot::read(&path, None);
        snapshot.log();
        Self {
            lookout: Lookout::new(path.clone(), MAX_WAIT, look),
            path,
            snapshot: ArcSwap::from_pointee(snapshot),
            reading: Mutex::new(()),
            changed: ArcSwapOption::empty(),
        }
    }

    fn is_current(&self, seen: Option<Stamp>) -> bool {
        self.snapshot.load().is_of(seen)
    }

    fn has_changed(&self, now: Instant) {
        if self.changed.load().is_none() {
            self.changed.store(Some(Arc::new(now)));
        }
    }

    /// Whether the rules are too old to decide.
    async fn is_overdue(&self) -> Result<bool, Silent> {
        let is_late = self.changed.load().as_ref().is_some_and(|changed| changed.elapsed() > MAX_STALENESS);
        Ok(is_late && !self.is_current(self.lookout.look().await?))
    }

    /// Reads the file, unless another task began to read it after `asked`: that task has seen all earlier
    /// changes.
    async fn read_again(self: Arc<Self>, asked: Instant, seen: Option<Stamp>) {
        let _reading = self.reading.lock().await;
        let old = self.snapshot.load_full();
        if old.begun >= asked || old.is_of(seen) {
            // This request has set `changed`, perhaps after another task had read the change.
            self.changed.store(None);
            return;
        }
        let file = Arc::clone(&self);
        let read = tokio::task::spawn_blocking(move || {
            let snapshot = Snapshot::read(&file.path, Some(&old));
            file.replace(&old, snapshot);
            drop_in_background(old);
        });
        if read.await.is_err() {
            let old = self.snapshot.load_full();
            self.replace(&old, Snapshot::unreadable("could not be read".to_owned()));
        }
        self.changed.store(None);
    }

    fn replace(&self, old: &Snapshot, new: Snapshot) {
        let new = Arc::new(new);
        self.snapshot.store(Arc::clone(&new));
        if !new.is_same_file_as(old) {
            new.log();
        }
    }
}

/// The content of a file, and what shows that the file has changed since.
struct Snapshot {
    rules: Arc<Rules>,
    error: Option<String>,
    digest: Option<[u8; 32]>,
    stamp: Option<Stamp>,
    is_settled: bool,
    /// When this read began.
    begun: Instant,
    /// When this content was first read.
    since: SystemTime,
}

impl Snapshot {
    /// Does not parse content that equals that of `before`.
    fn read(path: &Path, before: Option<&Self>) -> Self {
        let begun = Instant::now();
        let (bytes, metadata) = match small_file::with_metadata(path, MAX_FILE) {
            Ok(read) => read,
            Err(error) => return Self { begun, ..Self::unreadable(format!("cannot be read: {error}")) },
        };
        let digest = Some(Sha256::digest(&bytes).into());
        let same = before.filter(|before| before.digest == digest);
        let since = same.map_or_else(SystemTime::now, |before| before.since);
        let (rules, error) = match same {
            Some(before) => (Arc::clone(&before.rules), before.error.clone()),
            None => match Rules::parse(&bytes) {
                Ok(rules) => (Arc::new(rules), None),
                Err(error) => (Arc::new(Rules::deny_all()), Some(error.to_string())),
            },
        };
        let (stamp, is_settled) = (Some(Stamp::of(&metadata)), is_settled(&metadata));
        Self { rules, error, digest, stamp, is_settled, begun, since }
    }

    fn unreadable(error: String) -> Self {
        Self {
            rules: Arc::new(Rules::deny_all()),
            error: Some(error),
            digest: None,
            stamp: None,
            is_settled: true,
            begun: Instant::now(),
            since: SystemTime::now(),
        }
    }

    fn decide(&self, subject: Subject<'_>, empty_devices: EmptyDevices) -> Decision {
        match (self.rules.decide(subject, empty_devices), &self.error) {
            (Decision::Denied(denial), Some(error)) => Decision::Denied(Denial {
                code: DenialCode::AllowlistUnusable,
                expected: Some(format!("a readable allowlist: it {error}")),
                ..denial
            }),
            (decision, _) => decision,
        }
    }

    /// Whether it is the content of the file with this stamp.
    fn is_of(&self, seen: Option<Stamp>) -> bool {
        self.is_settled && self.stamp.is_some() && self.stamp == seen
    }

    /// Whether there is nothing new to log.
    fn is_same_file_as(&self, other: &Self) -> bool {
        self.stamp == other.stamp && self.error == other.error
    }

    fn log(&self) {
        match &self.error {
            None => tracing::info!(rules = self.rules.summary(), "allowlist read"),
            Some(error) => {
                tracing::error!(
                    error,
                    "the file of core.auth_api.allowlist.path is unusable: everything is denied"
                );
            }
        }
    }
}

/// How long a decision waits for a file of this size.
fn max_wait(seen: Option<Stamp>) -> Duration {
    if is_large(seen) { MAX_WAIT_IF_LARGE } else { MAX_WAIT }
}

/// A file that is too large is refused unread, so it does not count.
fn is_large(seen: Option<Stamp>) -> bool {
    seen.is_some_and(|file| file.length > LARGE && file.length <= MAX_FILE)
}

/// Uses the time of change, which programs cannot set. The absolute difference counts, so that a clock that
/// was set back does not leave the file unsettled forever.
fn is_settled(metadata: &Metadata) -> bool {
    let changed = u64::try_from(metadata.ctime()).ok().zip(u32::try_from(metadata.ctime_nsec()).ok());
    let Some((seconds, nanoseconds)) = changed else { return true };
    let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    let age = SystemTime::now().duration_since(changed).unwrap_or_else(|ahead| ahead.duration());
    age > UNSETTLED
}

#[cfg(test)]
mod tests;

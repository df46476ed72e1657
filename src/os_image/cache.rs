//! The directories of cached OS images and measurements: their layout, and how operators clear them.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::SystemTime;

use kms_attest::platform::tdx::image::BootRegisters;
use kms_attest::platform::tdx::image::legacy::METADATA;
use kms_attest::small_file::small_file;
use kms_attest::vm_config::VmConfig;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::lookups::{Lookup, Lookups};
use super::origin::Origin;
use crate::metrics::Metrics;

/// The longest key in hexadecimal digits: SHA-512.
const MAX_KEY: usize = 128;
/// The version of measurements that the peer's 0.6.0 reads.
const VERSION: u32 = 3;
const MAX_MEASUREMENT: u64 = 4096;
/// The most cached measurements, because a VM can vary its configuration. Beyond that the oldest are removed.
const MAX_MEASUREMENTS: usize = 16 * 1024;
/// The fraction of a full cache that is removed at a time, so that not every measurement has to list it.
const GIVES_WAY: usize = 16;
/// The most attempts to delete a directory while others write into it.
const MAX_ATTEMPTS: usize = 100;
const IMAGES: &str = "images";
/// Below the images.
const WORKSPACES: &str = "tmp";
const MEASUREMENTS: &str = "measurements";
/// Our own measurements, with their origin. Files in `measurements/` have no origin, so they are never read.
const MEASURED: &str = "measured";

/// `core.image.cache_dir`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct ImageCache {
    directory: PathBuf,
    clearings: Arc<AtomicU64>,
    most_measurements: usize,
    told_full: Arc<Once>,
    images: Arc<Lookups>,
    measurements: Arc<Lookups>,
    /// Held while something is cleared or a measurement is written, so that these never overlap.
    turn: Arc<Mutex<()>>,
}

/// Why nothing was cleared.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither empty, nor `all`, nor hexadecimal.
    #[error("invalid cache key")]
    InvalidKey,
    /// The directory cannot be changed.
    #[error("cannot remove from the cache directory")]
    Io(#[source] io::Error),
}

/// A file in `measurements/`, for the peer.
#[derive(Serialize)]
struct Measurement {
    version: u32,
    measurements: BootRegisters,
}

/// The measurement of a VM with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Measured {
    pub(super) registers: BootRegisters,
    /// SHA-384 of the ACPI tables that it was measured with.
    #[serde(with = "hex::serde")]
    pub(super) acpi_tables: [u8; 48],
}

/// A file in `measured/`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// The key of the configuration, so that a renamed file is not used for another configuration.
    key: String,
    origin: String,
    measured: Measured,
}

impl ImageCache {
    /// The caches in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            clearings: Arc::default(),
            most_measurements: MAX_MEASUREMENTS,
            told_full: Arc::new(Once::new()),
            images: Arc::default(),
            measurements: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Shows both caches in `metrics`. Reads their directories.
    pub fn report_to(&self, metrics: &Metrics) {
        self.recount();
        let (images, measurements) = (Arc::downgrade(&self.images), Arc::downgrade(&self.measurements));
        let most = Some(self.most_measurements as u64);
        metrics.watch_cache("os_images", move || Some(images.upgrade()?.state(None)));
        metrics.watch_cache("measurements", move || Some(measurements.upgrade()?.state(most)));
    }

    /// Counts the entries of both again. Reads their directories.
    pub(super) fn recount(&self) {
        self.images.recount(&self.directory.join(IMAGES), |entry| entry.file_name() != WORKSPACES);
        self.recount_measurements();
    }

    fn recount_measurements(&self) {
        self.measurements.recount(&self.directory.join(MEASURED), |_| true);
    }

    /// Removes one image (hexadecimal hash), every image (`all`), or none (empty).
    ///
    /// # Errors
    /// [`CacheError`]; a missing image is not an error.
    pub async fn clear_images(&self, key: &str) -> Result<(), CacheError> {
        self.clear(&[IMAGES], key, &[""]).await
    }

    /// Removes one measurement, all, or none. The file is removed with and without `.json`: operators omit
    /// it, and the peer then finds no file.
    ///
    /// # Errors
    /// [`CacheError`]; a missing measurement is not an error.
    pub async fn clear_measurements(&self, key: &str) -> Result<(), CacheError> {
        self.clear(&[MEASUREMENTS, MEASURED], key, &["", ".json"]).await
    }

    async fn clear(&self, below: &[&str], key: &str, endings: &[&str]) -> Result<(), CacheError> {
        let directories = below.iter().map(|below| self.directory.join(below));
        let paths: Vec<PathBuf> = match key {
            "" => return Ok(()),
            "all" => directories.collect(),
            key if is_hash(key) => {
                let key = key.to_ascii_lowercase();
                let names = endings.iter().map(|ending| format!("{key}{ending}"));
                let names: Vec<String> = names.collect();
                directories.flat_map(|directory| names.iter().map(move |name| directory.join(name))).collect()
            }
            _ => return Err(CacheError::InvalidKey),
        };
        let cache = self.clone();
        let cleared = tokio::task::spawn_blocking(move || {
            let _turn = cache.turn();
            cache.clearings.fetch_add(1, Ordering::SeqCst);
            let cleared = paths.iter().try_for_each(|path| remove(&cache.directory, path));
            cache.clearings.fetch_add(1, Ordering::SeqCst);
            cache.recount();
            cleared
        });
        cleared.await.map_err(io::Error::other).flatten().map_err(CacheError::Io)
    }

    /// How often the cache was cleared: work that fails while this changes should be tried again.
    pub(super) fn clearings(&self) -> u64 {
        self.clearings.load(Ordering::SeqCst)
    }

    /// The same, after waiting for a clear in progress, so that work that failed during it is tried again.
    pub(super) fn clearings_done(&self) -> u64 {
        let _turn = self.turn();
        self.clearings()
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an image is, or would be.
    pub(super) fn image(&self, hash: &[u8; 32]) -> PathBuf {
        self.directory.join(IMAGES).join(hex::encode(hash))
    }

    /// Whether an image is cached: all of it appears by one rename.
    pub(super) fn has_image(&self, hash: &[u8; 32]) -> bool {
        self.image(hash).join(METADATA).is_file()
    }

    /// The same, for a request that needs the image: counted.
    pub(super) fn find_image(&self, hash: &[u8; 32]) -> bool {
        let is_there = self.has_image(hash);
        self.images.count(if is_there { Lookup::Hit } else { Lookup::Miss });
        is_there
    }

    /// A new directory for a download, on the same file system as the images. It is removed when dropped.
    pub(super) fn workspace(&self) -> io::Result<tempfile::TempDir> {
        let directory = self.directory.join(IMAGES).join(WORKSPACES);
        fs::create_dir_all(&directory)?;
        tempfile::Builder::new().prefix("tmp-download-").tempdir_in(directory)
    }

    fn entry(&self, below: &str, key: &str) -> PathBuf {
        self.directory.join(below).join(format!("{key}.json"))
    }

    /// What `origin` has measured under `key`; `None` if it was measured by something else, or is unreadable.
    pub(super) fn read(&self, key: &str, origin: &Origin) -> Option<Measured> {
        let found = self.kept(key, origin);
        self.measurements.count(if found.is_some() { Lookup::Hit } else { Lookup::Miss });
        found
    }

    fn kept(&self, key: &str, origin: &Origin) -> Option<Measured> {
        let text = small_file(&self.entry(MEASURED, key), MAX_MEASUREMENT).ok()?;
        let kept: Record = kms_attest::json::from_utf8(&text).ok()?;
        (kept.origin == origin.as_str() && kept.key == key).then_some(kept.measured)
    }

    /// Caches what `origin` has measured under `key`, and the registers where the peer looks for them, each
    /// by one rename. Does nothing if the cache was cleared since the clear count was `clearings`, because
    /// the measurement may depend on removed files.
    pub(super) fn write(
        &self,
        key: &str,
        origin: &Origin,
        measured: Measured,
        clearings: u64,
    ) -> io::Result<()> {
        let _turn = self.turn();
        if self.clearings() != clearings {
            return Ok(());
        }
        let record = Record { key: key.to_owned(), origin: origin.as_str().to_owned(), measured };
        self.keep(MEASURED, key, &serde_json::to_vec(&record)?)?;
        self.recount_measurements();
        let measurement = Measurement { version: VERSION, measurements: measured.registers };
        self.keep(MEASUREMENTS, key, &serde_json::to_vec(&measurement)?)
    }

    fn keep(&self, below: &str, key: &str, content: &[u8]) -> io::Result<()> {
        let directory = self.directory.join(below);
        fs::create_dir_all(&directory)?;
        self.make_room(&directory)?;
        let mut file = tempfile::NamedTempFile::new_in(&directory)?;
        file.write_all(content)?;
        file.persist(self.entry(below, key)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Removes the oldest measurements of a full cache, and logs that once.
    fn make_room(&self, directory: &Path) -> io::Result<()> {
        if fs::read_dir(directory)?.take(self.most_measurements).count() < self.most_measurements {
            return Ok(());
        }
        let mut kept = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // A file that disappears meanwhile needs no removal.
            if let Ok(metadata) = entry.metadata() {
                kept.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
            }
        }
        kept.sort_unstable();
        let stays = self.most_measurements - self.most_measurements.div_ceil(GIVES_WAY);
        let leaves = kept.len().saturating_sub(stays);
        for (_, path) in &kept[..leaves] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.told_full.call_once(|| {
            tracing::warn!(
                most = self.most_measurements,
                "the cache of measurements is full: from now on the oldest are removed (core.image.cache_dir)"
            );
        });
        Ok(())
    }
}

/// The peer's cache key of a configuration: SHA-256 of its JSON.
pub(super) fn measurement_key(config: &VmConfig) -> String {
    let written = serde_json::to_vec(config).expect("a configuration has text keys and finite numbers only");
    hex::encode(Sha256::digest(written))
}

fn is_hash(key: &str) -> bool {
    key.len() <= MAX_KEY && key.len().is_multiple_of(2) && key.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Renames `path`, so that it is gone at once, and then deletes it, with several attempts while others write
/// into it.
fn remove(directory: &Path, path: &Path) -> io::Result<()> {
    let trash = match tempfile::Builder::new().prefix(".cleared-").tempdir_in(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        trash => trash?.keep(),
    };
    let moved = fs::rename(path, trash.join("entry"));
    let mut deleted = fs::remove_dir_all(&trash);
    for _ in 0..MAX_ATTEMPTS {
        if !deleted.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::DirectoryNotEmpty) {
            break;
        }
        deleted = fs::remove_dir_all(&trash);
    }
    match moved {
        Err(error) if error.kind() == io::ErrorKind::NotFound => deleted,
        moved => moved.and(deleted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::CacheState;

    fn cache() -> (tempfile::TempDir, ImageCache) {
        let directory = tempfile::tempdir().expect("temporary directory");
        for entry in ["images/aa11", "images/bb22", "measurements"] {
            fs::create_dir_all(directory.path().join(entry)).expect("directory");
        }
        fs::write(directory.path().join("images/aa11/metadata.json"), "{}").expect("file");
        fs::write(directory.path().join("measurements/cc33.json"), "{}").expect("file");
        let cache = ImageCache::new(directory.path().to_owned());
        (directory, cache)
    }

    fn measured(byte: u8) -> Measured {
        let registers = BootRegisters { mrtd: [byte; 48], rtmr0: [2; 48], rtmr1: [3; 48], rtmr2: [4; 48] };
        Measured { registers, acpi_tables: [5; 48] }
    }

    fn ours() -> Origin {
        Origin::for_test("ours")
    }

    #[tokio::test]
    async fn one_entry_all_or_none_are_removed() {
        let (directory, cache) = cache();
        cache.clear_images("").await.expect("nothing");
        assert!(directory.path().join("images/aa11").exists());
        cache.clear_images("AA11").await.expect("one");
        assert!(!directory.path().join("images/aa11").exists());
        assert!(directory.path().join("images/bb22").exists());
        cache.clear_images("all").await.expect("all");
        assert!(!directory.path().join("images").exists());
        cache.clear_images("all").await.expect("missing is fine");
        cache.clear_measurements("cc33").await.expect("without its ending");
        assert!(!directory.path().join("measurements/cc33.json").exists());
    }

    #[tokio::test]
    async fn what_was_measured_before_a_clearing_is_not_kept_after_it() {
        let (directory, cache) = cache();
        let begun = cache.clearings();
        cache.clear_measurements("all").await.expect("cleared");
        cache.write("ab", &ours(), measured(1), begun).expect("nothing to do");
        assert!(!directory.path().join("measurements").exists());
        assert!(!directory.path().join("measured").exists());
        cache.write("ab", &ours(), measured(1), cache.clearings()).expect("written");
        assert_eq!(cache.read("ab", &ours()), Some(measured(1)));
        cache.write("ac", &ours(), measured(1), cache.clearings()).expect("written");
        cache.clear_measurements("AB").await.expect("one");
        assert_eq!((cache.read("ab", &ours()), cache.read("ac", &ours())), (None, Some(measured(1))));
        cache.clear_measurements("all").await.expect("cleared");
        assert_eq!(cache.read("ac", &ours()), None);
    }

    #[test]
    fn a_full_cache_keeps_what_is_new_and_the_oldest_give_way() {
        let (directory, cache) = cache();
        let cache = ImageCache { most_measurements: 32, ..cache };
        let begin = SystemTime::now() - std::time::Duration::from_secs(3600);
        for number in 0..100_u32 {
            let key = format!("{number:04}");
            cache.write(&key, &ours(), measured(1), 0).expect("kept");
            assert_eq!(cache.read(&key, &ours()), Some(measured(1)), "{number}");
            for kind in [MEASUREMENTS, MEASURED] {
                // File times are coarse.
                let file = fs::File::options().write(true).open(cache.entry(kind, &key)).expect("file");
                file.set_modified(begin + std::time::Duration::from_secs(number.into())).expect("its time");
                let below = directory.path().join(kind);
                assert!(fs::read_dir(&below).expect("directory").count() <= 32, "{number}");
            }
        }
        let kept: Vec<u32> =
            (0..100).filter(|number| cache.read(&format!("{number:04}"), &ours()).is_some()).collect();
        assert!(kept.len() >= 30, "{kept:?}");
        assert_eq!(kept, (100 - kept.len() as u32..100).collect::<Vec<_>>(), "the newest");
        assert!(cache.told_full.is_completed());
    }

    #[tokio::test]
    async fn look_ups_and_entries_are_shown_of_images_and_measurements() {
        let (_directory, cache) = cache();
        let metrics = Metrics::new([]);
        cache.report_to(&metrics);
        let shown = || metrics.caches().into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let state = |entries, limit, hits, misses| CacheState { entries, limit, hits, misses };
        let most = Some(MAX_MEASUREMENTS as u64);
        assert_eq!(shown()["os_images"], state(2, None, 0, 0));
        cache.workspace().expect("a workspace");
        assert!(!cache.find_image(&[7; 32]));
        fs::create_dir_all(cache.image(&[7; 32])).expect("directory");
        fs::write(cache.image(&[7; 32]).join(METADATA), "{}").expect("file");
        assert!(cache.find_image(&[7; 32]) && cache.find_image(&[7; 32]));
        assert_eq!(cache.read("ab", &ours()), None);
        cache.write("ab", &ours(), measured(1), 0).expect("written");
        assert!(cache.read("ab", &ours()).is_some());
        assert_eq!(shown()["measurements"], state(1, most, 1, 1));
        cache.clear_measurements("all").await.expect("cleared");
        assert_eq!(shown()["measurements"], state(0, most, 1, 1));
        assert_eq!(shown()["os_images"], state(3, None, 2, 1));
        drop(cache);
        assert!(metrics.caches().is_empty(), "its owner is gone");
    }

    #[tokio::test]
    async fn keys_that_are_no_hash_are_refused_and_remove_nothing() {
        let (directory, cache) = cache();
        for key in ["../images", "aa11/..", "a", "zz", "ALL", " ", "/etc", "aa11\0"] {
            assert!(matches!(cache.clear_images(key).await, Err(CacheError::InvalidKey)), "{key:?}");
        }
        assert!(directory.path().join("images/aa11/metadata.json").exists());
    }

    #[test]
    fn registers_are_kept_for_the_peer_and_only_what_we_measured_is_read() {
        let (directory, cache) = cache();
        let path = directory.path().join("measurements/ab.json");
        assert_eq!(cache.read("ab", &ours()), None);
        cache.write("ab", &ours(), measured(1), 0).expect("written");
        assert_eq!(cache.read("ab", &ours()), Some(measured(1)));
        let text = fs::read_to_string(&path).expect("file");
        assert!(text.starts_with(r#"{"version":3,"measurements":{"mrtd":"0101"#), "{text}");
        // From another program, another version or another configuration of ours.
        for origin in ["", "our", "OURS", "theirs"] {
            assert_eq!(cache.read("ab", &Origin::for_test(origin)), None, "{origin}");
        }
        let theirs = Origin::for_test("theirs");
        cache.write("ab", &theirs, measured(9), 0).expect("written");
        assert_eq!((cache.read("ab", &ours()), cache.read("ab", &theirs)), (None, Some(measured(9))));
        // The peer's file does not say what made it.
        fs::write(&path, text.replace("0101", "0909")).expect("file");
        cache.write("cd", &ours(), measured(1), 0).expect("written");
        fs::copy(&path, directory.path().join("measured/ab.json")).expect("copied");
        assert_eq!(cache.read("ab", &ours()), None);
    }

    #[test]
    fn a_record_that_was_altered_is_none() {
        let (directory, cache) = cache();
        let path = directory.path().join("measured/ab.json");
        cache.write("ab", &ours(), measured(1), 0).expect("written");
        let text = fs::read_to_string(&path).expect("file");
        for other in [
            "{".to_owned(),
            " ".repeat(5000) + &text,
            text.replace("\"key\":\"ab\"", "\"key\":\"cd\""),
            text.replace("\"origin\":\"ours\",", ""),
            text.replace("0101", "01"),
            text.replace("{\"key\"", "{\"x\":1,\"key\""),
            text.clone() + "{}",
        ] {
            assert_ne!(other, text);
            fs::write(&path, &other).expect("file");
            assert_eq!(cache.read("ab", &ours()), None, "{other}");
        }
        fs::rename(&path, directory.path().join("measured/cd.json")).expect("renamed");
        fs::write(directory.path().join("measured/cd.json"), &text).expect("file");
        assert_eq!(cache.read("cd", &ours()), None, "another configuration's");
        cache.write("ab", &ours(), measured(1), 0).expect("written again");
        assert_eq!(cache.read("ab", &ours()), Some(measured(1)));
    }
}

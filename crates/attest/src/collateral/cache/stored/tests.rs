//! The store across restarts: what it keeps, and what of it is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::collateral::testing::{
    NOW, Server, collateral_set, mock_anchors, mock_quote, normal_routes, numbered, other_anchors,
};
use crate::collateral::{
    CacheOptions, Clock, CollateralCache, CollateralStore, Damage, FetchFailure, Floors, Numbers, Resource,
    StoredProblem, TcbSet,
};

/// An address at which nothing listens.
const NOBODY: [&str; 1] = ["http://127.0.0.1:9"];
const FILE: &str = "000000000000-platform.collateral";

fn options(directory: &Path) -> CacheOptions {
    CacheOptions {
        clock: Clock::fixed(NOW),
        store: Some(CollateralStore::new(directory.join("collateral"))),
        retry_after: Duration::ZERO,
        ..CacheOptions::default()
    }
}

/// The cache after a restart during an outage of every service.
async fn restarted(options: CacheOptions) -> CollateralCache {
    let cache = CollateralCache::new(&NOBODY, &mock_anchors(), options).unwrap();
    cache.load_stored();
    cache.loaded().await;
    cache
}

/// A directory with what a service has sent.
async fn filled() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(normal_routes()).await;
    let cache = CollateralCache::new(&[&server.base], &mock_anchors(), options(directory.path())).unwrap();
    cache.get(&mock_quote()).await.unwrap();
    directory
}

fn problems(cache: &CollateralCache) -> Vec<StoredProblem> {
    cache.stats().stored.refused.into_iter().map(|file| file.problem).collect()
}

#[tokio::test]
async fn a_restart_during_an_outage_uses_what_was_fetched_until_it_expires() {
    let directory = filled().await;
    let path = directory.path().join("collateral").join(FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let expires = collateral_set("good").expires();
    let time = Arc::new(AtomicU64::new(NOW));
    let shared = Arc::clone(&time);
    let clock = Clock::from_fn(move || shared.load(Ordering::SeqCst));
    let cache = restarted(CacheOptions { clock, ..options(directory.path()) }).await;
    for now in [NOW, expires] {
        time.store(now, Ordering::SeqCst);
        assert!(cache.get(&mock_quote()).await.is_ok(), "{now}");
    }
    let stats = cache.stats();
    assert_eq!((stats.stored.loaded, stats.fetches, stats.stored.refused), (1, 0, vec![]));
    assert_eq!(stats.entries[0].age, expires - NOW, "the age is that of the answer, not of the start");
    time.store(expires + 1, Ordering::SeqCst);
    let error = cache.get(&mock_quote()).await.unwrap_err();
    assert!(!error.is_senders_fault(), "{error}");
    // A restart later on finds it expired.
    let late = CacheOptions { clock: Clock::fixed(expires + 1), ..options(directory.path()) };
    assert_eq!(problems(&restarted(late).await), [StoredProblem::Refused(FetchFailure::NotCurrent)]);
}

#[tokio::test]
async fn a_file_of_another_root_or_with_a_lower_number_is_refused() {
    let directory = filled().await;
    let cache = CollateralCache::new(&NOBODY, &other_anchors(), options(directory.path())).unwrap();
    cache.load_stored();
    cache.loaded().await;
    assert_eq!(problems(&cache), [StoredProblem::Refused(FetchFailure::Untrusted(Resource::TcbInfo))]);
    let floors = Floors::default();
    let good = collateral_set("good");
    let seen = Numbers { tcb_info: good.numbers().tcb_info + 1, ..good.numbers() };
    floors.admit(&numbered(good, seen), TcbSet::Standard).unwrap();
    let cache = restarted(CacheOptions { floors, ..options(directory.path()) }).await;
    assert!(matches!(problems(&cache)[..], [StoredProblem::Refused(FetchFailure::RolledBack { .. })]));
    assert_eq!(cache.stats().refused_as_older[0], 1, "the metric counts it");
    assert!(cache.get(&mock_quote()).await.is_err());
}

#[tokio::test]
async fn the_floors_of_a_restart_are_those_of_what_is_kept() {
    let directory = filled().await;
    let floors = Floors::default();
    restarted(CacheOptions { floors: floors.clone(), ..options(directory.path()) }).await;
    assert_eq!(floors.list().len(), 4);
}

#[tokio::test]
async fn damaged_files_are_told_apart_from_missing_ones() {
    let directory = tempfile::tempdir().unwrap();
    let cache = restarted(options(directory.path())).await;
    assert_eq!(problems(&cache), []);
    let path = directory.path().join("collateral");
    fs::create_dir(&path).unwrap();
    fs::write(path.join(FILE), "{}").unwrap();
    fs::create_dir(path.join("000000000001-platform.collateral")).unwrap();
    fs::write(path.join("000000000002-Platform.collateral"), "not ours").unwrap();
    let cache = restarted(options(directory.path())).await;
    assert_eq!(
        problems(&cache),
        [StoredProblem::Damaged(Damage::FirstLine), StoredProblem::Unreadable(std::io::ErrorKind::Other)]
    );
}

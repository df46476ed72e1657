//! Counters of the cache, for metrics.

use crate::collateral::{EndpointStats, FloorKind, Numbers, PlatformKey, RefusedFile};

/// Counters of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStats {
    /// Quotes served from the cache.
    pub hits: u64,
    /// Quotes that started a fetch or waited for one.
    pub misses: u64,
    /// Fetches over all services, background refreshes included.
    pub fetches: u64,
    /// Fetches that ended without collateral.
    pub failures: u64,
    /// The cached entries, by platform.
    pub entries: Vec<EntryStats>,
    /// Models whose collateral has expired since it was used, with the time of its end (Unix seconds), until there is other
    /// collateral for them.
    pub expired: Vec<(PlatformKey, u64)>,
    /// The configured services, in order.
    pub endpoints: Vec<EndpointStats>,
    /// Responses refused because a number was lower than seen before, indexed as [`FloorKind::NAMES`].
    pub refused_as_older: [u64; FloorKind::NAMES.len()],
    /// Failed writes of the floors file.
    pub floors_unsaved: u64,
    /// The collateral on the disk.
    pub stored: StoredStats,
}

/// One platform's collateral.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryStats {
    /// The platform model.
    pub platform: PlatformKey,
    /// Seconds since it was fetched.
    pub age: u64,
    /// Issue date of its TCB info, Unix seconds.
    pub issued: u64,
    /// When it expires, Unix seconds.
    pub expires: u64,
    /// Its version numbers.
    pub numbers: Numbers,
}

/// The state of the store, for metrics and operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredStats {
    /// Whether files are still being read.
    pub is_loading: bool,
    /// Models whose collateral came from the disk at the start.
    pub loaded: usize,
    /// The files that were not used.
    pub refused: Vec<RefusedFile>,
    /// Failed writes.
    pub unsaved: u64,
    /// Why the last write failed, if it did.
    pub write_failure: Option<std::io::ErrorKind>,
}

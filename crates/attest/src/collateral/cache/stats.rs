//! Numbers about the cache, for metrics.

use crate::collateral::{EndpointStats, FloorKind, PlatformKey};

/// Numbers about the cache, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStats {
    /// Quotes served from the cache.
    pub hits: u64,
    /// Quotes that needed a fetch or waited for one.
    pub misses: u64,
    /// Fetches over all services, background refreshes included.
    pub fetches: u64,
    /// Of those, the ones that ended without collateral.
    pub failures: u64,
    /// What is kept, by platform.
    pub entries: Vec<EntryStats>,
    /// The configured services, in order.
    pub endpoints: Vec<EndpointStats>,
    /// Answers that were refused because they are older than what was seen, by [`FloorKind::NAMES`].
    pub refused_as_older: [u64; FloorKind::NAMES.len()],
    /// Times that what was seen could not be written down.
    pub floors_unsaved: u64,
}

/// One platform's collateral.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryStats {
    /// Whose it is.
    pub platform: PlatformKey,
    /// Seconds since it was fetched.
    pub age: u64,
    /// Unix seconds of the newest date of issue in it: it is later now.
    pub issued: u64,
    /// Unix seconds of its end.
    pub expires: u64,
}

//! Options of the collateral cache: size, deadlines, clock.

use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::{Clock, CollateralStore, Floors};

/// Options of the cache. The defaults are for production.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// Maximum number of platform models; the least recently used one is dropped first.
    pub capacity: usize,
    /// The clock that decides whether collateral is valid.
    pub clock: Clock,
    /// TLS certificates of collateral services or of their CAs, trusted besides Mozilla's roots.
    pub extra_tls_roots: Vec<CertificateDer<'static>>,
    /// Time for one service to return a complete set.
    pub endpoint_deadline: Duration,
    /// Time for all services together.
    pub deadline: Duration,
    /// How long a platform is not requested again after all services failed.
    pub retry_after: Duration,
    /// How long a platform is not requested again after all services said that they do not know it.
    pub unknown_for: Duration,
    /// How long a PCK certificate request may hold its slot; after that it makes room for others.
    pub chain_turn_time: Duration,
    /// Floors of the version numbers.
    pub floors: Floors,
    /// Where collateral is kept over restarts; `None`: nowhere.
    pub store: Option<CollateralStore>,
    /// Asks no service ever: only what is kept or imported is used.
    pub is_offline: bool,
    /// Age at which an entry is refreshed in the background; earlier if half of its validity has passed.
    pub refresh_after: Duration,
    /// Interval of the background task.
    pub refresh_every: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            capacity: 128,
            clock: Clock::system(),
            extra_tls_roots: Vec::new(),
            endpoint_deadline: Duration::from_secs(15),
            deadline: Duration::from_secs(25),
            retry_after: Duration::from_secs(5),
            unknown_for: Duration::from_secs(60),
            chain_turn_time: Duration::from_secs(2),
            floors: Floors::default(),
            store: None,
            is_offline: false,
            refresh_after: Duration::from_secs(24 * 60 * 60),
            refresh_every: Duration::from_secs(30),
        }
    }
}

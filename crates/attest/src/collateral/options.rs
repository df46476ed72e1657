//! How the collateral cache behaves: its size, its deadlines, its clock.

use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::{Clock, Floors};

/// How the cache behaves. The defaults suit production.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// Kinds of platform kept; the least recently used one goes first.
    pub capacity: usize,
    /// The time that decides whether collateral is valid.
    pub clock: Clock,
    /// Certificates of collateral services, or of their CAs, that are trusted besides Mozilla's roots.
    pub extra_tls_roots: Vec<CertificateDer<'static>>,
    /// Time for one service to answer all requests.
    pub endpoint_deadline: Duration,
    /// Time for all services together.
    pub deadline: Duration,
    /// How long a platform that no service could serve is not asked for again.
    pub retry_after: Duration,
    /// How long a platform that the services do not know is not asked for again.
    pub unknown_for: Duration,
    /// How long a request for a PCK certificate holds its turn: one that takes longer makes room for others.
    pub chain_turn_time: Duration,
    /// The numbers below which collateral is not believed.
    pub floors: Floors,
    /// Age at which an entry is fetched again in the background, if its validity is not half over before.
    pub refresh_after: Duration,
    /// How often the background task looks.
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
            refresh_after: Duration::from_secs(24 * 60 * 60),
            refresh_every: Duration::from_secs(30),
        }
    }
}

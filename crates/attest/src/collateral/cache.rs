//! Collateral kept until Intel's own `nextUpdate`: one fetch at a time per platform, several services in order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::endpoint::{Endpoint, EndpointStats};
use super::origin::{Origin, PckRequest, read_chain};
use super::{
    CacheOptions, Clock, Collateral, CollateralError, EndpointError, FetchFailure, Http, Pccs, PlatformKey,
    RefreshTask, authentic,
};
use crate::trust::TrustAnchors;

/// Fetches under way at the same time, over all platforms.
const MAX_FLIGHTS: usize = 32;
/// Of those, this many talk to a service; the others wait their turn within their deadline.
const MAX_UPSTREAM: usize = 8;
/// Requests for PCK certificates at the same time: anyone can cause these, so they get a lane of their own.
const MAX_CHAIN_REQUESTS: usize = 4;
/// Failed platforms remembered.
const MAX_REFUSALS: usize = 256;
/// Pause before a failed background refresh is tried again.
const REFRESH_RETRY_SECONDS: u64 = 300;

/// The collateral of all platforms seen lately. Clones share it.
#[derive(Clone)]
pub struct CollateralCache {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<Endpoint>,
    anchors: TrustAnchors,
    options: CacheOptions,
    upstream: Semaphore,
    chain_requests: Semaphore,
    state: Mutex<State>,
    hits: AtomicU64,
    misses: AtomicU64,
    fetches: AtomicU64,
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    entries: HashMap<PlatformKey, Entry>,
    refusals: HashMap<PlatformKey, (CollateralError, Instant)>,
    flights: HashMap<PlatformKey, Flight>,
    uses: u64,
}

struct Entry {
    collateral: Arc<Collateral>,
    fetched_at: u64,
    refresh_at: u64,
    last_use: u64,
}

type Landing = Result<Arc<Collateral>, CollateralError>;
type Flight = watch::Receiver<Option<Landing>>;

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
}

/// One platform's collateral.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryStats {
    /// Whose it is.
    pub platform: PlatformKey,
    /// Seconds since it was fetched.
    pub age: u64,
    /// Unix seconds of its end.
    pub expires: u64,
}

impl CollateralCache {
    /// A cache in front of the services at `endpoints`, tried in this order (none: the default one).
    ///
    /// `anchors` is what collateral must be signed up to before it is kept.
    pub fn new(
        endpoints: &[impl AsRef<str>],
        anchors: &TrustAnchors,
        options: CacheOptions,
    ) -> Result<Self, EndpointError> {
        let http = Http::new(&options.extra_tls_roots)?;
        let urls: Vec<&str> = match endpoints {
            [] => vec![""],
            some => some.iter().map(AsRef::as_ref).collect(),
        };
        let endpoints = urls
            .into_iter()
            .enumerate()
            .map(|(index, url)| Ok(Endpoint::new(index, Pccs::new(url, index, http.clone(), anchors)?)))
            .collect::<Result<_, EndpointError>>()?;
        let shared = Shared {
            endpoints,
            anchors: anchors.clone(),
            options,
            upstream: Semaphore::new(MAX_UPSTREAM),
            chain_requests: Semaphore::new(MAX_CHAIN_REQUESTS),
            state: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            fetches: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Collateral for `quote`, valid now.
    ///
    /// A quote that carries its platform's certificate chain, as nearly all do, needs no request while the cache holds
    /// its kind of platform. One with an encrypted PPID needs one request each time: its chain is its own.
    pub async fn get(&self, quote: &[u8]) -> Result<Arc<Collateral>, CollateralError> {
        match Origin::of(quote)? {
            Origin::Certificate { platform, chain } => self.platform(platform, &chain).await,
            Origin::EncryptedPpid(request) => {
                let chain = self.pck_chain(&request).await?;
                let (platform, _) = read_chain(chain.as_bytes())
                    .map_err(|_| CollateralError::Malformed("pck certificate chain"))?;
                let shared = self.platform(platform, chain.as_bytes()).await?;
                Ok(Arc::new(shared.with_pck_certificate_chain(chain)))
            }
        }
    }

    /// The time by which the cache judges validity.
    pub fn clock(&self) -> &Clock {
        &self.shared.options.clock
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> CacheStats {
        let now = self.clock().now();
        let mut entries: Vec<EntryStats> = self
            .state()
            .entries
            .iter()
            .map(|(platform, entry)| EntryStats {
                platform: *platform,
                age: now.saturating_sub(entry.fetched_at),
                expires: entry.collateral.expires(),
            })
            .collect();
        entries.sort_by_key(|entry| entry.platform);
        CacheStats {
            hits: self.shared.hits.load(Ordering::Relaxed),
            misses: self.shared.misses.load(Ordering::Relaxed),
            fetches: self.shared.fetches.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            entries,
            endpoints: self.shared.endpoints.iter().map(Endpoint::stats).collect(),
        }
    }

    /// Starts the task that fetches entries again before they end. It stops when the handle is dropped.
    pub fn spawn_refresh(&self) -> RefreshTask {
        RefreshTask::spawn(self.clone(), self.shared.options.refresh_every)
    }

    /// Fetches every entry that is due; drops those that have ended. A failure leaves the entry in use.
    pub(super) async fn refresh_due(&self) {
        let now = self.clock().now();
        let due: Vec<PlatformKey> = {
            let mut state = self.state();
            state.entries.retain(|_, entry| entry.collateral.expires() >= now);
            let due = state.entries.iter().filter(|(_, entry)| entry.refresh_at <= now);
            due.map(|(platform, _)| *platform).collect()
        };
        for platform in due {
            let flight = self.board(&mut self.state(), platform);
            let landing = match flight {
                Ok(flight) => landed(flight).await,
                Err(busy) => Err(busy),
            };
            if landing.is_err()
                && let Some(entry) = self.state().entries.get_mut(&platform)
            {
                entry.refresh_at = self.clock().now().saturating_add(REFRESH_RETRY_SECONDS);
            }
        }
    }

    async fn platform(&self, platform: PlatformKey, chain: &[u8]) -> Landing {
        if let Some(kept) = self.state().kept(platform, self.clock().now()) {
            self.shared.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(kept);
        }
        self.shared.misses.fetch_add(1, Ordering::Relaxed);
        // A made-up platform must not reach the services: anyone can write a quote with any FMSPC.
        let (_, certificates) = read_chain(chain)?;
        if !authentic::leads_to(&certificates, self.shared.anchors.tdx_root()) {
            return Err(CollateralError::UntrustedPlatform);
        }
        let flight = {
            let mut state = self.state();
            if let Some(kept) = state.kept(platform, self.clock().now()) {
                return Ok(kept);
            }
            match state.refusals.get(&platform) {
                Some((error, until)) if *until > Instant::now() => return Err(error.clone()),
                _ => self.board(&mut state, platform)?,
            }
        };
        landed(flight).await
    }

    /// Joins the fetch for `platform` that is under way, or starts one. It goes on when all who wait for it have left.
    fn board(&self, state: &mut State, platform: PlatformKey) -> Result<Flight, CollateralError> {
        if let Some(flight) = state.flights.get(&platform) {
            return Ok(flight.clone());
        }
        if state.flights.len() >= MAX_FLIGHTS {
            return Err(CollateralError::unavailable(FetchFailure::Busy));
        }
        let (arrival, flight) = watch::channel(None);
        state.flights.insert(platform, flight.clone());
        let runway = Runway { cache: self.clone(), platform };
        tokio::spawn(async move {
            let fetched = runway.cache.fetch(platform).await;
            let landing = runway.cache.keep(platform, fetched);
            arrival.send_replace(Some(landing));
        });
        Ok(flight)
    }

    async fn fetch(&self, platform: PlatformKey) -> Result<Collateral, CollateralError> {
        let mut failures = Vec::new();
        let over_all = async {
            let _turn = self.shared.upstream.acquire().await;
            for endpoint in self.endpoints_in_order() {
                match self.ask(endpoint, endpoint.pccs.platform(platform, self.clock())).await {
                    Ok(collateral) => return Some(collateral),
                    Err(failure) => failures.push(failure),
                }
            }
            None
        };
        let fetched = timeout(self.shared.options.deadline, over_all).await;
        self.shared.fetches.fetch_add(1, Ordering::Relaxed);
        match fetched {
            Ok(Some(collateral)) => return Ok(collateral),
            Ok(None) => {}
            Err(_) => failures.push(FetchFailure::Deadline),
        }
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        Err(CollateralError::Unavailable { failures })
    }

    async fn pck_chain(&self, request: &PckRequest) -> Result<String, CollateralError> {
        let mut failures = Vec::new();
        let over_all = async {
            let _turn = self.shared.chain_requests.acquire().await;
            for endpoint in self.endpoints_in_order() {
                match self.ask(endpoint, endpoint.pccs.pck_chain(request)).await {
                    Ok(chain) => return Some(chain),
                    Err(failure) => failures.push(failure),
                }
            }
            None
        };
        match timeout(self.shared.options.deadline, over_all).await {
            Ok(Some(chain)) => return Ok(chain),
            Ok(None) => {}
            Err(_) => failures.push(FetchFailure::Deadline),
        }
        Err(CollateralError::Unavailable { failures })
    }

    async fn ask<T>(
        &self,
        endpoint: &Endpoint,
        answer: impl Future<Output = Result<T, FetchFailure>>,
    ) -> Result<T, FetchFailure> {
        let answer = timeout(self.shared.options.endpoint_deadline, answer).await;
        let answer = answer.unwrap_or(Err(FetchFailure::Deadline));
        match &answer {
            Ok(_) => endpoint.succeeded(self.clock().now()),
            Err(failure) => {
                endpoint.failed(failure);
                tracing::warn!(endpoint = endpoint.index, %failure, "collateral endpoint gave nothing usable");
            }
        }
        answer
    }

    /// Services that are fine in the configured order, then those that failed lately, the longest ago first.
    fn endpoints_in_order(&self) -> Vec<&Endpoint> {
        let mut endpoints: Vec<&Endpoint> = self.shared.endpoints.iter().collect();
        endpoints.sort_by_key(|endpoint| endpoint.paused_until());
        endpoints
    }

    /// Files the outcome of a fetch. Never replaces collateral that is still valid by an earlier issue of it.
    fn keep(&self, platform: PlatformKey, fetched: Result<Collateral, CollateralError>) -> Landing {
        let now = self.clock().now();
        let options = &self.shared.options;
        let mut state = self.state();
        match fetched {
            Ok(collateral) => {
                let collateral = match state.kept(platform, now) {
                    Some(kept) if kept.issued() > collateral.issued() => kept,
                    _ => Arc::new(collateral),
                };
                state.refusals.remove(&platform);
                state.file(platform, Arc::clone(&collateral), now, options);
                Ok(collateral)
            }
            Err(error) => {
                state.refuse(platform, &error, options);
                Err(error)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn landed(mut flight: Flight) -> Landing {
    let landing = flight.wait_for(Option::is_some).await.ok().and_then(|landing| landing.clone());
    landing.unwrap_or_else(|| Err(CollateralError::unavailable(FetchFailure::Abandoned)))
}

impl State {
    fn kept(&mut self, platform: PlatformKey, now: u64) -> Option<Arc<Collateral>> {
        self.uses += 1;
        let entry = self.entries.get_mut(&platform).filter(|entry| entry.collateral.expires() >= now)?;
        entry.last_use = self.uses;
        Some(Arc::clone(&entry.collateral))
    }

    fn file(&mut self, platform: PlatformKey, collateral: Arc<Collateral>, now: u64, options: &CacheOptions) {
        let half_life = collateral.expires().saturating_sub(now) / 2;
        let wait = options.refresh_after.as_secs().min(half_life);
        let entry =
            Entry { collateral, fetched_at: now, refresh_at: now + jittered(wait), last_use: self.uses };
        self.entries.insert(platform, entry);
        while self.entries.len() > options.capacity.max(1) {
            let oldest = self.entries.iter().filter(|(key, _)| **key != platform);
            let Some(oldest) = oldest.min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| *key) else {
                break;
            };
            self.entries.remove(&oldest);
        }
    }

    fn refuse(&mut self, platform: PlatformKey, error: &CollateralError, options: &CacheOptions) {
        let unknown = match error {
            CollateralError::Unavailable { failures } => {
                !failures.is_empty() && failures.iter().all(FetchFailure::is_unknown_platform)
            }
            _ => false,
        };
        let pause: Duration = if unknown { options.unknown_for } else { options.retry_after };
        let now = Instant::now();
        self.refusals.retain(|_, (_, until)| *until > now);
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.insert(platform, (error.clone(), now + pause));
        }
    }
}

/// Between nine tenths of `seconds` and all of it, so that nodes started together do not ask together.
fn jittered(seconds: u64) -> u64 {
    let mut random = [0; 2];
    // Without randomness there is no jitter, which is no reason to fail.
    let _ = aws_lc_rs::rand::fill(&mut random);
    seconds - seconds / 10 * u64::from(u16::from_le_bytes(random)) / 65_536
}

/// Takes a fetch off the list when it ends, even by a panic.
struct Runway {
    cache: CollateralCache,
    platform: PlatformKey,
}

impl Drop for Runway {
    fn drop(&mut self) {
        self.cache.state().flights.remove(&self.platform);
    }
}

#[cfg(test)]
mod tests;

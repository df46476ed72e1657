//! The collateral cache: keeps entries until `nextUpdate`, runs one fetch per platform at a time, tries
//! several services in order.

mod chains;
mod completion;
mod early;
mod entries;
mod import;
mod lane;
mod news;
mod refresh;
mod refreshed;
mod stats;
mod stored;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dcap_qvl::quote::Quote;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use self::chains::Chains;
use self::entries::Entries;
pub use self::import::{BundleError, CollateralBundle, Import};
use self::lane::Lane;
use self::news::News;
pub use self::news::{RefusedSet, Source};
pub use self::refresh::RefreshTask;
pub use self::refreshed::Refreshed;
pub use self::stats::{CacheStats, EntryStats, StoredStats};
use super::endpoint::Endpoint;
use super::origin::{Origin, PckRequest};
use super::{
    CacheOptions, Clock, Collateral, CollateralError, EndpointError, FetchFailure, Http, Pccs, PckChain,
    PlatformKey, ServiceFailure, TcbSet,
};
use crate::single_flight::{InFlight, SingleFlight, Unfinished};
use crate::trust::TrustAnchors;

/// Concurrent fetches over all platforms.
const MAX_FETCHES: usize = 32;
/// Of these, the number that send requests to a service; the others wait within their deadline.
const MAX_UPSTREAM: usize = 8;
/// Concurrent requests for PCK certificates. Any caller can cause them, so they have a limit of their own,
/// which slow requests cannot exhaust.
const MAX_CHAIN_REQUESTS: usize = 4;
/// Further requests that have taken longer than [`CacheOptions::chain_turn_time`].
const MAX_SLOW_CHAIN_REQUESTS: usize = 32;
/// Is told how requests to collateral services end.
pub trait FetchObserver: Send + Sync {
    /// A request took `took`; `failure` is the cause if it gave nothing usable. Its text names no host.
    fn fetched(&self, took: Duration, failure: Option<&FetchFailure>);
}

/// A cache of collateral by platform model. Clones share it.
#[derive(Clone)]
pub struct CollateralCache {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<Endpoint>,
    anchors: TrustAnchors,
    options: CacheOptions,
    upstream: Semaphore,
    chain_requests: Lane,
    entries: Mutex<Entries>,
    chains: Mutex<Chains>,
    in_flight: SingleFlight<PlatformKey, Fetched>,
    hits: AtomicU64,
    misses: AtomicU64,
    fetches: AtomicU64,
    failures: AtomicU64,
    generation: AtomicU64,
    observer: OnceLock<Arc<dyn FetchObserver>>,
    stored: Mutex<StoredStats>,
    is_loading: watch::Sender<bool>,
    news: Mutex<News>,
    /// The collateral that could not be written to the store, and when it was fetched.
    unwritten: Mutex<BTreeMap<PlatformKey, (u64, Collateral)>>,
}

/// The outcome of a fetch.
type Fetched = Result<Arc<Collateral>, CollateralError>;

impl CollateralCache {
    /// A cache in front of the services at `endpoints`, tried in this order
    /// ([`DEFAULT_PCCS_URL`](super::DEFAULT_PCCS_URL) if empty).
    ///
    /// Collateral must be signed up to `anchors` before it is cached.
    pub fn new(
        endpoints: &[impl AsRef<str>],
        anchors: &TrustAnchors,
        options: CacheOptions,
    ) -> Result<Self, EndpointError> {
        let http = Http::new(&options.extra_tls_roots)?;
        let urls: Vec<&str> = match endpoints {
            _ if options.is_offline => Vec::new(),
            [] => vec![""],
            some => some.iter().map(AsRef::as_ref).collect(),
        };
        let endpoints = urls
            .into_iter()
            .enumerate()
            .map(|(index, url)| Ok(Endpoint::new(index, Pccs::numbered(index, url, http.clone(), anchors)?)))
            .collect::<Result<_, EndpointError>>()?;
        let chain_requests = Lane::new(MAX_CHAIN_REQUESTS, MAX_SLOW_CHAIN_REQUESTS, options.chain_turn_time);
        let shared = Shared {
            endpoints,
            anchors: anchors.clone(),
            options,
            upstream: Semaphore::new(MAX_UPSTREAM),
            chain_requests,
            entries: Mutex::default(),
            chains: Mutex::default(),
            in_flight: SingleFlight::new(MAX_FETCHES),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            fetches: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            observer: OnceLock::new(),
            stored: Mutex::default(),
            is_loading: watch::Sender::new(false),
            news: Mutex::default(),
            unwritten: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Collateral for `quote`, valid now.
    ///
    /// For a quote with its PCK certificate chain (nearly all), no request is needed while its model is
    /// cached. A quote with an encrypted PPID needs one request each time until a verifier has verified one of its
    /// platform, because its chain is the platform's own.
    pub async fn get(&self, quote: &[u8]) -> Result<Arc<Collateral>, CollateralError> {
        let quote = Quote::parse(quote).map_err(|_| CollateralError::Quote("quote does not parse".into()))?;
        let origin = Origin::of_parsed(&quote)?;
        let is_fetched = matches!(origin, Origin::EncryptedPpid(_));
        let (collateral, chain) = self.of_origin(origin, &quote).await?;
        if is_fetched {
            return Ok(Arc::new(collateral.with_pck_certificate_chain(chain.pem())));
        }
        Ok(collateral)
    }

    /// [`CollateralCache::get`] for a parsed quote, with the PCK chain to verify it by: the quote's own, or
    /// the fetched one.
    pub(crate) async fn get_parsed(
        &self,
        quote: &Quote,
    ) -> Result<(Arc<Collateral>, PckChain), CollateralError> {
        self.of_origin(Origin::of_parsed(quote)?, quote).await
    }

    async fn of_origin(
        &self,
        origin: Origin,
        quote: &Quote,
    ) -> Result<(Arc<Collateral>, PckChain), CollateralError> {
        let chain = match origin {
            Origin::Certificate(chain) => chain,
            Origin::EncryptedPpid(request) => {
                self.loaded().await;
                match self.kept_chain(&request.qe_id, quote) {
                    Some(chain) => chain,
                    None => self.pck_chain(&request).await?,
                }
            }
        };
        Ok((self.platform(&chain).await?, chain))
    }

    /// The clock by which validity is decided.
    pub fn clock(&self) -> &Clock {
        &self.shared.options.clock
    }

    /// Whether no service is ever asked.
    pub fn is_offline(&self) -> bool {
        self.shared.options.is_offline
    }

    /// Counters for metrics.
    pub fn stats(&self) -> CacheStats {
        let (entries, expired) = {
            let (entries, now) = (self.entries(), self.clock().now());
            (entries.stats(now), entries.expired(now))
        };
        CacheStats {
            hits: self.shared.hits.load(Ordering::Relaxed),
            misses: self.shared.misses.load(Ordering::Relaxed),
            fetches: self.shared.fetches.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            entries,
            expired,
            endpoints: self.shared.endpoints.iter().map(Endpoint::stats).collect(),
            refused_as_older: self.shared.options.floors.refused(),
            floors_unsaved: self.shared.options.floors.unsaved(),
            stored: self.shared.stored().clone(),
        }
    }

    /// The services whose last request failed, with the error. Shown only on an operator's terminal, because
    /// it names addresses.
    pub fn service_failures(&self) -> Vec<ServiceFailure> {
        self.shared.endpoints.iter().filter_map(Endpoint::last_failure).collect()
    }

    async fn platform(&self, chain: &PckChain) -> Fetched {
        let platform = chain.platform();
        self.loaded().await;
        if let Some(kept) = self.entries().take(platform, self.clock().now()) {
            self.shared.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(kept);
        }
        self.shared.misses.fetch_add(1, Ordering::Relaxed);
        // Checked before any request: anyone can write a quote with any FMSPC.
        if !chain.leads_to(self.shared.anchors.tdx_root()) {
            return Err(CollateralError::UntrustedPlatform);
        }
        let fetch = {
            // Locked until the fetch is joined, so that a fetch that ends in between has stored its result
            // first.
            let mut entries = self.entries();
            if let Some(kept) = entries.take(platform, self.clock().now()) {
                return Ok(kept);
            }
            if let Some(error) = entries.refusal(platform, Instant::now()) {
                return Err(error);
            }
            self.join_fetch(platform)
        };
        finished(fetch).await
    }

    /// Joins the running fetch for `platform`, or starts one. It continues when all its callers have left.
    fn join_fetch(&self, platform: PlatformKey) -> Result<InFlight<Fetched>, Unfinished> {
        self.shared.in_flight.join(platform, || {
            let cache = self.clone();
            async move {
                let fetched = cache.fetch(platform).await;
                cache.keep(platform, fetched)
            }
        })
    }

    async fn fetch(&self, platform: PlatformKey) -> Result<Collateral, CollateralError> {
        if self.is_offline() {
            return Err(CollateralError::unavailable(FetchFailure::Offline));
        }
        let mut failures = Vec::new();
        let over_all = async {
            let _turn = self.shared.upstream.acquire().await;
            for endpoint in self.endpoints_in_order() {
                match self.ask(endpoint, self.newest(endpoint, platform)).await {
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

    /// Collateral from one service, if no part is older than one seen before.
    async fn newest(&self, endpoint: &Endpoint, platform: PlatformKey) -> Result<Collateral, FetchFailure> {
        let collateral = endpoint.pccs.platform(platform, self.clock()).await?;
        self.raise_floors(&collateral, TcbSet::Standard).await?;
        Ok(collateral)
    }

    /// Refuses collateral older than seen before. New floors are on the disk before the collateral is used, and before them the
    /// collateral itself: after a crash in between, or if the disk does not take it, the floors do not refuse all that is kept.
    async fn raise_floors(&self, collateral: &Collateral, set: TcbSet) -> Result<(), FetchFailure> {
        let CacheOptions { floors, store, .. } = &self.shared.options;
        let must_save = floors.admit(collateral, set).inspect_err(|failure| {
            self.shared.news().refuse(Source::Service, failure);
        })?;
        let is_placed = store.is_some()
            && set == TcbSet::Standard
            && self.entries().replaces(collateral, self.clock().now(), &self.shared.options);
        if must_save || is_placed {
            let (cache, collateral) = (self.clone(), collateral.clone());
            let write = move || {
                if let Some(store) = &cache.shared.options.store {
                    cache.write_stored(store, is_placed.then_some(&collateral));
                }
                if must_save {
                    cache.save_floors();
                }
            };
            // If the writing task panics, the floors still hold in memory.
            let _ = tokio::task::spawn_blocking(write).await;
        }
        Ok(())
    }

    async fn pck_chain(&self, request: &PckRequest) -> Result<PckChain, CollateralError> {
        if self.is_offline() {
            return Err(CollateralError::unavailable(FetchFailure::Offline));
        }
        let mut failures = Vec::new();
        let over_all = async {
            for endpoint in self.endpoints_in_order() {
                match self.ask(endpoint, endpoint.pccs.pck_chain(request)).await {
                    Ok(chain) => return Some(chain),
                    Err(failure) => failures.push(failure),
                }
            }
            None
        };
        match timeout(self.shared.options.deadline, self.shared.chain_requests.run(over_all)).await {
            Ok(Some(Some(chain))) => return Ok(chain),
            Ok(Some(None)) => {}
            Ok(None) => failures.push(FetchFailure::Busy),
            Err(_) => failures.push(FetchFailure::Deadline),
        }
        Err(CollateralError::Unavailable { failures })
    }

    /// The refusals since the last call, each once: a set that is older than seen before, whatever it came from, and files that
    /// are not as they were written or not signed.
    pub fn take_refused(&self) -> Vec<RefusedSet> {
        self.shared.news().take()
    }

    /// Tells `observer` of each request from now on. The first observer stays.
    pub fn report_to(&self, observer: Arc<dyn FetchObserver>) {
        let _ = self.shared.observer.set(observer);
    }

    async fn ask<T>(
        &self,
        endpoint: &Endpoint,
        request: impl Future<Output = Result<T, FetchFailure>>,
    ) -> Result<T, FetchFailure> {
        let begin = Instant::now();
        let response = timeout(self.shared.options.endpoint_deadline, request).await;
        let response = response.unwrap_or(Err(FetchFailure::Deadline));
        if let Some(observer) = self.shared.observer.get() {
            observer.fetched(begin.elapsed(), response.as_ref().err());
        }
        match &response {
            Ok(_) => endpoint.succeeded(self.clock().now()),
            Err(failure) => {
                endpoint.failed(failure);
                tracing::warn!(endpoint = endpoint.index, %failure, "collateral endpoint returned nothing usable");
            }
        }
        response
    }

    /// Working services in the configured order, then the paused ones by the end of their pause.
    fn endpoints_in_order(&self) -> Vec<&Endpoint> {
        let mut endpoints: Vec<&Endpoint> = self.shared.endpoints.iter().collect();
        endpoints.sort_by_key(|endpoint| endpoint.paused_until());
        endpoints
    }

    /// Stores the outcome of a fetch.
    fn keep(&self, platform: PlatformKey, fetched: Result<Collateral, CollateralError>) -> Fetched {
        let mut entries = self.entries();
        let options = &self.shared.options;
        match fetched {
            Ok(collateral) => {
                let now = self.clock().now();
                let placed = entries.place(platform, collateral, now, now, options);
                // Other entries may now be below the floors. They are valid, so they stay in use until
                // refreshed.
                self.hasten_old(&mut entries, now);
                Ok(placed)
            }
            Err(error) => {
                entries.refuse(platform, &error, Instant::now(), options);
                Err(error)
            }
        }
    }

    /// Makes entries due that have fallen below the floors.
    fn hasten_old(&self, entries: &mut Entries, now: u64) {
        entries.hasten(|held| self.shared.options.floors.is_below(held, TcbSet::Standard), now);
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn finished(fetch: Result<InFlight<Fetched>, Unfinished>) -> Fetched {
    let fetched = match fetch {
        Ok(fetch) => fetch.result().await,
        Err(unfinished) => Err(unfinished),
    };
    fetched.unwrap_or_else(|unfinished| {
        Err(CollateralError::unavailable(match unfinished {
            Unfinished::Busy => FetchFailure::Busy,
            Unfinished::Abandoned => FetchFailure::Abandoned,
        }))
    })
}

#[cfg(test)]
mod tests;

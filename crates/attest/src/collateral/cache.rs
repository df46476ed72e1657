//! Collateral kept until Intel's own `nextUpdate`: one fetch at a time per platform, several services in order.

mod early;
mod entries;
mod lane;
mod refreshed;
mod stats;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dcap_qvl::quote::Quote;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::entries::Entries;
use self::lane::Lane;
pub use self::refreshed::Refreshed;
pub use self::stats::{CacheStats, EntryStats};
use super::endpoint::Endpoint;
use super::floors::TcbSet;
use super::origin::{Origin, PckRequest};
use super::{
    CacheOptions, Clock, Collateral, CollateralError, EndpointError, FetchFailure, Http, Pccs, PckChain,
    PlatformKey, RefreshTask, ServiceFailure,
};
use crate::single_flight::{InFlight, SingleFlight, Unfinished};
use crate::trust::TrustAnchors;

/// Fetches under way at the same time, over all platforms.
const MAX_FETCHES: usize = 32;
/// Of those, this many talk to a service; the others wait their turn within their deadline.
const MAX_UPSTREAM: usize = 8;
/// Requests for PCK certificates at the same time: anyone can cause these, so they get a lane of their own, in which those
/// that hang cannot stay.
const MAX_CHAIN_REQUESTS: usize = 4;
/// Of those that take longer than [`CacheOptions::chain_turn_time`], this many more.
const MAX_SLOW_CHAIN_REQUESTS: usize = 32;
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
    chain_requests: Lane,
    entries: Mutex<Entries>,
    in_flight: SingleFlight<PlatformKey, Fetched>,
    hits: AtomicU64,
    misses: AtomicU64,
    fetches: AtomicU64,
    failures: AtomicU64,
    generation: AtomicU64,
}

/// The outcome of a fetch.
type Fetched = Result<Arc<Collateral>, CollateralError>;

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
            in_flight: SingleFlight::new(MAX_FETCHES),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            fetches: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Collateral for `quote`, valid now.
    ///
    /// A quote that carries its platform's certificate chain, as nearly all do, needs no request while the cache holds
    /// its kind of platform. One with an encrypted PPID needs one request each time: its chain is its own.
    pub async fn get(&self, quote: &[u8]) -> Result<Arc<Collateral>, CollateralError> {
        let origin = Origin::of(quote)?;
        let is_fetched = matches!(origin, Origin::EncryptedPpid(_));
        let (collateral, chain) = self.of_origin(origin).await?;
        if is_fetched {
            return Ok(Arc::new(collateral.with_pck_certificate_chain(chain.pem())));
        }
        Ok(collateral)
    }

    /// [`CollateralCache::get`] for a quote that was parsed already, with the chain by which it is to be verified: its
    /// own, or the one that was fetched for it.
    pub(crate) async fn get_parsed(
        &self,
        quote: &Quote,
    ) -> Result<(Arc<Collateral>, PckChain), CollateralError> {
        self.of_origin(Origin::of_parsed(quote)?).await
    }

    async fn of_origin(&self, origin: Origin) -> Result<(Arc<Collateral>, PckChain), CollateralError> {
        let chain = match origin {
            Origin::Certificate(chain) => chain,
            Origin::EncryptedPpid(request) => self.pck_chain(&request).await?,
        };
        Ok((self.platform(&chain).await?, chain))
    }

    /// The time by which the cache judges validity.
    pub fn clock(&self) -> &Clock {
        &self.shared.options.clock
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.shared.hits.load(Ordering::Relaxed),
            misses: self.shared.misses.load(Ordering::Relaxed),
            fetches: self.shared.fetches.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            entries: self.entries().stats(self.clock().now()),
            endpoints: self.shared.endpoints.iter().map(Endpoint::stats).collect(),
            refused_as_older: self.shared.options.floors.refused(),
            floors_unsaved: self.shared.options.floors.unsaved(),
        }
    }

    /// The services that gave nothing when they were asked last, and why. For an operator's own terminal.
    pub fn service_failures(&self) -> Vec<ServiceFailure> {
        self.shared.endpoints.iter().filter_map(Endpoint::last_failure).collect()
    }

    /// Starts the task that fetches entries again before they end. It stops when the handle is dropped.
    pub fn spawn_refresh(&self) -> RefreshTask {
        RefreshTask::spawn(self.clone(), self.shared.options.refresh_every)
    }

    /// Fetches every entry that is due; drops those that have ended. A failure leaves the entry in use.
    pub(super) async fn refresh_due(&self) {
        let due = self.entries().due(self.clock().now());
        for platform in due {
            let fetch = self.join_fetch(platform);
            if finished(fetch).await.is_err() {
                let later = self.clock().now().saturating_add(REFRESH_RETRY_SECONDS);
                self.entries().postpone(platform, later);
            }
        }
    }

    async fn platform(&self, chain: &PckChain) -> Fetched {
        let platform = chain.platform();
        if let Some(kept) = self.entries().take(platform, self.clock().now()) {
            self.shared.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(kept);
        }
        self.shared.misses.fetch_add(1, Ordering::Relaxed);
        // A made-up platform must not reach the services: anyone can write a quote with any FMSPC.
        if !chain.leads_to(self.shared.anchors.tdx_root()) {
            return Err(CollateralError::UntrustedPlatform);
        }
        let fetch = {
            // Held until the fetch is joined: one that ends meanwhile files its outcome here first.
            let mut entries = self.entries();
            if let Some(kept) = entries.take(platform, self.clock().now()) {
                return Ok(kept);
            }
            if let Some(error) = entries.refusal(platform) {
                return Err(error);
            }
            self.join_fetch(platform)
        };
        finished(fetch).await
    }

    /// Joins the fetch for `platform` that is under way, or starts one. It goes on when all callers that wait for it have
    /// left.
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

    /// What a service has, if nothing in it is older than what was seen before.
    async fn newest(&self, endpoint: &Endpoint, platform: PlatformKey) -> Result<Collateral, FetchFailure> {
        let collateral = endpoint.pccs.platform(platform, self.clock()).await?;
        self.raise_floors(&collateral, TcbSet::Standard).await?;
        Ok(collateral)
    }

    /// Refuses what is older than what was seen before; remembers what is newer, on the disk before it is used.
    async fn raise_floors(&self, collateral: &Collateral, set: TcbSet) -> Result<(), FetchFailure> {
        let floors = &self.shared.options.floors;
        if floors.admit(collateral, set)? {
            let floors = floors.clone();
            // A panic of the writer is no reason to believe less.
            let _ = tokio::task::spawn_blocking(move || floors.save()).await;
        }
        Ok(())
    }

    async fn pck_chain(&self, request: &PckRequest) -> Result<PckChain, CollateralError> {
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

    /// Files the outcome of a fetch.
    fn keep(&self, platform: PlatformKey, fetched: Result<Collateral, CollateralError>) -> Fetched {
        let mut entries = self.entries();
        let options = &self.shared.options;
        match fetched {
            Ok(collateral) => {
                let now = self.clock().now();
                let placed = entries.place(platform, collateral, now, options);
                // Others may now hold what is older than this. It is valid, so it is used until there is newer.
                entries.hasten(|held| options.floors.is_below(held, TcbSet::Standard), now);
                Ok(placed)
            }
            Err(error) => {
                entries.refuse(platform, &error, options);
                Err(error)
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
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

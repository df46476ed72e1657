//! The cache against collateral servers in this process.

use std::sync::atomic::AtomicU64 as Cell;
use std::time::Duration;

use super::refresh::REFRESH_RETRY_SECONDS;
use super::*;
use crate::collateral::testing::{
    NOW, Route, Routes, Server, collateral_set, mock_anchors, mock_quote, normal_routes, numbered,
    other_anchors, real_quote, vector, with_certification, with_encrypted_ppid,
};
use crate::collateral::{CaKind, Floors, Numbers, Resource};

const TCB_PATH: &str = "/tdx/certification/v4/tcb?fmspc=000000000000";
const QE_PATH: &str = "/tdx/certification/v4/qe/identity?update=standard";
const PCK_CRL_PATH: &str = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der";
const MOCK: PlatformKey = PlatformKey { fmspc: [0; 6], ca: CaKind::Platform };
const REQUESTS_PER_FETCH: usize = 4;

fn options() -> CacheOptions {
    CacheOptions { clock: Clock::fixed(NOW), ..CacheOptions::default() }
}

fn cache_of(servers: &[&Server], options: CacheOptions) -> CollateralCache {
    let bases: Vec<&str> = servers.iter().map(|server| server.base.as_str()).collect();
    CollateralCache::new(&bases, &mock_anchors(), options).unwrap()
}

/// The responses of a service with the TCB info and QE identity of the named set.
fn routes_with(set: &str) -> Routes {
    let parts = collateral_set(set).parts().clone();
    let mut routes = normal_routes();
    for (path, key, document, signature) in [
        (TCB_PATH, "tcbInfo", &parts.tcb_info, &parts.tcb_info_signature),
        (QE_PATH, "enclaveIdentity", &parts.qe_identity, &parts.qe_identity_signature),
    ] {
        let body = format!("{{\"{key}\":{document},\"signature\":\"{}\"}}", hex::encode(signature));
        routes.get_mut(path).unwrap().body = body.into_bytes();
    }
    routes
}

fn down() -> Routes {
    [(PCK_CRL_PATH.to_owned(), Route::status(503))].into()
}

/// A clock that the test moves.
fn movable(start: u64) -> (Clock, Arc<Cell>) {
    let time = Arc::new(Cell::new(start));
    let shared = Arc::clone(&time);
    (Clock::from_fn(move || shared.load(Ordering::SeqCst)), time)
}

#[tokio::test]
async fn one_platform_is_fetched_once() {
    let server = Server::start(normal_routes()).await;
    let cache = cache_of(&[&server], options());
    let first = cache.get(&mock_quote()).await.unwrap();
    let again = cache.get(&mock_quote()).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(server.requests().len(), REQUESTS_PER_FETCH);
    assert_eq!(first.pck_certificate_chain(), None, "a quote's own chain is not for other quotes");

    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.fetches, stats.failures), (1, 1, 1, 0));
    assert_eq!(
        stats.entries,
        [EntryStats {
            platform: MOCK,
            age: 0,
            issued: first.issued(),
            expires: first.expires(),
            numbers: first.numbers()
        }]
    );
    assert_eq!(stats.endpoints[0].last_success, Some(NOW));
}

#[tokio::test]
async fn concurrent_misses_make_one_fetch() {
    let mut routes = normal_routes();
    routes.get_mut(TCB_PATH).unwrap().delay = Duration::from_millis(50);
    let server = Server::start(routes).await;
    let cache = cache_of(&[&server], options());
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(&mock_quote()).await.is_ok() })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    assert_eq!(server.requests().len(), REQUESTS_PER_FETCH);
    assert_eq!(cache.stats().fetches, 1);
}

#[tokio::test]
async fn a_fetch_goes_on_when_the_caller_has_left() {
    let mut routes = normal_routes();
    routes.get_mut(TCB_PATH).unwrap().delay = Duration::from_millis(100);
    let server = Server::start(routes).await;
    let cache = cache_of(&[&server], options());
    let left = timeout(Duration::from_millis(20), cache.get(&mock_quote())).await;
    assert!(left.is_err());
    assert!(cache.get(&mock_quote()).await.is_ok());
    assert_eq!(server.requests().len(), REQUESTS_PER_FETCH);
}

#[tokio::test]
async fn an_entry_is_used_to_its_last_second_and_not_after() {
    let server = Server::start(routes_with("short-validity")).await;
    let expires = collateral_set("short-validity").expires();
    let (clock, time) = movable(expires - 1000);
    let cache = cache_of(&[&server], CacheOptions { clock, retry_after: Duration::ZERO, ..options() });
    assert_eq!(cache.get(&mock_quote()).await.unwrap().expires(), expires);
    // Every service is down from here on.
    server.set_routes(down());
    time.store(expires, Ordering::SeqCst);
    assert!(cache.get(&mock_quote()).await.is_ok());
    time.store(expires + 1, Ordering::SeqCst);
    assert!(!cache.get(&mock_quote()).await.unwrap_err().is_senders_fault());
    server.set_routes(normal_routes());
    assert_eq!(cache.get(&mock_quote()).await.unwrap().expires(), collateral_set("good").expires());
}

#[tokio::test]
async fn collateral_that_is_not_valid_now_is_not_kept() {
    let server = Server::start(routes_with("short-validity")).await;
    let cache = cache_of(&[&server], options());
    let error = cache.get(&mock_quote()).await.unwrap_err();
    assert_eq!(error, CollateralError::unavailable(FetchFailure::NotCurrent));
    assert!(cache.stats().entries.is_empty());
}

#[tokio::test]
async fn services_are_tried_in_order_and_a_failed_one_goes_to_the_end() {
    let (first, second) = (Server::start(down()).await, Server::start(normal_routes()).await);
    let expires = collateral_set("good").expires();
    let (clock, time) = movable(NOW);
    let cache = cache_of(&[&first, &second], CacheOptions { clock, ..options() });
    assert!(cache.get(&mock_quote()).await.is_ok());
    assert_eq!((first.requests().len(), second.requests().len()), (1, REQUESTS_PER_FETCH));
    let stats = cache.stats().endpoints;
    assert_eq!((stats[0].paused, stats[0].failures, stats[1].paused), (true, 1, false));

    // The second service is tried first; the first, although it works again, gets no request.
    first.set_routes(normal_routes());
    *cache.entries() = Entries::default();
    assert!(cache.get(&mock_quote()).await.is_ok());
    assert_eq!((first.requests().len(), second.requests().len()), (1, 2 * REQUESTS_PER_FETCH));

    // A paused service is still tried before giving up.
    second.set_routes(down());
    *cache.entries() = Entries::default();
    assert!(cache.get(&mock_quote()).await.is_ok());
    assert!(time.load(Ordering::SeqCst) < expires);
    assert_eq!(first.requests().len(), 1 + REQUESTS_PER_FETCH);
}

#[tokio::test]
async fn a_service_with_unsigned_collateral_is_passed_over() {
    let mut forged = normal_routes();
    let body = &mut forged.get_mut(TCB_PATH).unwrap().body;
    let text = String::from_utf8(body.clone()).unwrap().replace("\"pceId\":\"0000\"", "\"pceId\":\"0001\"");
    *body = text.into_bytes();
    let (bad, good) = (Server::start(forged).await, Server::start(normal_routes()).await);
    let cache = cache_of(&[&bad, &good], options());
    assert_eq!(*cache.get(&mock_quote()).await.unwrap(), collateral_set("good"));
    let alone = cache_of(&[&bad], options());
    let error = alone.get(&mock_quote()).await.unwrap_err();
    assert_eq!(error, CollateralError::unavailable(FetchFailure::Untrusted(Resource::TcbInfo)));
}

#[tokio::test]
async fn made_up_platforms_cause_no_request() {
    let server = Server::start(normal_routes()).await;
    // The development PKI's quote with Intel's root only, and the other way round.
    let intels = CollateralCache::new(&[&server.base], &TrustAnchors::intel(), options()).unwrap();
    assert_eq!(intels.get(&mock_quote()).await, Err(CollateralError::UntrustedPlatform));
    let cache = cache_of(&[&server], options());
    assert_eq!(cache.get(&real_quote()).await, Err(CollateralError::UntrustedPlatform));
    let other = CollateralCache::new(&[&server.base], &other_anchors(), options()).unwrap();
    assert_eq!(other.get(&mock_quote()).await, Err(CollateralError::UntrustedPlatform));
    for (junk, expected) in [
        (b"junk".to_vec(), CollateralError::Quote("quote does not parse".into())),
        (vector("fixtures/dcap-qvl/sgx_quote.bin"), CollateralError::NotATd),
    ] {
        let error = cache.get(&junk).await.unwrap_err();
        assert!(error.is_senders_fault());
        assert_eq!(error, expected);
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_platform_that_no_service_knows_is_not_asked_for_again_at_once() {
    let server = Server::start(Routes::new()).await;
    server.set_routes({
        let mut routes = normal_routes();
        routes.insert(TCB_PATH.into(), Route::status(404));
        routes
    });
    let slow_retry = CacheOptions { retry_after: Duration::ZERO, ..options() };
    let cache = cache_of(&[&server], slow_retry);
    for _ in 0..10 {
        assert!(cache.get(&mock_quote()).await.is_err());
    }
    assert_eq!(server.requests().len(), 2);
    assert!(!cache.stats().endpoints[0].paused, "a service that answers properly is fine");
    // Other failures are remembered for `retry_after`; here that is zero.
    let quick = CacheOptions { unknown_for: Duration::ZERO, ..options() };
    let cache = cache_of(&[&server], quick);
    for _ in 0..3 {
        assert!(cache.get(&mock_quote()).await.is_err());
    }
    assert_eq!(server.requests().len(), 2 + 3 * 2);
}

#[tokio::test]
async fn an_outage_is_remembered_briefly() {
    let server = Server::start(down()).await;
    let retry_after = Duration::from_secs(60);
    let cache = cache_of(&[&server], CacheOptions { retry_after, ..options() });
    for _ in 0..10 {
        assert!(cache.get(&mock_quote()).await.is_err());
    }
    assert_eq!(server.requests().len(), 1);
    server.set_routes(normal_routes());
    cache.entries().pass(retry_after);
    assert!(cache.get(&mock_quote()).await.is_ok());
}

#[tokio::test]
async fn every_wait_has_an_end() {
    let mut routes = normal_routes();
    routes.get_mut(PCK_CRL_PATH).unwrap().delay = Duration::from_secs(60);
    let (slow, good) = (Server::start(routes).await, Server::start(normal_routes()).await);
    let impatient = CacheOptions { endpoint_deadline: Duration::from_secs(3), ..options() };
    let cache = cache_of(&[&slow, &good], impatient.clone());
    assert!(cache.get(&mock_quote()).await.is_ok());
    let cache = cache_of(&[&slow], impatient);
    let error = cache.get(&mock_quote()).await.unwrap_err();
    assert_eq!(error, CollateralError::unavailable(FetchFailure::Deadline));
    let cache = cache_of(&[&slow], CacheOptions { deadline: Duration::from_millis(60), ..options() });
    let error = cache.get(&mock_quote()).await.unwrap_err();
    assert_eq!(error, CollateralError::unavailable(FetchFailure::Deadline));
}

#[tokio::test]
async fn a_due_entry_is_refreshed_in_the_background_until_the_handle_is_dropped() {
    let server = Server::start(normal_routes()).await;
    let (clock, time) = movable(NOW);
    let quick = CacheOptions { clock, refresh_every: Duration::from_millis(5), ..options() };
    let day = quick.refresh_after.as_secs();
    let cache = cache_of(&[&server], quick);
    let task = cache.spawn_refresh();
    cache.get(&mock_quote()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(cache.stats().fetches, 1, "nothing is due yet");
    time.fetch_add(day + 1, Ordering::SeqCst);
    until(|| cache.stats().fetches == 2).await;
    until(|| cache.stats().entries[0].age == 0).await;
    drop(task);
    time.fetch_add(2 * day, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(cache.stats().fetches, 2);
}

#[tokio::test]
async fn a_failed_refresh_leaves_the_entry_in_use_and_is_tried_again_later() {
    let server = Server::start(normal_routes()).await;
    let (clock, time) = movable(NOW);
    let cache = cache_of(&[&server], CacheOptions { clock, ..options() });
    cache.get(&mock_quote()).await.unwrap();
    server.set_routes(down());
    time.fetch_add(2 * 24 * 60 * 60, Ordering::SeqCst);
    cache.refresh_due().await;
    cache.refresh_due().await;
    assert_eq!((cache.stats().fetches, cache.stats().failures), (2, 1));
    assert!(cache.get(&mock_quote()).await.is_ok());
    time.fetch_add(REFRESH_RETRY_SECONDS, Ordering::SeqCst);
    server.set_routes(normal_routes());
    cache.refresh_due().await;
    assert_eq!((cache.stats().fetches, cache.stats().failures), (3, 1));
    assert_eq!(cache.stats().entries[0].age, 0);
}

#[tokio::test]
async fn refreshing_drops_entries_that_have_ended() {
    let server = Server::start(routes_with("short-validity")).await;
    let expires = collateral_set("short-validity").expires();
    let (clock, time) = movable(expires);
    let cache = cache_of(&[&server], CacheOptions { clock, ..options() });
    cache.get(&mock_quote()).await.unwrap();
    time.store(expires + 1, Ordering::SeqCst);
    cache.refresh_due().await;
    assert!(cache.stats().entries.is_empty());
}

#[tokio::test]
async fn an_encrypted_ppid_costs_one_request_and_its_chain_stays_its_own() {
    let mut routes = normal_routes();
    let quote = with_encrypted_ppid(&mock_quote(), 2, 256);
    let path = format!(
        "/sgx/certification/v4/pckcert?qeid={}&encrypted_ppid={}&cpusvn={}&pcesvn=0201&pceid=0304",
        "00".repeat(16),
        "EE".repeat(256),
        "07".repeat(16),
    );
    let plain = mock_quote();
    let start = plain.windows(10).position(|window| window == b"-----BEGIN").unwrap();
    let leaf = String::from_utf8(plain[start..].to_vec()).unwrap();
    let leaf = leaf.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned();
    let headers =
        vec![("SGX-PCK-Certificate-Issuer-Chain".into(), routes[PCK_CRL_PATH].headers[0].1.clone())];
    routes.insert(path, Route { headers, body: leaf.into_bytes(), ..Route::status(200) });
    let server = Server::start(routes).await;
    let cache = cache_of(&[&server], options());
    for _ in 0..2 {
        assert!(cache.get(&quote).await.unwrap().pck_certificate_chain().is_some());
    }
    assert_eq!(server.requests().len(), REQUESTS_PER_FETCH + 2);
    assert_eq!(cache.get(&plain).await.unwrap().pck_certificate_chain(), None);
    assert_eq!(server.requests().len(), REQUESTS_PER_FETCH + 2);
}

/// A quote that names its platform by an encrypted PPID of its own, and the path at which its chain is
/// requested.
fn with_ppid(ppid: u8) -> (Vec<u8>, String) {
    let inner = [&[ppid; 256][..], &[7; 16], &0x0102_u16.to_le_bytes(), &[3, 4]].concat();
    let path = format!(
        "/sgx/certification/v4/pckcert?qeid={}&encrypted_ppid={}&cpusvn={}&pcesvn=0201&pceid=0304",
        "00".repeat(16),
        hex::encode_upper([ppid; 256]),
        "07".repeat(16),
    );
    (with_certification(&mock_quote(), 2, &inner), path)
}

fn pck_route(routes: &Routes) -> Route {
    let plain = mock_quote();
    let start = plain.windows(10).position(|window| window == b"-----BEGIN").unwrap();
    let chain = String::from_utf8(plain[start..].to_vec()).unwrap();
    let leaf = chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let issuers = routes[PCK_CRL_PATH].headers[0].1.clone();
    let headers = vec![("SGX-PCK-Certificate-Issuer-Chain".into(), issuers)];
    Route { headers, body: leaf.as_bytes().to_vec(), ..Route::status(200) }
}

#[tokio::test]
async fn callers_whose_certificate_hangs_do_not_keep_others_from_theirs() {
    let mut routes = normal_routes();
    let response = pck_route(&routes);
    for ppid in 0..8 {
        let delay = if ppid == 0 { Duration::ZERO } else { Duration::from_secs(3600) };
        routes.insert(with_ppid(ppid).1, Route { delay, ..response.clone() });
    }
    let server = Server::start(routes).await;
    let cache = cache_of(&[&server], CacheOptions { chain_turn_time: Duration::from_secs(2), ..options() });
    let hanging: Vec<_> = (1..8)
        .map(|ppid| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(&with_ppid(ppid).0).await.is_ok() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let honest = timeout(Duration::from_secs(60), cache.get(&with_ppid(0).0)).await;
    assert!(honest.expect("its turn comes").is_ok());
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn what_is_older_than_what_was_seen_is_refused_and_counted() {
    let good = collateral_set("good");
    let newer = |change: fn(&mut Numbers)| {
        let mut numbers = good.numbers();
        change(&mut numbers);
        numbered(good.clone(), numbers)
    };
    type Change = fn(&mut Numbers);
    let cases: [(Change, [u64; 4]); 4] = [
        (|numbers| numbers.tcb_info += 1, [1, 0, 0, 0]),
        (|numbers| numbers.qe_identity += 1, [0, 1, 0, 0]),
        (|numbers| numbers.root_crl += 1, [0, 0, 1, 0]),
        (|numbers| numbers.pck_crl += 1, [0, 0, 0, 1]),
    ];
    let server = Server::start(normal_routes()).await;
    for (change, refused) in cases {
        let floors = Floors::in_memory(0);
        floors.admit(&newer(change), TcbSet::Standard).unwrap();
        let cache = cache_of(&[&server], CacheOptions { floors, ..options() });
        let error = cache.get(&mock_quote()).await.unwrap_err();
        let CollateralError::Unavailable { failures } = &error else { panic!("{error}") };
        assert!(matches!(failures[..], [FetchFailure::RolledBack { .. }]), "{failures:?}");
        assert_eq!(cache.stats().refused_as_older, refused);
    }
    // A floor of the early set does not apply to the standard set.
    let floors = Floors::in_memory(0);
    floors.admit(&newer(|numbers| numbers.tcb_info += 1), TcbSet::Early).unwrap();
    let cache = cache_of(&[&server], CacheOptions { floors, ..options() });
    assert!(cache.get(&mock_quote()).await.is_ok());
    let too_low = Floors::in_memory(good.numbers().tcb_info + 1);
    let cache = cache_of(&[&server], CacheOptions { floors: too_low, ..options() });
    let error = cache.get(&mock_quote()).await.unwrap_err();
    let CollateralError::Unavailable { failures } = &error else { panic!("{error}") };
    assert!(matches!(failures[..], [FetchFailure::BelowMinimum { .. }]), "{failures:?}");
}

#[tokio::test]
async fn what_was_seen_is_on_the_disk_before_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Floors::open(directory.path().join("floors.json"), b"a root", 0).unwrap();
    let server = Server::start(normal_routes()).await;
    let cache = cache_of(&[&server], CacheOptions { floors: open(), ..options() });
    let numbers = cache.get(&mock_quote()).await.unwrap().numbers();
    let kept: Vec<u64> = open().list().into_iter().map(|(_, number)| number).collect();
    let expected = [numbers.tcb_info.into(), numbers.qe_identity.into(), numbers.root_crl, numbers.pck_crl];
    assert_eq!(kept, expected);
}

#[tokio::test]
async fn a_forced_refresh_fetches_what_is_held_and_keeps_it_where_that_fails() {
    let server = Server::start(normal_routes()).await;
    let cache = cache_of(&[&server], options());
    assert!(cache.refresh_all().await.is_empty(), "nothing is held");
    let held = cache.get(&mock_quote()).await.unwrap();
    let before = (server.requests().len(), cache.generation());
    let refreshed = cache.refresh_all().await;
    assert_eq!(refreshed.len(), 1);
    assert_eq!((refreshed[0].platform, refreshed[0].before), (MOCK, held.numbers()));
    assert!(refreshed[0].outcome.is_ok());
    assert_eq!(server.requests().len(), before.0 + REQUESTS_PER_FETCH);
    assert!(cache.generation() > before.1, "all evidence is verified again");
    server.set_routes(down());
    let refreshed = cache.refresh_all().await;
    assert!(refreshed[0].outcome.is_err());
    assert!(cache.get(&mock_quote()).await.is_ok(), "what was held stays in use");
}

#[test]
fn endpoints_are_checked_when_the_cache_is_made() {
    let bad = CollateralCache::new(&["https://good", "nonsense"], &mock_anchors(), options());
    assert_eq!(bad.err(), Some(EndpointError::NotHttp { index: 1 }));
    let none: [&str; 0] = [];
    assert_eq!(CollateralCache::new(&none, &mock_anchors(), options()).unwrap().stats().endpoints.len(), 1);
}

/// Waits, for at most a minute, until `done`.
async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect("in time");
}

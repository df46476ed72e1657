//! Bundles on a disk that fails.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use kms_policy::bundle::{Header, SecretKey, sign};

use super::*;
use crate::audit::Event;
use crate::config::Config;
use crate::control::{Author, SharedBundle};
use crate::state::shared::{Arrival, Document, Provenance};

/// A node whose fleet puts bundles in force.
struct Follower {
    _home: tempfile::TempDir,
    log: PathBuf,
    audit: Arc<Audit>,
    key: SecretKey,
    keeper: Arc<BundleKeeper>,
    shared: SharedBundle,
}

impl Follower {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (directory, log) = (home.path().join("policy"), home.path().join("audit.jsonl"));
        let key = SecretKey::generate("team/a".parse().unwrap()).unwrap();
        let text = format!(
            "core.auth_api = {{type = 'allowlist', bundle = {{keys = ['{}'], activation = 'manual'}}}}",
            key.verifying_key()
        );
        let (config, _) = Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}"));
        let (audit, metrics) = (Arc::new(Audit::open(&log).unwrap()), Arc::new(Metrics::new([])));
        let policy = Arc::new(Policy::from_config(&config.core.auth_api).unwrap());
        let keeper = BundleKeeper::open("default", &policy, &directory, &log, &audit, &metrics);
        let keeper = Arc::new(keeper.unwrap().unwrap());
        let shared = SharedBundle::new(Arc::clone(&keeper));
        Self { _home: home, log, audit, key, keeper, shared }
    }

    /// The first bundle, or the one after another.
    fn bundle(&self, name: &str, before: Option<&[u8]>, valid: u64) -> Vec<u8> {
        let before = before.map(|before| Bundle::open(before, &self.keeper.keys(), "default").unwrap());
        let serial = before.as_ref().map_or(1, |before| before.header().serial() + 1);
        let before = before.map(|before| before.digest());
        let header = Header::new(name, "default", serial, (valid, valid + 1000), before).unwrap();
        sign(&header, br#"{"osImages": [], "apps": {}}"#, &self.key).unwrap()
    }

    async fn adopt(&self, bundle: &[u8]) {
        let (node, operator) = ("two".to_owned(), "amy".to_owned());
        let from = Provenance { state: 2, node, operator, arrival: Arrival::Other };
        self.shared.adopt(bundle, &from).await.unwrap();
    }
}

#[tokio::test]
async fn a_newer_bundle_of_the_fleet_that_comes_while_an_older_one_is_tried_again_is_kept() {
    let follower = Arc::new(Follower::new());
    let later = unix_now() + 1000;
    let older = follower.bundle("prod", None, later);
    let newer = follower.bundle("prod", Some(&older), later);
    follower.adopt(&older).await;
    let mut held = follower.keeper.of_fleet.lock().await;
    held.as_mut().expect("it waits").at = Instant::now();
    // They wait for the lock in this order.
    let again = tokio::spawn({
        let follower = Arc::clone(&follower);
        async move { follower.keeper.follow_again().await }
    });
    tokio::task::yield_now().await;
    let adopts = tokio::spawn({
        let (follower, newer) = (Arc::clone(&follower), newer.clone());
        async move { follower.adopt(&newer).await }
    });
    tokio::task::yield_now().await;
    drop(held);
    again.await.unwrap();
    adopts.await.unwrap();
    let waits = follower.keeper.of_fleet.lock().await;
    assert!(waits.as_ref().is_some_and(|waits| waits.bytes == newer));
}

#[tokio::test]
async fn a_bundle_is_shared_only_if_the_fleet_has_this_one() {
    let follower = Follower::new();
    let valid = unix_now() - 10;
    let (own, other) = (follower.bundle("prod", None, valid), follower.bundle("other", None, valid));
    let author = Author { by: "token".to_owned(), remote: Ipv4Addr::LOCALHOST.into() };
    let (_, digest) = follower.keeper.offer(own.clone(), Origin::Operators, Some(&author)).await.unwrap();
    follower.keeper.activate(digest, Some(&author)).await.unwrap();
    let is_shared = || follower.keeper.is_of_fleet(digest);
    assert!(!is_shared() && follower.shared.has_news(), "the fleet has none");
    follower.adopt(&own).await;
    assert!(is_shared() && !follower.shared.has_news());
    // Another one with this serial, one that is newer and not valid yet, and one that nobody can read.
    for body in [other, follower.bundle("prod", Some(&own), valid + 1000), b"nothing".to_vec()] {
        follower.adopt(&body).await;
        assert!(!is_shared() && !follower.shared.has_news());
        assert_eq!(follower.shared.merge(Some(&body)), Ok(None), "it is not written over");
    }
}

#[tokio::test]
async fn a_bundle_of_the_fleet_that_is_not_valid_yet_comes_into_force_when_it_is() {
    let follower = Follower::new();
    let Follower { keeper, shared, audit, log, .. } = &follower;
    // The clock of this node is behind that of the signer.
    let valid = unix_now() + 3;
    follower.adopt(&follower.bundle("prod", None, valid)).await;
    if unix_now() < valid {
        assert_eq!(keeper.serial_in_force(), None);
    }
    let keeps = tokio::spawn({
        let keeper = Arc::clone(keeper);
        async move { keeper.keep_fresh().await }
    });
    let in_force = async {
        while keeper.serial_in_force() != Some(1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), in_force).await.expect("it comes into force");
    assert!(!shared.has_news(), "it is what the fleet has");
    keeps.abort();
    let _ = audit.record(Event::PolicySerialsLost { domain: String::new(), floor: 0 }).await.unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("amy on node two") && !log.contains("policy_bundle_refused"), "{log}");
}

#[tokio::test]
async fn a_bundle_whose_record_is_not_synced_is_what_the_next_start_reads() {
    let home = tempfile::tempdir().unwrap();
    let (directory, log) = (home.path().join("policy"), home.path().join("audit.jsonl"));
    let key = SecretKey::generate("team/a".parse().unwrap()).unwrap();
    let text =
        format!("core.auth_api = {{type = 'allowlist', bundle = {{keys = ['{}']}}}}", key.verifying_key());
    let (config, _) = Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}"));
    let (audit, metrics) = (Arc::new(Audit::open(&log).unwrap()), Arc::new(Metrics::new([])));
    let open = || {
        let policy = Arc::new(Policy::from_config(&config.core.auth_api).unwrap());
        BundleKeeper::open("default", &policy, &directory, &log, &audit, &metrics).unwrap().unwrap()
    };
    let mut keeper = open();
    keeper.files = keeper.files.synced_by(|_| Err(io::Error::other("no sync")));
    let header = Header::new("prod", "default", 1, (1, unix_now() + 1000), None).unwrap();
    let bundle = sign(&header, br#"{"osImages": [], "apps": {}}"#, &key).unwrap();
    let author = Author { by: "token".to_owned(), remote: Ipv4Addr::LOCALHOST.into() };

    let offered = keeper.offer(bundle, Origin::Operators, Some(&author)).await;
    assert!(matches!(offered, Err(OfferError::Unsynced(_))), "{offered:?}");
    let digest = keeper.view().await.pending.expect("it waits").bundle().digest();
    let again = open().view().await;
    assert_eq!(again.pending.expect("it waits").bundle().digest(), digest);

    let activated = keeper.activate(digest, Some(&author)).await;
    assert!(matches!(activated, Err(OfferError::Unsynced(_))), "{activated:?}");
    assert_eq!([keeper.serial_in_force(), open().serial_in_force()], [Some(1), Some(1)]);
    assert!(!keeper.activate(digest, Some(&author)).await.unwrap().changed, "it is in force");
    let _ = audit.record(Event::PolicySerialsLost { domain: String::new(), floor: 0 }).await.unwrap();
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("policy_bundle_received") && !log.contains("policy_bundle_refused"), "{log}");
}

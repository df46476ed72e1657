//! A thousand key requests through a load balancer while any one replica is killed and restarted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cvm_kms::keys::{RootKeys, derive};
use cvm_kms::proto::AppKeyResponse;
use kms_attest::attester::Attester;
use kms_attest::collateral::{CacheOptions, CollateralCache};
use kms_attest::identity::AppId;
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::Verifier;
use kms_client::{KmsUrl, ServerAttestation, fetch_app_keys};
use kms_simulator::{Cvm, GuestAgent, Platform};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Node;
use crate::support::balancer::Balancer;
use crate::support::{Caller, Identity, eventually};

const FETCHES: usize = 1_000;
/// How often each node is killed.
const ROUNDS: usize = 3;
/// Concurrent clients.
const CLIENTS: usize = 6;
/// One in so many fetches is done as at boot, from the first unverified call on.
const BOOTS: usize = 5;
/// Only one node is down at a time, so a second attempt nearly always succeeds.
const ATTEMPTS: usize = 8;
/// The longest duration of the test.
const END: Duration = Duration::from_secs(300);

const APP: [u8; 20] = [7; 20];

fn instance(number: usize) -> [u8; 20] {
    let mut id = [0x55; 20];
    id[12..].copy_from_slice(&(number as u64).to_be_bytes());
    id
}

/// What the clients share.
struct Fleet {
    platform: Arc<Platform>,
    balancer: Balancer,
    verifier: Verifier,
    root: RootKeys,
    /// How many more fetches may begin.
    allowed: Semaphore,
    next: AtomicUsize,
    done: AtomicUsize,
    /// Requests that may have released keys, by instance id in hex.
    asked: Mutex<HashMap<String, usize>>,
}

impl Fleet {
    /// Fetches until all fetches are done.
    async fn fetch_all(&self) {
        loop {
            self.allowed.acquire().await.expect("never closed").forget();
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= FETCHES {
                // Returns the permit, so that other clients can use it.
                self.allowed.add_permits(1);
                return;
            }
            let guest = Cvm::builder(&self.platform).app_id(APP).instance_id(&instance(number)).build();
            let keys = match number % BOOTS {
                0 => self.booted(&guest).await,
                _ => self.asked_for(&guest).await,
            };
            let expected = derive::app_keys(&self.root, &AppId(APP), guest.instance_id()).expect("keys");
            assert!(keys.disk_crypt_key == expected.disk_crypt_key.expose(), "fetch {number}: disk key");
            assert!(keys.env_crypt_key == expected.env_crypt_key.expose(), "fetch {number}: env key");
            assert!(keys.k256_key == expected.k256_key.expose(), "fetch {number}: secp256k1 key");
            assert_eq!(keys.k256_signature, expected.k256_signature, "fetch {number}");
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As a guest at boot: it knows only the load balancer's address, and may try it several times.
    async fn booted(&self, guest: &Arc<Cvm>) -> AppKeyResponse {
        let agent = GuestAgent::serve_tcp(guest).await.expect("guest agent");
        let attester = Attester::at(agent.address()).expect("address");
        let url: KmsUrl = format!("https://{}", self.balancer.address()).parse().expect("a URL");
        let urls = vec![url; ATTEMPTS];
        let server = ServerAttestation::Required(&self.verifier);
        let pin = self.root.ca_spki();
        let keys = fetch_app_keys(&urls, &attester, server, "", Some(&pin)).await.expect("keys");
        self.note(guest, keys.failed.len() + 1);
        keys.response.clone()
    }

    /// With an existing certificate, like a guest's second process.
    async fn asked_for(&self, guest: &Cvm) -> AppKeyResponse {
        let caller = Caller::new(self.balancer.address()).shows(&Identity::self_issued(guest));
        let mut reasons = Vec::new();
        for attempt in 1..=ATTEMPTS {
            match caller.try_json("GetAppKey", json!({})).await {
                Ok(answer) if answer.status == 200 => {
                    self.note(guest, attempt);
                    return answer.message();
                }
                // A node that has just started may not have its self-authorization yet.
                Ok(answer) if answer.status == 503 => reasons.push(format!("{answer:?}")),
                Ok(answer) => panic!("{answer:?}"),
                Err(error) => reasons.push(error.to_string()),
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("no keys: {reasons:?}");
    }

    fn note(&self, guest: &Cvm, attempts: usize) {
        let mut asked = self.asked.lock().expect("no panic");
        assert!(asked.insert(hex::encode(guest.instance_id()), attempts).is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fetch_is_lost_or_wrong_while_replicas_are_killed_and_started_again() {
    timeout(END, killed_and_started_again()).await.expect("an end");
}

async fn killed_and_started_again() {
    let toml = "[core.limits]\nunauthenticated_per_second = 100000\nunauthenticated_burst = 100000";
    // All of them serve under the name of the load balancer.
    let mut nodes = Node::chain(&["127.0.0.1"; 4], toml).await;
    let platform = Arc::clone(&nodes[0].setting.world.platform);
    let guest = Cvm::builder(&platform).app_id(APP).build();
    for node in &nodes {
        node.allow_app(&guest);
    }
    let anchors = TrustAnchors::with_tdx_root(platform.root_der()).expect("root");
    let pccs = nodes[0].setting.world.pccs.url();
    let cache = CollateralCache::new(&[pccs], &anchors, CacheOptions::default()).expect("collateral");
    let addresses: Vec<_> = nodes.iter().map(|node| node.setting.address).collect();
    let fleet = Arc::new(Fleet {
        platform,
        balancer: Balancer::start(&addresses).await,
        verifier: Verifier::new(anchors, cache),
        root: nodes[0].root_keys(),
        allowed: Semaphore::new(0),
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        asked: Mutex::default(),
    });

    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let fleet = Arc::clone(&fleet);
            tokio::spawn(async move { fleet.fetch_all().await })
        })
        .collect();
    let kills = ROUNDS * nodes.len();
    for turn in 0..kills {
        // Each kill happens during its share of the fetches.
        let before = fleet.done.load(Ordering::Relaxed);
        fleet.allowed.add_permits(FETCHES.div_ceil(kills));
        eventually("the clients go on", async || {
            (fleet.done.load(Ordering::Relaxed) >= before + CLIENTS).then_some(())
        })
        .await;
        let node = &mut nodes[turn % addresses.len()];
        node.kill().await;
        sleep(Duration::from_millis(200)).await;
        node.restart().await;
        node.serves().await;
    }
    for client in clients {
        client.await.expect("no fetch is lost or wrong");
    }
    let took = began.elapsed();
    assert_eq!(fleet.done.load(Ordering::Relaxed), FETCHES);
    assert!(fleet.balancer.passed_over() > 0, "dead backends were met");
    assert!(fleet.balancer.served().iter().all(|served| *served > 0), "{:?}", fleet.balancer.served());

    let asked = fleet.asked.lock().expect("no panic").clone();
    let mut released: HashMap<String, usize> = HashMap::new();
    for node in &mut nodes {
        node.stop().await;
        for line in node.setting.world.audited("app_key_released") {
            let text = |key: &str| line[key].as_str().expect("hex").to_owned();
            assert_eq!(text("app_id"), hex::encode(APP));
            *released.entry(text("instance_id")).or_default() += 1;
        }
    }
    assert_eq!(asked.len(), FETCHES);
    assert_eq!(released.len(), FETCHES, "every release is accounted for, and there is no other");
    for (instance, attempts) in &asked {
        let lines = released.get(instance).copied().unwrap_or_default();
        assert!((1..=*attempts).contains(&lines), "{instance}: {lines} lines for {attempts} attempts");
    }
    let again: usize = asked.values().map(|attempts| attempts - 1).sum();
    println!("{FETCHES} fetches, {kills} kills, {again} attempts again, {took:?}");
}

//! A whole cluster is lost and restored: new root keys under load, four of five nodes gone, then the last, and new machines
//! that get everything back from the shares of officers.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use age::secrecy::ExposeSecret as _;
use cvm_kms::proto::{AppKeyResponse, PublicKeyResponse};
use kms_attest::clock::unix_now;
use kms_attest::{certificate, ra_tls};
use kms_simulator::{Cvm, Platform};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Node;
use crate::support::http::{request, with};
use crate::support::kmsctl::Desk;
use crate::support::{Caller, DOMAIN, Identity, eventually};

/// The apps of the cluster. Every second one follows new root keys, the others stay at those of epoch 0.
const APPS: usize = 1_000;
const NODES: usize = 5;
const OFFICERS: usize = 5;
const THRESHOLD: usize = 3;
/// Concurrent clients.
const CLIENTS: usize = 6;
/// The longest duration of the test.
const END: Duration = Duration::from_secs(900);
const TOKEN: &str = "the-token-of-the-owner-of-this-cluster";

/// What an app has of one epoch.
#[derive(Clone, PartialEq)]
struct Keys {
    disk: Vec<u8>,
    env: Vec<u8>,
    k256: Vec<u8>,
    signature: Vec<u8>,
    /// Root CA public key of the certificate in the response.
    root: Vec<u8>,
}

/// By app number and epoch of the root keys.
type Recorded = BTreeMap<(usize, u32), Keys>;

fn app(platform: &Arc<Platform>, number: usize) -> Arc<Cvm> {
    let mut id = [0x31; 20];
    id[12..].copy_from_slice(&(number as u64).to_be_bytes());
    Cvm::builder(platform).app_id(id).compose_hash([0x31; 32]).instance_id(&id).build()
}

fn follows(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// Allows all apps at a node.
fn allow_apps(node: &Node, apps: &[Arc<Cvm>]) {
    node.setting.world.allowlist.change(|rules| {
        rules["osImages"].as_array_mut().expect("a list").push(json!(hex::encode(apps[0].os_image_hash())));
        for (number, app) in apps.iter().enumerate() {
            let mut entry =
                json!({ "allowAnyDevice": true, "composeHashes": [hex::encode(app.compose_hash())] });
            if follows(number) {
                entry["rootEpoch"] = json!("current");
            }
            rules["apps"][hex::encode(app.app_id())] = entry;
        }
    });
}

/// The keys of the epochs that an app may have at a node: over one connection, since the evidence is the same.
async fn keys_of(caller: &Caller, app: &Cvm, epochs: &[u32]) -> Vec<Keys> {
    let mut line = caller.shows(&Identity::self_issued(app)).connect().await.expect("a connection");
    let mut all = Vec::new();
    for epoch in epochs {
        let answer = line.json("GetAppKey", json!({ "root_epoch": epoch })).await;
        assert_eq!(answer.status, 200, "epoch {epoch}: {answer:?}");
        let keys: AppKeyResponse = answer.message();
        assert_eq!(keys.root_epoch, Some(*epoch));
        all.push(kept(&keys));
    }
    all
}

fn kept(keys: &AppKeyResponse) -> Keys {
    let root = certificate::der(&keys.ca_cert).expect("PEM");
    Keys {
        disk: keys.disk_crypt_key.clone(),
        env: keys.env_crypt_key.clone(),
        k256: keys.k256_key.clone(),
        signature: keys.k256_signature.clone(),
        root: ra_tls::spki_of(&root).expect("a key"),
    }
}

/// The keys of every app, from these nodes in turn: of epoch 0, and of `newest` for those that follow.
async fn record(callers: &[Caller], apps: &Arc<Vec<Arc<Cvm>>>, newest: u32) -> Recorded {
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (next, apps) = (Arc::clone(&next), Arc::clone(apps));
        let caller = callers[client % callers.len()].clone();
        clients.spawn(async move {
            let mut recorded = Recorded::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(app) = apps.get(number) else { return recorded };
                let epochs: Vec<u32> = if follows(number) { (0..=newest).collect() } else { vec![0] };
                for (epoch, keys) in epochs.iter().zip(keys_of(&caller, app, &epochs).await) {
                    recorded.insert((number, *epoch), keys);
                }
            }
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

fn same(now: &Recorded, before: &Recorded) {
    assert_eq!(now.len(), before.len());
    for (which, keys) in before {
        assert!(now[which] == *keys, "app {} has other keys of epoch {}", which.0, which.1);
    }
}

/// Guests that ask all the time, as long as the cluster is there: each answer is of the app's own epochs, and none fails.
struct Load {
    ended: Arc<AtomicBool>,
    clients: JoinSet<(usize, usize)>,
}

impl Load {
    fn on(callers: &[Caller], apps: &Arc<Vec<Arc<Cvm>>>, before: &Arc<Recorded>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for (number, caller) in callers.iter().cloned().enumerate() {
            let (ended, apps, before) = (Arc::clone(&ended), Arc::clone(apps), Arc::clone(before));
            clients.spawn(async move {
                let (mut old, mut new) = (0, 0);
                let identity = Identity::self_issued(&apps[number]);
                let mut line = caller.shows(&identity).connect().await.expect("a connection");
                while !ended.load(Ordering::Relaxed) {
                    let answer = line.json("GetAppKey", json!({})).await;
                    assert_eq!(answer.status, 200, "under load: {answer:?}");
                    let keys: AppKeyResponse = answer.message();
                    match keys.root_epoch.unwrap_or_default() {
                        0 => {
                            assert!(kept(&keys) == before[&(number, 0)], "keys of epoch 0 have changed");
                            assert_eq!(new, 0, "an app went back to old keys");
                            old += 1;
                        }
                        1 => {
                            assert!(follows(number), "an app that stays got new keys");
                            assert!(kept(&keys) != before[&(number, 0)], "new root keys give old keys");
                            new += 1;
                        }
                        other => panic!("epoch {other}"),
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                (old, new)
            });
        }
        Self { ended, clients }
    }

    /// How many answers were of epoch 0, and how many of epoch 1.
    async fn end(self) -> (usize, usize) {
        self.ended.store(true, Ordering::Relaxed);
        let counts = self.clients.join_all().await;
        counts.into_iter().fold((0, 0), |(old, new), (o, n)| (old + o, new + n))
    }
}

/// A route of the admin listener, as the owner.
async fn owner(node: &Node, verb: &str, path: &str, body: Value) -> Value {
    let call = with(request(verb, path, body.to_string()), "authorization", &format!("Bearer {TOKEN}"));
    let call = with(call, "content-type", "application/json");
    let answer = Caller::new(node.setting.admin).plain().send(call).await;
    assert_eq!(answer.status, 200, "{verb} {path}: {}", answer.text());
    answer.value()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_lost_comes_back_from_shares_with_every_key_of_every_epoch() {
    timeout(END, lost_and_restored()).await.expect("an end");
}

async fn lost_and_restored() {
    let toml = format!(
        "core.admin.auth_token = \"{TOKEN}\"\n\
         [core.limits]\nunauthenticated_per_second = 100000\nunauthenticated_burst = 100000\ninstance_per_second = 1000\ninstance_burst = 100000"
    );
    let mut nodes = Node::chain(&[DOMAIN; NODES], &toml).await;
    let platform = Arc::clone(&nodes[0].setting.world.platform);
    let apps: Arc<Vec<Arc<Cvm>>> = Arc::new((0..APPS).map(|number| app(&platform, number)).collect());
    for node in &nodes {
        allow_apps(node, &apps);
    }
    let callers: Vec<Caller> = nodes.iter().map(Node::caller).collect();
    let first = Arc::new(record(&callers, &apps, 0).await);
    assert_eq!(first.len(), APPS);

    // New root keys while guests ask.
    let load = Load::on(&callers, &apps, &first);
    owner(&nodes[0], "POST", "/api/v1/epochs", json!({})).await;
    for replica in 1..NODES {
        // Each from the node that it got its root keys from.
        let body = json!({ "source_url": nodes[replica - 1].url() });
        owner(&nodes[replica], "POST", "/api/v1/epochs/fetch", body).await;
    }
    // At the same time everywhere.
    let at = unix_now() + 5;
    for node in &nodes {
        owner(node, "POST", "/api/v1/epochs/1/activate", json!({ "at": at })).await;
    }
    eventually("the new root keys are in force", async || (unix_now() > at).then_some(())).await;
    let everywhere = record(&callers, &apps, 1).await;
    let (old, new) = load.end().await;
    assert!(old > 0 && new > 0, "{old} answers before, {new} after");
    assert_eq!(everywhere.len(), APPS + APPS / 2);
    for (which, keys) in first.iter() {
        assert!(everywhere[which] == *keys, "app {} has other keys of epoch 0 than before", which.0);
    }

    // A recovery set of all epochs. Officers make their keys themselves.
    let identities: Vec<age::x25519::Identity> =
        (0..OFFICERS).map(|_| age::x25519::Identity::generate()).collect();
    let recipients: Vec<Value> = identities
        .iter()
        .enumerate()
        .map(|(at, key)| json!({ "name": format!("officer-{at}"), "recipient": key.to_public().to_string() }))
        .collect();
    let body = json!({ "recipients": recipients, "threshold": THRESHOLD });
    let set = owner(&nodes[0], "POST", "/api/v1/recovery/sets", body).await;
    let shown = owner(&nodes[0], "GET", "/api/v1/recovery", Value::Null).await;
    assert_eq!(shown["covers_all_epochs"], true, "{shown}");

    // Four are lost with their disks, then the last.
    for node in &mut nodes[1..] {
        node.kill().await;
        fs::remove_dir_all(node.setting.world.path("certs")).expect("a key directory");
    }
    let last: Vec<Caller> = vec![nodes[0].caller()];
    same(&record(&last, &apps, 1).await, &everywhere);
    let meta = nodes[0].meta().await;
    nodes[0].stop().await;
    let lost_log = nodes[0].setting.world.audit();
    fs::remove_dir_all(nodes[0].setting.world.path("certs")).expect("a key directory");
    drop(nodes);

    // New machines, and three of five officers.
    let mut restored = Node::empty(&toml).await;
    let world = &restored.setting.world;
    let desk = Desk::in_world(world);
    desk.write("manifest.json", set["manifest"].as_str().expect("text"));
    let pin = hex::encode(world.cvm.mr_aggregated());
    let url = format!("https://localhost:{}", restored.setting.address.port());
    let mut output = String::new();
    for officer in [4, 0, 2] {
        desk.write("share.age", set["files"][officer]["content"].as_str().expect("text"));
        desk.write("key.txt", identities[officer].to_string().expose_secret());
        let at =
            ["recovery", "restore", "--kms", &url, "--pin", &pin, "--dangerous-root", "root.der", "--yes"];
        let files = ["--manifest", "manifest.json", "--share", "share.age", "--identity", "key.txt"];
        output = desk.run(&[&at[..], &files].concat()).await.expect_ok().out;
    }
    assert!(output.contains("The root keys are restored and saved."), "{output}");
    restored.finish().await;
    let again = restored.meta().await;
    assert_eq!(again.k256_pubkey, meta.k256_pubkey);
    assert_eq!(again.epochs, meta.epochs, "the epochs, with their times and the statement of the root key");

    // A replica of the restored node, and every key of every epoch from both.
    let mut replica = Node::replica(&restored, DOMAIN, &toml).await;
    for node in [&restored, &replica] {
        allow_apps(node, &apps);
    }
    let callers = [restored.caller(), replica.caller()];
    same(&record(&callers, &apps, 1).await, &everywhere);
    let env = |epoch: u32| {
        let body = json!({ "app_id": hex::encode(apps[0].app_id()), "root_epoch": epoch });
        let caller = restored.caller();
        async move { caller.json("GetAppEnvEncryptPubKey", body).await.message::<PublicKeyResponse>() }
    };
    assert_ne!(env(0).await.public_key, env(1).await.public_key);

    // The log of the new node says where its keys come from, and where the log of the lost node was.
    let events = restored.setting.world.audited("keys_restored");
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event["set"], set["set"], "{event}");
    let made: Vec<&Value> = lost_log.iter().filter(|line| line["event"] == "recovery_set_created").collect();
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["manifest_sha256"], set["manifest_sha256"]);
    assert_eq!(event["manifest_sha256"], set["manifest_sha256"], "{event}");
    for name in ["epoch_prepared", "epoch_activated"] {
        assert_eq!(lost_log.iter().filter(|line| line["event"] == name).count(), 1, "{name}");
    }
    restored.stop().await;
    replica.stop().await;
}

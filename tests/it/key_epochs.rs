//! Apps and the epochs of their keys: who gets which, what answers say, and that guests without epochs notice nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::support::operator::{Operator, done};
use crate::support::{Caller, World, certificate_request, eventually};
use cvm_kms::audit::{Audit, Event, Receipt};
use cvm_kms::keys::epoch::RootEpoch;
use cvm_kms::lifecycle::{Node, Ready};
use cvm_kms::proto::{
    AppId as AppIdMessage, AppKeyResponse, ExplainRequest, GetAppKeyRequest, KmsKeyResponse,
    PublicKeyResponse, SignCertResponse,
};
use cvm_kms::store::{KeyDirectory, Permissions};
use kms_attest::binding::ReportData;
use kms_attest::certificate;
use kms_attest::identity::AppId;
use kms_attest::p256::P256Key;
use kms_client::log_keys::earlier_keys;
use kms_client::receipt::shown_log;
use kms_client::root_epochs::{follow, stated_epoch};
use kms_client::statement::{Signer, app_key_signer, env_key_signer, root_epoch_signer};
use kms_ledger::proof::ConsistencyProof;
use kms_ledger::store::TileFiles;
use kms_simulator::Cvm;
use serde_json::{Value, json};

/// The keys of a KMS that does not run, and a log in which changes of epochs are recorded.
struct Stopped {
    ready: Box<Ready>,
    audit: Audit,
}

impl Stopped {
    async fn of(world: &mut World) -> Self {
        world.stop().await;
        let directory =
            KeyDirectory::open(&world.path("certs"), Permissions::OwnerOnly).expect("a key directory");
        match Node::open(directory, None, &[], SystemTime::now()).expect("keys") {
            Node::Ready(ready) => {
                Self { ready, audit: Audit::open(&world.path("changes.jsonl")).expect("a log") }
            }
            Node::Onboarding(_) => panic!("it has keys"),
        }
    }

    async fn recorded(&self, epoch: RootEpoch) -> Receipt {
        let (by, remote) = ("token".to_owned(), Ipv4Addr::LOCALHOST.into());
        self.audit.record(Event::EpochRetired { epoch: epoch.0, by, remote }).await.expect("a record")
    }

    /// A new epoch that is active at once.
    async fn rotate(&self) {
        let now = SystemTime::now();
        let new = self.ready.new_epoch().expect("a new epoch");
        let number = new.number();
        self.ready.prepare_epoch(&new, self.recorded(number).await, now).expect("prepared");
        let at = kms_attest::clock::unix(now);
        self.ready.activate_epoch(number, at, self.recorded(number).await, now).expect("activated");
    }

    async fn prepare(&self) {
        let new = self.ready.new_epoch().expect("a new epoch");
        let receipt = self.recorded(new.number()).await;
        self.ready.prepare_epoch(&new, receipt, SystemTime::now()).expect("prepared");
    }

    async fn retire(&self, epoch: u32) {
        let epoch = RootEpoch(epoch);
        self.ready.retire_epoch(epoch, self.recorded(epoch).await, SystemTime::now()).expect("retired");
    }
}

async fn rotated(world: &mut World) {
    let stopped = Stopped::of(world).await;
    stopped.rotate().await;
    drop(stopped);
    world.start().await.expect("it starts again");
}

/// A KMS with the active epochs 0 and 1, and an app that is allowed.
async fn rotated_world() -> (World, Arc<Cvm>) {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    rotated(&mut world).await;
    (world, app)
}

fn says(world: &World, app: &Cvm, fields: &Value) {
    world.allowlist.change(|rules| {
        let entry = &mut rules["apps"][hex::encode(app.app_id())];
        for (key, value) in fields.as_object().expect("fields") {
            entry[key] = value.clone();
        }
    });
}

async fn guest(world: &World, app: &Cvm) -> Caller {
    world.caller().shows(&world.attested(app).await)
}

fn epochs(keys: &AppKeyResponse) -> (Option<u32>, Option<u32>) {
    (keys.root_epoch, keys.app_epoch)
}

fn secrets(keys: &AppKeyResponse) -> [&[u8]; 3] {
    [&keys.disk_crypt_key, &keys.env_crypt_key, &keys.k256_key]
}

/// An answer without its receipt, which is another each time.
fn without_receipt(answer: &str) -> String {
    let mut value: Value = serde_json::from_str(answer).expect("JSON");
    value["receipt"] = Value::Null;
    value.to_string()
}

#[tokio::test]
async fn a_guest_that_knows_no_epochs_is_served_unchanged_after_a_rotation() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let served = async |world: &World| {
        let caller = guest(world, &app).await;
        let keys = caller.json("GetAppKey", json!({ "api_version": 1 })).await.text().to_owned();
        let mut by_grpc = caller
            .grpc()
            .await
            .get_app_key(GetAppKeyRequest { api_version: 1, ..Default::default() })
            .await
            .expect("keys")
            .into_inner();
        by_grpc.receipt = None;
        let id = json!({ "app_id": hex::encode(app.app_id()) });
        let mut key = world.caller().json("GetAppEnvEncryptPubKey", id).await.value();
        key.as_object_mut()
            .expect("fields")
            .retain(|name, _| !["timestamp", "signature_v1"].contains(&&**name));
        let signed: SignCertResponse =
            world.caller().json("SignCert", certificate_request(&app, &P256Key::generate())).await.message();
        assert_eq!((signed.root_epoch, signed.app_epoch), (None, None));
        let by_grpc = prost::Message::encode_to_vec(&by_grpc);
        (without_receipt(&keys), by_grpc, key.to_string(), signed.certificate_chain[2].clone())
    };
    let before = served(&world).await;
    for name in ["root_epoch", "app_epoch", "previous"] {
        assert!(!before.0.contains(name) && !before.2.contains(name), "{name}");
    }
    assert!(world.meta().await.epochs.is_empty());
    rotated(&mut world).await;
    assert_eq!(world.meta().await.epochs.len(), 2);
    assert_eq!(served(&world).await, before);
    // Nor is anything else in the records.
    let recorded = world.audited("app_key_released");
    assert!(recorded.iter().all(|record| record.get("epochs").is_none()));
}

#[tokio::test]
async fn who_pinned_the_root_of_epoch_0_can_follow_after_the_identity_has_moved() {
    let (mut world, _) = rotated_world().await;
    let before = world.meta().await;
    let pinned = Signer::try_from(before.k256_pubkey.as_slice()).expect("a key");
    let new = stated_epoch(&before, 1).expect("the root key states epoch 1");
    let stopped = Stopped::of(&mut world).await;
    stopped.retire(0).await;
    drop(stopped);
    world.start().await.expect("it starts again");
    let after = world.meta().await;
    assert_eq!(after.k256_pubkey, new.signer.as_bytes());
    let shown = &after.epochs[1];
    assert_eq!(root_epoch_signer(1, &new.ca_spki, &new.signer, &shown.signature), Ok(pinned));
    assert_eq!(stated_epoch(&after, 1).expect("its own root").signer, new.signer);
}

/// The checkpoint that the KMS shows.
async fn checkpoint(world: &World) -> Vec<u8> {
    let answer = world.caller().get("/log/checkpoint").await;
    assert_eq!(answer.status, 200);
    answer.body.into()
}

#[tokio::test]
async fn a_log_goes_on_as_the_same_tree_when_its_key_changes() {
    let (mut world, app) = rotated_world().await;
    says(&world, &app, &json!({ "rootEpoch": "current" }));
    let released = async |world: &World| {
        let keys: AppKeyResponse = guest(world, &app).await.json("GetAppKey", json!({})).await.message();
        keys.receipt.clone().expect("a receipt")
    };
    let old_receipt = released(&world).await;
    let before = world.meta().await;
    let pinned = Signer::try_from(before.k256_pubkey.as_slice()).expect("a key");
    let (old_log, _) = shown_log(&before).expect("a log");
    let pin = checkpoint(&world).await;
    assert!(before.log_key_changes.is_empty());

    let stopped = Stopped::of(&mut world).await;
    stopped.retire(0).await;
    drop(stopped);
    // The second start has nothing new to say.
    for start in 1..=2 {
        world.start().await.expect("it starts again");
        let receipt = released(&world).await;
        let after = world.meta().await;
        let (log, signer) = shown_log(&after).expect("a log");
        assert_ne!(log, old_log);
        assert_eq!(log.origin(), old_log.origin(), "the same log");
        assert_eq!(signer.as_bytes().as_slice(), after.k256_pubkey);
        assert_eq!(follow(&after, &pinned).expect("the old root states the new one").signer, signer);
        let earlier = earlier_keys(&after).expect("a log");
        let [earlier] = &earlier[..] else { panic!("start {start}: {earlier:?}") };
        assert_eq!((&earlier.log, earlier.root_key), (&old_log, pinned));

        // What the old key signed is the beginning of what the new key signs.
        assert!(log.open(&pin, &[]).is_err());
        let old = earlier.log.open(&pin, &[]).expect("the old key signed it").checkpoint().clone();
        let new =
            log.open(&checkpoint(&world).await, &[]).expect("the new key signed it").checkpoint().clone();
        let files = TileFiles::new(&world.key_file("audit.tree"));
        let proof = ConsistencyProof::build(&files.hashes(new.size), old.size, new.size).expect("a proof");
        proof.verify((old.size, &old.root), (new.size, &new.root)).expect("the same tree");
        assert!(new.size > old.size);
        kms_client::receipt::verify(&receipt, &after, &signer).expect("a receipt of the new key");
        kms_client::receipt::verify(&old_receipt, &before, &pinned).expect("a receipt of the old key");
        assert_eq!(world.audited("log_key_changed").len(), 1, "start {start}");
    }
    let changed = &world.audited("log_key_changed")[0];
    assert_eq!(changed["previous"], before.log_key);
}

#[tokio::test]
async fn an_app_that_follows_gets_new_keys_and_can_still_read_the_old_ones() {
    let (world, app) = rotated_world().await;
    let id = AppId(*app.app_id());
    let caller = guest(&world, &app).await;
    let first: AppKeyResponse = caller.json("GetAppKey", json!({})).await.message();
    assert_eq!((epochs(&first), first.previous.len()), ((None, None), 0));
    says(&world, &app, &json!({ "rootEpoch": "current" }));
    let meta = world.meta().await;
    let new = stated_epoch(&meta, 1).expect("the root key states epoch 1");
    assert_eq!(new.stated_by.as_bytes().as_slice(), meta.k256_pubkey);

    let request = GetAppKeyRequest { api_version: 1, ..Default::default() };
    let answers = [
        caller.json("GetAppKey", json!({})).await.message::<AppKeyResponse>(),
        caller.protobuf("GetAppKey", &request).await.decoded(),
        caller.grpc().await.get_app_key(request).await.expect("keys").into_inner(),
        caller.get("/prpc/GetAppKey?root_epoch=1").await.message(),
        caller.json("GetAppKey", json!({ "root_epoch": 1, "app_epoch": "0" })).await.message(),
    ];
    for (index, keys) in answers.iter().enumerate() {
        assert_eq!(epochs(keys), (Some(1), Some(0)), "answer {index}");
        let previous: Vec<_> = keys.previous.iter().map(|epochs| (epochs.root, epochs.app)).collect();
        assert_eq!(previous, [(0, 0)]);
        assert!(secrets(keys).iter().all(|key| !secrets(&first).contains(key)));
        assert_eq!(keys.ca_cert, first.ca_cert, "the KMS is the same");
        let app_key =
            Signer::of_secret(keys.k256_key.as_slice().try_into().expect("32 bytes")).expect("a key");
        assert_eq!(app_key_signer(id, &app_key, &keys.k256_signature), Ok(new.signer));
    }
    let old: AppKeyResponse = caller.json("GetAppKey", json!({ "root_epoch": 0 })).await.message();
    assert_eq!((epochs(&old), secrets(&old)), ((Some(0), Some(0)), secrets(&first)));

    // The key for the environment, of the app's epochs and of others.
    let env_key = async |more: Value| -> PublicKeyResponse {
        let mut body = json!({ "app_id": hex::encode(app.app_id()) });
        body.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        world.caller().json("GetAppEnvEncryptPubKey", body).await.message()
    };
    for (more, root, said, signer) in [
        (
            json!({}),
            &caller.json("GetAppKey", json!({})).await.message::<AppKeyResponse>(),
            Some(1),
            new.signer,
        ),
        (json!({ "root_epoch": 0 }), &first, Some(0), new.stated_by),
    ] {
        let key = env_key(more).await;
        let secret: [u8; 32] = root.env_crypt_key.as_slice().try_into().expect("32 bytes");
        let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret));
        assert_eq!((key.public_key.as_slice(), key.root_epoch), (public.as_bytes().as_slice(), said));
        assert_eq!(env_key_signer(id, key.timestamp, &key.public_key, &key.signature_v1), Ok(signer));
    }

    // Certificates are below the root CA of their epoch.
    let mut wish = certificate_request(&app, &P256Key::generate());
    for (ask, root) in [
        (Value::Null, &new.ca_spki[..]),
        (json!(1), &new.ca_spki[..]),
        (json!(0), &world.root_keys().ca_spki()[..]),
    ] {
        wish["root_epoch"] = ask.clone();
        let signed: SignCertResponse = world.caller().json("SignCert", wish.clone()).await.message();
        assert_eq!(signed.root_epoch, Some(ask.as_u64().unwrap_or(1) as u32));
        let ca = certificate::der(&signed.certificate_chain[2]).expect("PEM");
        assert!(ca.windows(root.len()).any(|part| part == root), "{ask}");
    }
}

#[tokio::test]
async fn records_receipts_and_the_inventory_say_the_epochs() {
    let (world, app) = rotated_world().await;
    says(&world, &app, &json!({ "rootEpoch": "current", "appEpoch": 4_000_000_000_u32 }));
    let caller = guest(&world, &app).await;
    let keys: AppKeyResponse = caller.json("GetAppKey", json!({})).await.message();
    assert_eq!(epochs(&keys), (Some(1), Some(4_000_000_000)));
    let receipt = keys.receipt.as_ref().expect("a receipt");
    let entry: Value = serde_json::from_slice(&receipt.entry).expect("JSON");
    assert_eq!(entry["epochs"], "1.4000000000");
    // A tree of 10 million leaves: 24 hashes, and an index and a size of 8 digits.
    let length = prost::Message::encoded_len(receipt) + 24 * 32 - receipt.proof.len() + 16;
    println!("{length} bytes");
    assert!(length <= 2048, "{length}");

    let admin = Operator::of(&world).await;
    let get = async |path: &str| admin.get(path).await;
    let cvm = eventually("the CVM in the inventory", async || {
        let list = get("/api/v1/cvms").await.value();
        list["cvms"].as_array()?.iter().find(|cvm| cvm["epochs"] == "1.4000000000").cloned()
    })
    .await;
    assert_eq!(cvm["app_id"], hex::encode(app.app_id()));
}

#[tokio::test]
async fn a_request_for_epochs_without_keys_for_the_app_is_refused_by_its_own_code_and_explained() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    // 0 retired, 1 and 2 active, 3 prepared.
    let stopped = Stopped::of(&mut world).await;
    stopped.rotate().await;
    stopped.rotate().await;
    stopped.prepare().await;
    stopped.retire(0).await;
    drop(stopped);
    world.start().await.expect("it starts again");
    let operator = Operator::of(&world).await;
    let caller = guest(&world, &app).await;
    let (none, current) = (json!({}), json!({ "rootEpoch": "current" }));
    let listed = json!({ "rootEpoch": 2, "readableEpochs": [] });
    for (entry, ask, code, text, remedy) in [
        (&none, json!({}), "epoch_retired", "root epoch 0 is retired", "kmsctl epoch follow"),
        (
            &current,
            json!({ "root_epoch": 0 }),
            "epoch_retired",
            "root epoch 0 is retired",
            "kmsctl epoch follow",
        ),
        (
            &current,
            json!({ "root_epoch": 3 }),
            "epoch_not_active",
            "root epoch 3 is not active yet",
            "epoch activate",
        ),
        (&current, json!({ "root_epoch": 9 }), "epoch_unknown", "there is no root epoch 9", "GetMeta"),
        (
            &current,
            json!({ "app_epoch": 1 }),
            "epoch_too_new",
            "epoch 2.1 is newer than epoch 2.0",
            "appEpoch",
        ),
        (&listed, json!({ "root_epoch": 1 }), "epoch_not_readable", "may not be read", "readableEpochs"),
    ] {
        world.allowlist.change(|rules| {
            let entry = rules["apps"][hex::encode(app.app_id())].as_object_mut().expect("an entry");
            entry.retain(|key, _| !key.ends_with("Epoch") && key != "readableEpochs");
        });
        says(&world, &app, entry);
        let answer = caller.json("GetAppKey", ask.clone()).await;
        let said = answer.value();
        assert_eq!((answer.status, &said["code"]), (403, &json!(code)), "{entry} {ask} {said}");
        let error = said["error"].as_str().expect("a text");
        assert!(error.starts_with("App not allowed: Boot denied: ") && error.contains(text), "{error}");
        // Certificates are refused alike.
        let mut wish = certificate_request(&app, &P256Key::generate());
        wish.as_object_mut().expect("fields").extend(ask.as_object().expect("fields").clone());
        assert_eq!(world.caller().json("SignCert", wish).await.value()["code"], code, "{ask}");
        // By the id of the denial, and by evidence with the same epochs.
        let denial_id = said["denial_id"].as_str().expect("an id").to_owned();
        let number = |key: &str| ask[key].as_u64().map(|number| number as u32);
        let evidence = app.evidence(ReportData::ZERO).encode();
        let (root_epoch, app_epoch) = (number("root_epoch"), number("app_epoch"));
        for question in [
            ExplainRequest { denial_id, ..Default::default() },
            ExplainRequest { evidence, root_epoch, app_epoch, ..Default::default() },
        ] {
            let explained = operator.explain(question).await;
            assert_eq!((&*explained.verdict, &*explained.code), ("denied", code), "{ask}");
            assert!(
                explained.remedies.iter().any(|it| it.code == code && it.sentence.contains(remedy)),
                "{explained:?}"
            );
        }
    }
    // Anyone's public keys of such epochs are refused too.
    let id = hex::encode(app.app_id());
    for (epoch, text) in [(0, "is retired"), (3, "is not active yet"), (9, "there is no root epoch 9")] {
        let ask = json!({ "app_id": id, "root_epoch": epoch });
        let (status, error) = world.caller().json("GetAppEnvEncryptPubKey", ask).await.refusal();
        assert!(status == 403 && error.contains(text), "{status} {error}");
        let ask =
            AppIdMessage { app_id: app.app_id().to_vec(), root_epoch: Some(epoch), ..Default::default() };
        let status = world.caller().grpc().await.get_app_env_encrypt_pub_key(ask).await.expect_err("refused");
        assert!(status.message().contains(text), "{status}");
    }
}

#[tokio::test]
async fn the_policy_must_still_allow_the_caller_for_an_older_epoch() {
    let (world, app) = rotated_world().await;
    says(&world, &app, &json!({ "rootEpoch": "current" }));
    let caller = guest(&world, &app).await;
    assert_eq!(caller.json("GetAppKey", json!({ "root_epoch": 0 })).await.status, 200);
    says(&world, &app, &json!({ "composeHashes": [] }));
    for ask in [json!({}), json!({ "root_epoch": 0 }), json!({ "root_epoch": 1 }), json!({ "root_epoch": 7 })]
    {
        let answer = caller.json("GetAppKey", ask).await;
        assert_eq!((answer.status, &answer.value()["code"]), (403, &json!("compose_hash_not_allowed")));
    }
}

#[tokio::test]
async fn an_operators_choice_counts_until_the_policy_says_otherwise() {
    let (world, app) = rotated_world().await;
    let path = format!("/api/v1/epochs/apps/{}", hex::encode(app.app_id()));
    let body = json!({ "root_epoch": "current", "app_epoch": 2 });
    done(&world, "PUT", &path, body).await;
    let caller = guest(&world, &app).await;
    let used = async || epochs(&caller.json("GetAppKey", json!({})).await.message());
    assert_eq!(used().await, (Some(1), Some(2)));
    says(&world, &app, &json!({ "rootEpoch": 0 }));
    assert_eq!(used().await, (Some(0), Some(2)));
    says(&world, &app, &json!({ "appEpoch": 0 }));
    assert_eq!(used().await, (None, None));
}

#[tokio::test]
async fn a_replica_that_can_store_one_epoch_gets_none_of_several() {
    let (world, _) = rotated_world().await;
    let kms = world.caller().shows(&world.attested(&world.cvm).await);
    let (status, error) = kms.json("GetKmsKey", json!({})).await.refusal();
    assert!(status == 400 && error.contains("more than one epoch of root keys"), "{status} {error}");
    assert!(world.audited("kms_key_released").is_empty());
    let keys: KmsKeyResponse = kms.json("GetKmsKey", json!({ "epochs": true })).await.message();
    let handed: Vec<_> = keys.epochs.iter().map(|epoch| (epoch.number, epoch.state.as_str())).collect();
    assert_eq!(handed, [(0, "active"), (1, "active")]);
    assert_eq!((keys.keys.len(), keys.identity_epoch), (1, None));
    let shown = world.meta().await.epochs;
    for (handed, shown) in keys.epochs.iter().zip(&shown) {
        assert_eq!((&handed.ca_pubkey, &handed.k256_pubkey), (&shown.ca_pubkey, &shown.k256_pubkey));
        let ca = P256Key::from_pem(&handed.ca_key).expect("a key");
        assert_eq!(ca.spki_der().to_vec(), handed.ca_pubkey);
    }
    assert_eq!(keys.keys[0].ca_key, keys.epochs[0].ca_key);
}

//! The audit log for outside verifiers: receipts, the key that signs it, and which caller may read which
//! route.

use kms_attest::p256::P256Key;
use kms_ledger::log::Log;
use kms_ledger::proof::InclusionProof;
use kms_ledger::tile::{Width, hashes};
use kms_ledger::{Hash, Index, bundle};
use kms_simulator::Cvm;
use secp256k1::Message;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use serde_json::{Value, json};
use sha2::Sha256;
use sha3::{Digest as _, Keccak256};

use crate::support::http::{request, with};
use crate::support::{ADMIN_TOKEN, Answer, Caller, World, certificate_request, eventually};
use cvm_kms::proto::{
    AppKeyResponse, GetAppKeyRequest, GetMetaResponse, KmsKeyResponse, Receipt, SignCertResponse,
};

/// The record in a receipt, after every verification that a caller can make.
async fn proven(world: &World, receipt: Option<&Receipt>) -> Value {
    let (meta, receipt) = (world.meta().await, receipt.expect("a receipt"));
    let text = format!("cvm-kms-log-key-v1:{}", meta.log_key);
    let (signature, recovery) = meta.log_key_signature.split_at(64);
    let recovery = RecoveryId::try_from(i32::from(recovery[0])).expect("recovery id");
    let signature = RecoverableSignature::from_compact(signature, recovery).expect("signature");
    let signer =
        signature.recover_ecdsa(Message::from_digest(Keccak256::digest(text).into())).expect("a key");
    assert_eq!(signer.serialize().to_vec(), meta.k256_pubkey, "the root key vouches for the log's key");

    let log = Log::of_key(meta.log_key.parse().expect("a verifier key")).expect("an origin");
    let signed = log.open(receipt.checkpoint.as_bytes(), &[]).expect("a signed checkpoint");
    let proof = receipt.proof.chunks(Hash::LEN).map(|hash| hash.try_into().expect("32 bytes")).collect();
    let (tree, index) = (signed.checkpoint(), Index::try_from(receipt.index).expect("an index"));
    InclusionProof::from_hashes(proof)
        .verify(&receipt.entry, index, tree.size, &tree.root)
        .expect("the entry is in the tree");
    serde_json::from_slice(&receipt.entry).expect("JSON")
}

fn origin(meta: &GetMetaResponse) -> String {
    meta.log_key.split('+').next().expect("a name").to_owned()
}

#[tokio::test]
async fn every_release_comes_with_a_receipt_that_leads_from_the_root_key_to_its_record() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let identity = world.attested(&app).await;
    let caller = world.caller().shows(&identity);
    let request = GetAppKeyRequest { api_version: 1, ..Default::default() };
    let answers: [AppKeyResponse; 3] = [
        caller.json("GetAppKey", json!({})).await.message(),
        caller.protobuf("GetAppKey", &request).await.decoded(),
        caller.grpc().await.get_app_key(request).await.expect("keys").into_inner(),
    ];
    let mut places = Vec::new();
    for keys in &answers {
        let entry = proven(&world, keys.receipt.as_ref()).await;
        assert_eq!(entry["event"], "app_key_released");
        assert_eq!(entry["app_id"], hex::encode(app.app_id()));
        places.push(keys.receipt.as_ref().expect("a receipt").index);
    }
    assert!(places.is_sorted() && places[0] < places[2]);
    let receipt = answers[0].receipt.as_ref().expect("a receipt");
    let entry = proven(&world, Some(receipt)).await;
    let key = identity.spki_sha256();
    says_who_and_by_which_rules(&world, &entry, &app, &key);
    // A tree of 10 million leaves: 24 hashes, and an index and a size of 8 digits.
    let path = 24 * Hash::LEN;
    let length = prost::Message::encoded_len(receipt) + path - receipt.proof.len() + 16;
    assert!(length < 2048, "{length}");

    let kms = world.caller().shows(&world.attested(&world.cvm).await);
    let keys: KmsKeyResponse = kms.json("GetKmsKey", json!({})).await.message();
    assert_eq!(proven(&world, keys.receipt.as_ref()).await["event"], "kms_key_released");

    let key = P256Key::generate();
    let signed: SignCertResponse =
        world.caller().json("SignCert", certificate_request(&app, &key)).await.message();
    let entry = proven(&world, signed.receipt.as_ref()).await;
    assert_eq!(entry["event"], "certificate_issued");
    assert_eq!(entry["app_id"], hex::encode(app.app_id()));
    says_who_and_by_which_rules(&world, &entry, &app, &Sha256::digest(key.spki_der()));
}

/// The measurement, the caller's key, and the allowlist that decided.
fn says_who_and_by_which_rules(world: &World, entry: &Value, app: &Cvm, key: &[u8]) {
    assert_eq!(entry["mr_aggregated"], hex::encode(app.mr_aggregated()));
    assert_eq!(entry["spki_sha256"], hex::encode(key));
    let file = std::fs::read(world.allowlist.path()).expect("the allowlist");
    assert_eq!(entry["policy_sha256"], sha256(&file));
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[tokio::test]
async fn a_denial_names_the_key_of_the_caller_and_the_rules_that_decided() {
    let world = World::ready().await;
    let app = world.app(1);
    let identity = world.attested(&app).await;
    let caller = world.caller().shows(&identity);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 403);
    let denied = eventually("a denial", async || world.audited("denied").pop()).await;
    says_who_and_by_which_rules(&world, &denied, &app, &identity.spki_sha256());
    assert_eq!(denied["policy"], "allowlist");
    let system = hex::decode(denied["mr_system"].as_str().expect("a measurement")).expect("hex");
    assert_eq!(system.len(), 32);
    assert_ne!(system, app.mr_aggregated());
}

#[tokio::test]
async fn each_start_of_the_process_has_a_boot_id() {
    let mut world = World::ready().await;
    let ids = |world: &World| -> Vec<String> {
        let started = world.audited("started");
        started.iter().map(|line| line["boot_id"].as_str().expect("a boot id").to_owned()).collect()
    };
    world.start().await.expect("the KMS starts again");
    let ids =
        eventually("a second boot", async || Some(ids(&world)).filter(|ids| ids.first() != ids.last())).await;
    assert!(world.audited("started").iter().all(|line| line["policy"] == "allowlist"));
    assert!(ids.iter().all(|id| hex::decode(id).is_ok_and(|id| id.len() == 16)), "{ids:?}");
}

#[tokio::test]
async fn a_log_keeps_its_name_over_a_restart_and_another_node_has_another() {
    let (mut world, other) = (World::ready().await, World::ready().await);
    let before = world.meta().await;
    world.start().await.expect("the KMS starts again");
    assert_eq!(world.meta().await.log_key, before.log_key);
    assert!(
        origin(&before).starts_with(&format!("{}/cvm-kms/", crate::support::DOMAIN)),
        "{}",
        before.log_key
    );
    assert_ne!(origin(&other.meta().await), origin(&before));
}

async fn read(caller: &Caller, path: &str) -> Answer {
    caller.send(request("GET", path, "")).await
}

#[tokio::test]
async fn anyone_reads_hashes_and_operators_read_entries() {
    let world = World::ready().await;
    let anyone = world.caller();
    let checkpoint = read(&anyone, "/log/checkpoint").await;
    assert_eq!(checkpoint.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(checkpoint.header("cache-control"), "no-cache");
    let log = Log::of_key(world.meta().await.log_key.parse().expect("a key")).expect("an origin");
    let signed = log.open(&checkpoint.body, &[]).expect("a signed checkpoint");
    let size = signed.checkpoint().size.get();
    assert!((1..256).contains(&size), "{size}");
    let path = format!("0/000.p/{size}");
    let tile = read(&anyone, &format!("/log/tile/{path}")).await;
    assert_eq!(tile.header("content-type"), "application/octet-stream");
    assert_eq!(tile.header("cache-control"), "public, max-age=604800, immutable");
    let width = Width::new(size).expect("a width");
    let leaves = hashes(&tile.body, width).expect("a tile");

    let entries = format!("/log/tile/entries/000.p/{size}");
    let refused = read(&anyone, &entries).await;
    assert_eq!(refused.status, 403);
    assert!(String::from_utf8_lossy(&refused.body).contains("admin listener"));
    for (path, status) in [
        (format!("/log/tile/0/000.p/{}", size + 100), 404),
        ("/log/tile/0/001".to_owned(), 404),
        ("/log/tile/64/000".to_owned(), 404),
        ("/log/tile/0/000.p/0".to_owned(), 404),
        ("/log/tile/0/../0/000".to_owned(), 404),
        (format!("/log/tile/{}", "0/".repeat(1000)), 404),
        ("/log/".to_owned(), 404),
    ] {
        assert_eq!(read(&anyone, &path).await.status, status, "{path:.60}");
    }

    let admin = Caller::new(world.admin_address().await).plain();
    assert_eq!(read(&admin, &entries).await.status, 401);
    let authorization = format!("Bearer {ADMIN_TOKEN}");
    let bundle = admin.send(with(request("GET", &entries, ""), "authorization", &authorization)).await;
    assert_eq!(bundle.header("cache-control"), "private, max-age=604800, immutable");
    let entries = bundle::verified_entries(&bundle.body, &leaves).expect("the entries of the tile");
    let records = world.audit();
    for (entry, record) in entries.iter().zip(&records) {
        let mut record = record.clone();
        record.as_object_mut().expect("a record").remove("hash");
        assert_eq!(serde_json::from_slice::<Value>(entry).expect("JSON"), record);
    }
}

#[tokio::test]
async fn a_log_that_was_rolled_back_releases_nothing_and_says_so() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let identity = world.attested(&app).await;
    for _ in 0..3 {
        let keys = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
        assert_eq!(keys.status, 200);
    }
    let released = world.audited("app_key_released").len();
    world.stop().await;
    let file = world.key_file("audit.jsonl");
    let text = std::fs::read_to_string(&file).expect("audit log");
    let older: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&file, older[..older.len() - 4].concat()).expect("written");
    world.start().await.expect("the KMS starts");
    let refused = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
    assert_eq!(refused.status, 503);
    let ready = read(&world.caller(), "/readyz").await;
    assert!(String::from_utf8_lossy(&ready.body).contains("audit_log_unavailable"));
    assert_eq!(read(&world.caller(), "/log/checkpoint").await.status, 503);
    world.stop().await;
    std::fs::write(&file, text).expect("written");
    world.start().await.expect("the KMS starts");
    let keys = world.caller().shows(&identity).json("GetAppKey", json!({})).await;
    assert_eq!(keys.status, 200);
    assert_eq!(world.audited("app_key_released").len(), released + 1);
}

//! Officers restore the root keys of a KMS.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use std::time::Duration;

use crate::support::faults::{Fault, FaultServer, Reply};
use crate::support::http::{post, with};
use crate::support::recovery::{Officers, subsets};
use crate::support::{ADMIN_TOKEN, Answer, Caller, DOMAIN, World, eventually};
use cvm_kms::keys::epoch::RootEpoch;
use cvm_kms::keys::keyring::{EpochChange, Keyring};
use cvm_kms::keys::{RootKeys, material};
use cvm_kms::proto::AppKeyResponse;
use cvm_kms::store::{KeyDirectory, Permissions, State};
use kms_attest::clock::unix_now;
use serde_json::{Value, json};

const OPEN: &str = "/recovery/restore";
const SHARES: &str = "/recovery/shares";
const CANCEL: &str = "/recovery/cancel";
const STATUS: &str = "/recovery";

/// A KMS that may be restored, and its officers.
struct Ceremony {
    world: World,
    officers: Officers,
}

impl Ceremony {
    async fn of(officers: Officers) -> Self {
        Self { world: World::onboarding().await, officers }
    }

    async fn open(&self) -> Answer {
        self.caller().send(post(OPEN, self.officers.manifest())).await
    }

    fn caller(&self) -> Caller {
        self.world.caller()
    }

    async fn send(&self, index: usize) -> Answer {
        self.caller().send(post(SHARES, self.officers.share(index))).await
    }

    async fn status(&self) -> Value {
        let answer = self.caller().get(STATUS).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.value()
    }

    /// Nothing of the keys, of the shares or of the restore is on the disk.
    fn nothing_is_kept(&self) {
        let certs = self.world.path("certs");
        let kept: Vec<String> = names(&certs)
            .into_iter()
            .filter(|name| !name.starts_with("audit.jsonl") && !name.starts_with("collateral-floors.json"))
            .collect();
        assert!(kept.iter().all(|name| !name.contains("key") && !name.starts_with('.')), "{kept:?}");
        for file in ["root-ca.key", "root-k256.key", "tmp-ca.key", "rpc.key", "rpc-domain"] {
            assert!(!certs.join(file).exists(), "{file}");
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

/// Code and text of an error of a route.
fn told(answer: &Answer) -> (u16, String, String) {
    let text = answer.value()["error"].as_str().unwrap_or_default().to_owned();
    (answer.status, answer.header("x-error-code").to_owned(), text)
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, text: &str) {
    let (found, reason, message) = told(answer);
    assert_eq!((found, &*reason), (status, code), "{message}");
    assert!(message.contains(text), "{message}");
}

/// The keys of one app, as a guest gets them.
async fn app_keys(world: &World) -> AppKeyResponse {
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    let answer = caller.json("GetAppKey", json!({ "api_version": 1 })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.message()
}

async fn env_key(world: &World) -> Value {
    let answer = world.caller().json("GetAppEnvEncryptPubKey", json!({ "app_id": "01".repeat(20) })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.value()["public_key"].clone()
}

#[tokio::test]
async fn a_restored_kms_hands_out_the_same_keys() {
    let lost = World::ready().await;
    let (keys, env, before) = (app_keys(&lost).await, env_key(&lost).await, lost.meta().await);
    let ceremony = Ceremony::of(Officers::of(&lost.root_keys(), 2, 3)).await;
    drop(lost);
    let opened = ceremony.open().await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    let open = &opened.value()["ceremony"];
    assert_eq!(
        (&open["purpose"], &open["threshold"], &open["received"]),
        (&json!("restore"), &json!(2), &json!(0))
    );
    // What officers send to.
    let told = opened.value();
    assert_eq!((&told["plan"]["domain"], &told["plan"]["epochs"]), (&json!(DOMAIN), &json!([0])));
    let kms = &told["kms"];
    assert_eq!(
        (&kms["policy"], kms["policy_digest"].as_str().map(str::len)),
        (&json!("allowlist"), Some(64))
    );
    assert!(kms["relaxed"].is_array(), "{kms}");
    assert_eq!(ceremony.send(3).await.status, 200);
    let last = ceremony.send(1).await;
    assert_eq!(last.status, 200, "{}", last.text());
    let restored = last.value()["restored"].clone();
    assert_eq!(restored["officers"], json!(["officer-3", "officer-1"]));
    assert_eq!(restored["epochs"][0]["k256_pubkey"], hex::encode(&before.k256_pubkey));
    assert_eq!(ceremony.status().await["restored"], restored, "it is still told");
    let world = &ceremony.world;
    let line = &world.audited("keys_restored")[0];
    assert_eq!((&line["set"], &line["domain"]), (&json!(ceremony.officers.number()), &json!(DOMAIN)));
    let sha256 = hex::encode(ceremony.officers.set.manifest.manifest().sha256());
    assert_eq!((&line["manifest_sha256"], line.get("ledger_origin")), (&json!(sha256), None));
    world.finish().await;
    let (again, after) = (app_keys(world).await, world.meta().await);
    assert!(again.disk_crypt_key == keys.disk_crypt_key && again.env_crypt_key == keys.env_crypt_key);
    assert!(again.k256_key == keys.k256_key && again.k256_signature == keys.k256_signature);
    assert_eq!(env_key(world).await, env);
    assert_eq!((after.k256_pubkey, after.bootstrap_info), (before.k256_pubkey, None));
    let spki = |pem: &str| kms_attest::ra_tls::spki_of(&der(pem)).expect("a key");
    assert_eq!(spki(&after.ca_cert), spki(&before.ca_cert), "one root for all certificates");
    assert_eq!(spki(&again.ca_cert), spki(&keys.ca_cert));
}

#[tokio::test]
async fn epochs_chosen_for_apps_come_back_as_of_the_set_and_unknown_choices_restore_nothing() {
    let root = RootKeys::generate();
    let keyring = |root: &RootKeys| {
        let copy = |key: &kms_attest::p256::P256Key| {
            kms_attest::p256::P256Key::from_scalar(key.scalar()).expect("a key")
        };
        let k256 = cvm_kms::keys::K256Key::from_scalar(root.k256().scalar()).expect("a key");
        Keyring::first(RootKeys::from_parts(copy(root.ca()), copy(root.temp_ca()), k256))
    };
    let app = "01".repeat(20);
    let of = |choices: String| {
        Officers::with_choices(&keyring(&root), Some(choices.as_bytes()), 2, 3, 1_700_000_000)
    };
    let newer = Ceremony::of(of(r#"{"version":1,"orbits":{"a":1}}"#.to_owned())).await;
    assert_eq!(newer.open().await.status, 200);
    assert_eq!(newer.send(1).await.status, 200);
    refused(&newer.send(2).await, 400, "set_unusable", "update this KMS first");
    newer.nothing_is_kept();

    let ceremony = Ceremony::of(of(format!(r#"{{"version":1,"app_epochs":{{"{app}":"current.3"}}}}"#))).await;
    assert_eq!(ceremony.open().await.status, 200);
    assert_eq!(ceremony.send(1).await.status, 200);
    ceremony.nothing_is_kept();
    assert!(!ceremony.world.key_file("app-epochs.json").exists(), "nothing is left before the threshold");
    let last = ceremony.send(2).await;
    assert_eq!(last.status, 200, "{}", last.text());
    let restored = last.value()["restored"].clone();
    assert_eq!(
        (&restored["made_at"], &restored["apps_with_epochs"]),
        (&json!("2023-11-14T22:13:20Z"), &json!(1))
    );
    let world = &ceremony.world;
    let line = &world.audited("keys_restored")[0];
    assert_eq!((&line["made_at"], &line["apps_with_epochs"]), (&json!(1_700_000_000), &json!(1)));
    let line = &world.audited("app_epoch_set")[0];
    assert_eq!((&line["app_id"], &line["app_epoch"]), (&json!(app), &json!(3)));
    assert_eq!(line["source"], format!("recovery set {}", ceremony.officers.number()));
    world.finish().await;
    let answer = world.caller().json("GetAppEnvEncryptPubKey", json!({ "app_id": app })).await;
    assert_eq!((&answer.value()["root_epoch"], &answer.value()["app_epoch"]), (&json!(0), &json!(3)));
}

fn der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec()
}

#[tokio::test]
async fn every_three_of_five_restore_and_every_two_restore_nothing() {
    let root = RootKeys::generate();
    for chosen in subsets(5, 3) {
        let ceremony = Ceremony::of(Officers::of(&root, 3, 5)).await;
        assert_eq!(ceremony.open().await.status, 200);
        for (count, index) in chosen.iter().enumerate() {
            ceremony.nothing_is_kept();
            let answer = ceremony.send(*index).await;
            assert_eq!(answer.status, 200, "{chosen:?}: {}", answer.text());
            if count < 2 {
                assert_eq!(answer.value()["ceremony"]["received"], count + 1, "{chosen:?}");
            }
        }
        let restored = ceremony.world.root_keys();
        assert!(restored.ca().scalar() == root.ca().scalar(), "{chosen:?}");
        assert!(restored.k256().scalar() == root.k256().scalar(), "{chosen:?}");
        assert!(restored.temp_ca().scalar() == root.temp_ca().scalar(), "{chosen:?}");
    }
    let ceremony = Ceremony::of(Officers::of(&root, 3, 5)).await;
    for chosen in subsets(5, 2) {
        assert_eq!(ceremony.open().await.status, 200);
        for index in &chosen {
            assert_eq!(ceremony.send(*index).await.status, 200);
        }
        assert_eq!(ceremony.status().await["ceremony"]["received"], 2, "{chosen:?}");
        ceremony.nothing_is_kept();
        let finished = ceremony.caller().plain().get("/finish").await;
        assert_eq!(finished.status, 503, "{}", finished.text());
        assert_eq!(ceremony.caller().send(post(CANCEL, "")).await.value()["ceremony"], Value::Null);
    }
    assert_eq!(ceremony.world.audited("restore_cancelled").len(), 10);
    assert!(ceremony.world.audited("keys_restored").is_empty());
}

#[tokio::test]
async fn the_keys_of_every_epoch_come_back_with_their_states() {
    let first = Keyring::first(RootKeys::generate());
    let (made, now) = (unix_now() - 1000, unix_now());
    let new = first.new_epoch(made).expect("a second");
    let keyring = first.after(EpochChange::Prepare(&new), made).expect("prepared");
    let active = EpochChange::Activate { epoch: RootEpoch(1), at: made + 10 };
    let keyring = keyring.after(active, made).expect("activated");
    let new = keyring.new_epoch(made + 20).expect("a third");
    let with_three = keyring.after(EpochChange::Prepare(&new), made + 20).expect("prepared");
    let without_first = with_three.after(EpochChange::Retire(RootEpoch(0)), made + 30).expect("retired");
    let without_first =
        without_first.after(EpochChange::Destroy(RootEpoch(0)), made + 40).expect("destroyed");
    for keyring in [with_three, without_first] {
        let mut ceremony = Ceremony::of(Officers::of_keyring(&keyring, 2, 3, now)).await;
        assert_eq!(ceremony.open().await.status, 200);
        for index in [1, 2] {
            let answer = ceremony.send(index).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        assert_eq!(ceremony.status().await["restored"]["epochs"].as_array().map(Vec::len), Some(3));
        ceremony.world.finish().await;
        let signer = keyring.epoch(keyring.identity(now)).expect("an epoch").public().k256;
        assert_eq!(ceremony.world.meta().await.k256_pubkey, signer);
        ceremony.world.stop().await;
        let directory =
            KeyDirectory::open(&ceremony.world.path("certs"), Permissions::OwnerOnly).expect("opens");
        let State::Complete(stored) = directory.state().expect("readable") else { panic!("complete") };
        assert!(
            material::export(&stored.keyring, None) == material::export(&keyring, None),
            "every key and every state"
        );
    }
}

#[tokio::test]
async fn every_bad_share_is_named_and_changes_nothing() {
    let root = RootKeys::generate();
    let (ceremony, other) = (Ceremony::of(Officers::of(&root, 2, 3)).await, Officers::of(&root, 2, 3));
    refused(&ceremony.send(1).await, 409, "no_ceremony", "no restore is open here");
    assert_eq!(ceremony.open().await.status, 200);
    let mut line = ceremony.caller().connect().await.expect("a connection");
    let share = ceremony.officers.share(1);
    let altered = |name: &str, value: Value| {
        let mut share: Value = serde_json::from_str(&share).expect("JSON");
        share[name] = value;
        share.to_string()
    };
    for (body, status, code, text) in [
        (other.share(1), 409, "share_of_other_set", "the share of officer-1 is of the set"),
        (altered("index", json!(2)), 400, "share_wrong", "index 2 is of officer-2"),
        (altered("index", json!(9)), 400, "share_wrong", "the share of officer-1 says that it has index 9"),
        (altered("officer", json!("officer-2")), 400, "share_wrong", "but index 1 is of officer-1"),
        (altered("version", json!(2)), 400, "share_wrong", "version 2"),
        (altered("share", json!("ff".repeat(32))), 400, "share_wrong", "the share of officer-1"),
        (altered("extra", json!(1)), 400, "share_wrong", "not a share of a recovery set"),
        (String::new(), 400, "share_wrong", "not a share of a recovery set"),
    ] {
        refused(&line.send(post(SHARES, body)).await, status, code, text);
    }
    // Each hexadecimal digit of the secret.
    let secret = ceremony.officers.secret(1);
    for at in 0..secret.len() {
        let mut digits = secret.clone().into_bytes();
        digits[at] = if digits[at] == b'0' { b'1' } else { b'0' };
        let body = altered("share", json!(String::from_utf8(digits).expect("digits")));
        // An address may send twenty wrong shares.
        let address = IpAddr::from([127, 0, 1, u8::try_from(at / 16).expect("few")]);
        let caller = ceremony.caller().from(address);
        refused(
            &caller.send(post(SHARES, body)).await,
            400,
            "share_wrong",
            "the share of officer-1 (index 1) is wrong",
        );
    }
    let mut digits = secret.clone().into_bytes();
    digits[63] = if digits[63] == b'0' { b'1' } else { b'0' };
    let wrong = altered("share", json!(String::from_utf8(digits).expect("digits")));
    let flooding = ceremony.caller().from(IpAddr::from([127, 0, 2, 1]));
    let mut flood = flooding.connect().await.expect("a connection");
    let mut answer = flood.send(post(SHARES, wrong.clone())).await;
    for _ in 0..200 {
        if answer.status == 429 {
            break;
        }
        answer = flood.send(post(SHARES, wrong.clone())).await;
    }
    refused(&answer, 429, "too_many_wrong_shares", "too many wrong shares came from this address");
    // Others may read along there.
    let plain = ceremony.caller().plain().send(post(SHARES, share.clone())).await;
    refused(&plain, 400, "tls_needed", "over TLS only");
    assert_eq!(ceremony.status().await["ceremony"]["received"], 0);
    assert_eq!(ceremony.send(1).await.status, 200);
    refused(&ceremony.send(1).await, 409, "share_repeated", "the share of officer-1 (index 1) is in already");
    ceremony.nothing_is_kept();
}

#[tokio::test]
async fn an_altered_manifest_is_refused_wherever_it_was_altered() {
    let ceremony = Ceremony::of(Officers::of(&RootKeys::generate(), 2, 3)).await;
    let manifest = ceremony.officers.manifest().into_bytes();
    let mut line = ceremony.caller().connect().await.expect("a connection");
    // The crate of recovery sets has a test of every byte; this one is about the whole way.
    for at in (0..manifest.len()).step_by(41) {
        let mut altered = manifest.clone();
        altered[at] ^= 1;
        refused(&line.send(post(OPEN, altered)).await, 400, "manifest_wrong", "manifest");
    }
    refused(&line.send(post(OPEN, "{}")).await, 400, "manifest_wrong", "not a manifest of a recovery set");
    assert_eq!(ceremony.status().await["ceremony"], Value::Null);
    ceremony.nothing_is_kept();
}

#[tokio::test]
async fn two_officers_at_once_and_a_manifest_sent_again_do_no_harm() {
    let root = RootKeys::generate();
    let ceremony = Ceremony::of(Officers::of(&root, 3, 5)).await;
    let (first, second) = tokio::join!(ceremony.open(), ceremony.open());
    assert_eq!((first.status, second.status), (200, 200), "{} {}", first.text(), second.text());
    assert_eq!(ceremony.world.audited("restore_opened").len(), 1, "both opened the same");
    // An operator who starts kmsctl again sends the manifest again.
    assert_eq!(ceremony.send(2).await.status, 200);
    assert_eq!(ceremony.open().await.value()["ceremony"]["received"], 1);
    let renamed = post(&format!("{OPEN}?domain=new.example"), ceremony.officers.manifest());
    let open_for = format!("a restore of the set {} for {DOMAIN} is open", ceremony.officers.number());
    refused(&ceremony.caller().send(renamed).await, 409, "restore_open", &open_for);
    let other = Officers::of(&root, 2, 2);
    let answer = ceremony.caller().send(post(OPEN, other.manifest())).await;
    refused(
        &answer,
        409,
        "restore_open",
        &format!("a restore of the set {} is open", ceremony.officers.number()),
    );
    let (first, second) = tokio::join!(ceremony.send(4), ceremony.send(5));
    assert_eq!((first.status, second.status), (200, 200), "{} {}", first.text(), second.text());
    assert_eq!(ceremony.world.root_keys().k256_public(), root.k256_public());
    assert_eq!(ceremony.world.audited("keys_restored").len(), 1);
    refused(&ceremony.send(1).await, 409, "no_ceremony", "no restore is open");
    refused(&ceremony.open().await, 400, "already_onboarded", "already been onboarded");
}

#[tokio::test]
async fn while_officers_restore_there_is_no_other_way_to_keys() {
    let source = World::ready().await;
    let ceremony = Ceremony::of(Officers::of(&RootKeys::generate(), 2, 2)).await;
    assert_eq!(ceremony.open().await.status, 200);
    let url = format!("https://{}", source.address());
    let caller = ceremony.caller().plain();
    for (method, body) in [
        ("Bootstrap", json!({ "domain": DOMAIN })),
        ("Onboard", json!({ "source_url": url, "domain": DOMAIN })),
    ] {
        let (status, text) = caller.json(method, body).await.refusal();
        assert_eq!(status, 409, "{text}");
        assert!(text.contains("0 of 2 shares are in; cancel the restore first"), "{text}");
    }
    ceremony.nothing_is_kept();
    let setup = caller.get("/api/v1/setup/status").await.value();
    assert_eq!((&setup["mode"], &setup["next"][0]["step"]), (&json!("onboarding"), &json!("share")));
    assert_eq!(setup["restore"]["ceremony"]["set"], ceremony.officers.number());
    assert_eq!(caller.send(post(CANCEL, "")).await.status, 200);
    ceremony.world.bootstrap().await;
    refused(&ceremony.open().await, 400, "already_onboarded", "already been onboarded");
}

#[tokio::test]
async fn the_policy_must_allow_the_kms_before_it_takes_a_share_and_when_it_saves_the_keys() {
    let root = RootKeys::generate();
    let ceremony = Ceremony::of(Officers::of(&root, 2, 2)).await;
    let world = &ceremony.world;
    let allowed = fs::read_to_string(world.allowlist.path()).expect("the allowlist");
    world.allowlist.write(&json!({}));
    refused(&ceremony.open().await, 403, "kms_not_allowed", "KMS is not allowed to restore");
    assert!(world.audited("restore_opened").is_empty());
    world.allowlist.write_text(&allowed);
    assert_eq!(ceremony.open().await.status, 200);
    world.allowlist.write(&json!({}));
    refused(&ceremony.send(1).await, 403, "kms_not_allowed", "KMS is not allowed to restore");
    assert_eq!(ceremony.status().await["ceremony"]["received"], 0);
    world.allowlist.write_text(&allowed);
    assert_eq!(ceremony.send(1).await.status, 200);
    world.allowlist.write(&json!({}));
    refused(&ceremony.send(2).await, 403, "kms_not_allowed", "KMS is not allowed to restore");
    ceremony.nothing_is_kept();
    // No share is lost.
    assert_eq!(ceremony.status().await["ceremony"]["received"], 1);
    world.allowlist.write_text(&allowed);
    assert_eq!(ceremony.send(2).await.status, 200);
    assert_eq!(world.root_keys().k256_public(), root.k256_public());
}

#[tokio::test]
async fn a_client_that_disconnects_at_the_last_share_ends_nothing() {
    let root = RootKeys::generate();
    let yes = |_: &_| Reply::json(&json!({ "isAllowed": true, "gatewayAppId": "", "reason": "" }));
    let backend = FaultServer::answering(yes).await;
    let url = backend.url();
    let toml = format!(
        "[core]\nenforce_self_authorization = true\nauth_api.type = \"webhook\"\nauth_api.webhook.url = \"{url}\""
    );
    let ceremony =
        Ceremony { world: World::onboarding_with(&toml).await, officers: Officers::of(&root, 2, 2) };
    assert_eq!(ceremony.open().await.status, 200);
    assert_eq!(ceremony.send(1).await.status, 200);
    backend.suffer(Fault::Slow(Duration::from_secs(2))).await;
    let before = backend.asked().len();
    let (caller, share) = (ceremony.caller(), post(SHARES, ceremony.officers.share(2)));
    let last = tokio::spawn(async move { caller.try_send(share).await });
    eventually("the policy is asked", async || (backend.asked().len() > before).then_some(())).await;
    last.abort();
    assert!(last.await.expect_err("aborted").is_cancelled(), "the client is gone before the answer");
    backend.recover().await;
    let restored = eventually("the restore is told", async || {
        let status = ceremony.status().await;
        (!status["restored"].is_null()).then_some(status)
    })
    .await;
    assert_eq!(
        (&restored["ceremony"], &restored["restored"]["set"]),
        (&Value::Null, &json!(ceremony.officers.number()))
    );
    assert_eq!(ceremony.world.root_keys().k256_public(), root.k256_public());
    // What was done is not recorded as its opposite.
    let cancelled = ceremony.caller().send(post(CANCEL, "")).await;
    refused(&cancelled, 400, "already_onboarded", "already been onboarded");
    assert_eq!(ceremony.world.audited("keys_restored").len(), 1);
    assert!(ceremony.world.audited("restore_cancelled").is_empty());
}

#[tokio::test]
async fn the_onboarding_token_guards_the_manifest_and_not_the_shares() {
    let root = RootKeys::generate();
    let officers = Officers::of(&root, 2, 2);
    let world = World::onboarding_with(&format!(r#"core.onboard.auth_token = "{ADMIN_TOKEN}""#)).await;
    let caller = world.caller();
    let ceremony = Ceremony { world, officers };
    refused(&ceremony.open().await, 401, "unauthenticated", "this KMS asks for its onboarding token");
    let open = post(OPEN, ceremony.officers.manifest());
    let opened = caller.send(with(open, "x-onboard-token", ADMIN_TOKEN)).await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    assert_eq!(ceremony.send(1).await.status, 200, "an officer is no operator");
    assert_eq!(caller.send(post(CANCEL, "")).await.status, 401);
    // A page of another site can do neither.
    let foreign = with(post(OPEN, ceremony.officers.manifest()), "sec-fetch-site", "cross-site");
    let foreign = with(foreign, "x-onboard-token", ADMIN_TOKEN);
    refused(&caller.send(foreign).await, 403, "foreign_page", "a page of another site");
    assert_eq!(ceremony.send(2).await.status, 200);
}

#[tokio::test]
async fn the_keys_get_the_name_that_is_given_or_that_of_the_set() {
    let root = RootKeys::generate();
    for (query, expected) in [("", DOMAIN), ("?domain=new.example", "new.example")] {
        let ceremony = Ceremony::of(Officers::of(&root, 2, 2)).await;
        let caller = ceremony.caller();
        for wrong in ["?domain=", "?domain=a_b", "?name=x", "?domain=a.example&domain=b.example"] {
            let answer = caller.send(post(&format!("{OPEN}{wrong}"), ceremony.officers.manifest())).await;
            assert_eq!(answer.status, 400, "{wrong}: {}", answer.text());
        }
        let opened = caller.send(post(&format!("{OPEN}{query}"), ceremony.officers.manifest())).await;
        assert_eq!(opened.status, 200, "{}", opened.text());
        for index in [1, 2] {
            assert_eq!(ceremony.send(index).await.status, 200);
        }
        let domain = fs::read_to_string(ceremony.world.key_file("rpc-domain")).expect("a domain");
        assert_eq!(domain, expected);
    }
}

#[tokio::test]
async fn a_clock_before_the_set_was_made_is_told() {
    let root = RootKeys::generate();
    let ceremony = Ceremony::of(Officers::made_at(&root, 2, 2, unix_now() + 3600)).await;
    refused(&ceremony.open().await, 409, "clock_behind", "correct the clock");
    // A few minutes are no lie.
    let ceremony = Ceremony::of(Officers::made_at(&root, 2, 2, unix_now() + 60)).await;
    assert_eq!(ceremony.open().await.status, 200);
}

#[tokio::test]
async fn shares_live_in_the_memory_of_one_process_only() {
    let root = RootKeys::generate();
    let mut ceremony = Ceremony::of(Officers::of(&root, 2, 2)).await;
    assert_eq!(ceremony.open().await.status, 200);
    assert_eq!(ceremony.send(1).await.status, 200);
    ceremony.world.start().await.expect("it starts again");
    let mut status = ceremony.status().await;
    assert!(status["kms"].take().is_object(), "what this KMS is");
    assert_eq!(status, json!({ "ceremony": null, "plan": null, "kms": null, "restored": null }));
    refused(&ceremony.send(2).await, 409, "no_ceremony", "no restore is open");
    ceremony.nothing_is_kept();
    assert_eq!(ceremony.open().await.status, 200);
    for index in [2, 1] {
        assert_eq!(ceremony.send(index).await.status, 200);
    }
    ceremony.world.finish().await;
    assert_eq!(ceremony.world.meta().await.k256_pubkey, root.k256_public());
}

#[tokio::test]
async fn no_share_and_no_key_is_in_the_log_of_events_or_in_an_answer() {
    let root = RootKeys::generate();
    let ceremony = Ceremony::of(Officers::of(&root, 2, 3)).await;
    let mut told = vec![ceremony.open().await.text().to_owned()];
    for index in [1, 3] {
        told.push(ceremony.send(index).await.text().to_owned());
    }
    told.push(ceremony.status().await.to_string());
    told.push(fs::read_to_string(ceremony.world.key_file("audit.jsonl")).expect("audit log"));
    for index in 1..=3 {
        let secret = ceremony.officers.secret(index);
        assert!(told.iter().all(|text| !text.contains(&secret)), "the share of officer {index}");
    }
    for scalar in [root.ca().scalar(), root.k256().scalar(), root.temp_ca().scalar()] {
        let digits = hex::encode(&scalar[..]);
        assert!(told.iter().all(|text| !text.contains(&digits)), "a root key");
    }
}

//! Domains: whose keys an app gets, and whose it never gets.

mod faults;
mod handed;
mod run_time;

use std::sync::Arc;

use crate::support::allowlist::AllowlistFile;
use crate::support::operator::Operator;
use crate::support::{Caller, World, certificate_request, eventually};
use cvm_kms::keys::derive::{self, AppAt};
use cvm_kms::keys::epoch::AppEpoch;
use cvm_kms::proto::{AppKeyResponse, ExplainRequest, PublicKeyResponse, SignCertResponse};
use kms_attest::certificate;
use kms_attest::identity::{AppId, DomainName, InstanceId};
use kms_attest::p256::P256Key;
use kms_simulator::{Cvm, Stage};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

fn name(text: &str) -> DomainName {
    text.parse().expect("a name")
}

async fn guest(world: &World, app: &Cvm) -> Caller {
    world.caller().shows(&world.attested(app).await)
}

async fn keys(world: &World, app: &Cvm) -> AppKeyResponse {
    guest(world, app).await.json("GetAppKey", json!({})).await.message()
}

async fn env_key(world: &World, app: &Cvm) -> PublicKeyResponse {
    world
        .caller()
        .json("GetAppEnvEncryptPubKey", json!({ "app_id": hex::encode(app.app_id()) }))
        .await
        .message()
}

/// The subject public key of the app CA that signs for an app.
async fn app_ca_key(world: &World, app: &Cvm) -> Vec<u8> {
    let wish = certificate_request(app, &P256Key::generate());
    let signed: SignCertResponse = world.caller().json("SignCert", wish).await.message();
    certificate::der(&signed.certificate_chain[1]).expect("PEM")
}

/// What a KMS with the root keys of `world` derives for an app in a domain, without a KMS.
struct Derived {
    keys: derive::AppKeys,
    env: [u8; 32],
    ca: P256Key,
}

impl Derived {
    fn of(world: &World, domain: &str, app: &Cvm, own: Option<&InstanceId>) -> Self {
        let (root, domain, id) = (world.root_keys(), name(domain), AppId(*app.app_id()));
        let at = AppAt { domain: &domain, id: &id, instance: own, epoch: AppEpoch::FIRST };
        Self {
            keys: derive::app_keys(&root, at, app.instance_id()).expect("keys"),
            env: derive::env_public_key(&root, at).expect("a key"),
            ca: derive::app_ca_key(&root, at).expect("a key"),
        }
    }

    /// Whether all that the KMS gives to the app now is this.
    async fn is_given(&self, world: &World, app: &Cvm) -> bool {
        // Twice: caches answer the second time.
        let mut found = Vec::new();
        for _ in 0..2 {
            let keys = keys(world, app).await;
            found.push(keys.disk_crypt_key == *self.keys.disk_crypt_key.expose());
            found.push(keys.env_crypt_key == *self.keys.env_crypt_key.expose());
            found.push(keys.k256_key == *self.keys.k256_key.expose());
            found.push(keys.k256_signature == self.keys.k256_signature);
            found.push(env_key(world, app).await.public_key == self.env);
            let ca = app_ca_key(world, app).await;
            let spki = self.ca.spki_der();
            found.push(ca.windows(spki.len()).any(|part| part == spki));
        }
        assert!(found.iter().all(|is| *is == found[0]), "all keys of an app are of one domain: {found:?}");
        found[0]
    }
}

/// The app is in the domain, which admits its image although nothing is known about it: images are not verified here.
fn in_domain(domain: &str, app: &Cvm, more: &str) -> String {
    format!("[domains.{domain}]\napps = ['{}']\nallow_dev_images = true\n{more}", hex::encode(app.app_id()))
}

async fn world_with(toml: impl Fn(&World) -> String) -> World {
    let mut world = World::ready().await;
    world.configure(&toml(&world));
    world.start().await.expect("it starts again");
    world
}

#[tokio::test]
async fn an_app_gets_the_keys_of_its_domain_and_no_others_also_after_a_move() {
    let mut world = World::ready().await;
    let [sandbox, plain]: [Arc<Cvm>; 2] = [1, 2].map(|number| world.app(number));
    for app in [&sandbox, &plain] {
        world.allow_app(app);
    }
    let of = |world: &World, domain: &str| Derived::of(world, domain, &sandbox, None);
    assert!(of(&world, "default").is_given(&world, &sandbox).await, "no domain names it");
    let before = world.config.clone();
    for (domain, others) in [("sandbox", ["default", "prod"]), ("prod", ["default", "sandbox"])] {
        world.config = before.clone();
        world.configure(&in_domain(domain, &sandbox, ""));
        world.start().await.expect("it starts again");
        assert!(of(&world, domain).is_given(&world, &sandbox).await, "{domain}");
        for other in others {
            assert!(!of(&world, other).is_given(&world, &sandbox).await, "{domain} {other}");
        }
        assert!(Derived::of(&world, "default", &plain, None).is_given(&world, &plain).await);
        let records = world.audited("app_key_released");
        let of = |app: &Cvm| {
            let id = json!(hex::encode(app.app_id()));
            records.iter().rfind(|record| record["app_id"] == id).expect("a record")["domain"].clone()
        };
        assert_eq!((of(&sandbox), of(&plain)), (json!(domain), Value::Null));
    }
    world.config = before;
    world.start().await.expect("it starts again");
    assert!(of(&world, "default").is_given(&world, &sandbox).await, "back, with the keys of before");
}

#[tokio::test]
async fn each_instance_has_keys_of_its_own_where_the_domain_says_so() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    world.configure(&in_domain("prod", &app, "instance_scoped = true"));
    world.start().await.expect("it starts again");
    let instance = InstanceId(app.instance_id().try_into().expect("20 bytes"));
    assert!(Derived::of(&world, "prod", &app, Some(&instance)).is_given(&world, &app).await);
    let other = Cvm::builder(&world.platform)
        .app_id(*app.app_id())
        .compose_hash([1; 32])
        .instance_id(&[9; 20])
        .build();
    let (one, two) = (keys(&world, &app).await, keys(&world, &other).await);
    assert_ne!(one.k256_key, two.k256_key);
    assert_ne!(one.k256_signature, two.k256_signature);
    assert_ne!(one.disk_crypt_key, two.disk_crypt_key);
    assert_eq!(one.env_crypt_key, two.env_crypt_key, "who encrypts an environment knows no instance");
    assert_ne!(app_ca_key(&world, &app).await, app_ca_key(&world, &other).await);
    let nameless =
        Cvm::builder(&world.platform).app_id(*app.app_id()).compose_hash([1; 32]).instance_id(&[]).build();
    let answer = guest(&world, &nameless).await.json("GetAppKey", json!({})).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("has no instance id"), "{}", answer.text());
    eventually("a record", async || world.audited("denied").pop()).await;
    assert_eq!(world.audited("denied").last().expect("a record")["code"], "instance_id_required");
}

#[tokio::test]
async fn an_archived_domain_releases_nothing_until_it_is_restored() {
    let mut world = world_with(|world| in_domain("sandbox", &world.app(1), "")).await;
    let app = world.app(1);
    world.allow_app(&app);
    assert_eq!(guest(&world, &app).await.json("GetAppKey", json!({})).await.status, 200);
    let file = world.key_file("domains.json");
    let archived = json!({ "version": 1, "domains": [], "apps": [],
        "archived": [{ "name": "sandbox", "since": 1, "by": "token" }] });
    std::fs::write(&file, archived.to_string()).expect("the file");
    world.start().await.expect("it starts again");
    let id = json!({ "app_id": hex::encode(app.app_id()) });
    for answer in [
        guest(&world, &app).await.json("GetAppKey", json!({})).await,
        world.caller().json("SignCert", certificate_request(&app, &P256Key::generate())).await,
        world.caller().json("GetAppEnvEncryptPubKey", id.clone()).await,
    ] {
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("the domain sandbox is archived"), "{}", answer.text());
    }
    let denied =
        eventually("records", async || Some(world.audited("denied")).filter(|denied| denied.len() == 2))
            .await;
    assert!(denied.iter().all(|record| record["code"] == "domain_archived"));
    std::fs::remove_file(&file).expect("the file");
    world.start().await.expect("it starts again");
    assert!(Derived::of(&world, "sandbox", &app, None).is_given(&world, &app).await);
}

#[tokio::test]
async fn a_kms_that_does_not_know_the_domains_serves_nothing() {
    let mut world = World::ready().await;
    world.stop().await;
    for (text, problem) in [
        ("{}", "domains.json of the key directory is damaged"),
        (
            r#"{"version":1,"domains":[],"archived":[],"apps":[{"app_id":"0101010101010101010101010101010101010101","domain":"gone","since":1,"by":"token"}]}"#,
            "was put into the domain gone, which is not in the configuration any more",
        ),
    ] {
        std::fs::write(world.key_file("domains.json"), text).expect("the file");
        let error = world.start().await.expect_err("an app could get other keys").to_string();
        assert!(error.contains(problem), "{error}");
    }
}

/// What an app of a domain with these settings is told: the status, the reason, and the code in the audit log.
async fn refused(world: &mut World, app: &Cvm, settings: &str) -> Option<(String, Value)> {
    let before = world.config.clone();
    world.configure(&format!("[domains.prod]\napps = ['{}']\n{settings}", hex::encode(app.app_id())));
    world.start().await.expect("it starts again");
    let seen = world.audited("denied").len();
    let answer = guest(world, app).await.json("GetAppKey", json!({})).await;
    let found = match answer.status {
        200 => None,
        403 => {
            let record = eventually("a record", async || world.audited("denied").get(seen).cloned()).await;
            assert_eq!(record["domain"], "prod");
            Some((answer.text().to_owned(), record["code"].clone()))
        }
        status => panic!("{status}: {}", answer.text()),
    };
    world.config = before;
    found
}

#[tokio::test]
async fn a_domain_limits_what_its_policy_allows() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let opened =
        Cvm::builder(&world.platform).app_id([1; 20]).compose_hash([1; 32]).stage(Stage::Ready).build();
    opened.emit("shell", b"open");
    keys(&world, &app).await;
    let record = world.audited("app_key_released").pop().expect("a record");
    let of_record = |key: &str| record[key].as_str().expect("a text").to_owned();
    let [device, image] = ["device_id", "os_image_hash"].map(of_record);
    let other = "00".repeat(32);
    for (cvm, settings, code) in [
        (&app, "allow_dev_images = true".to_owned(), None),
        // Images are not verified here, so nobody knows which are for development.
        (&app, String::new(), Some("dev_image_not_allowed")),
        (&app, "allow_dev_images = false".to_owned(), Some("dev_image_not_allowed")),
        (&app, "sealed = true".to_owned(), Some("dev_image_not_allowed")),
        (&opened, "sealed = true".to_owned(), Some("not_sealed")),
        (&opened, "allow_dev_images = true".to_owned(), None),
        (&app, format!("allow_dev_images = true\ndevices = ['{device}']"), None),
        (&app, format!("allow_dev_images = true\ndevices = ['{other}']"), Some("domain_device_not_allowed")),
        (&app, format!("allow_dev_images = true\nos_images = ['{other}', '{image}']"), None),
        (
            &app,
            format!("allow_dev_images = true\nos_images = ['{other}']"),
            Some("domain_os_image_not_allowed"),
        ),
        (&app, "allow_dev_images = true\ntcb_statuses = ['UpToDate']".to_owned(), None),
        (
            &app,
            "allow_dev_images = true\ntcb_statuses = ['OutOfDate']".to_owned(),
            Some("domain_tcb_status_not_allowed"),
        ),
    ] {
        let found = refused(&mut world, cvm, &settings).await;
        let code = code.map(Value::from);
        assert_eq!(found.as_ref().map(|(_, code)| code), code.as_ref(), "{settings}: {found:?}");
        assert!(found.is_none_or(|(text, _)| text.contains("domain prod")), "{settings}");
    }
}

#[tokio::test]
async fn a_domain_with_a_policy_of_its_own_is_not_judged_by_that_of_the_kms() {
    let mut world = World::ready().await;
    let [sandbox, plain]: [Arc<Cvm>; 2] = [1, 2].map(|number| world.app(number));
    // The KMS's own policy allows the app of the sandbox, and the sandbox's own does not, until it says so.
    world.allow_app(&sandbox);
    let rules = AllowlistFile::new(world.path("sandbox.json"));
    let path = rules.path().display().to_string();
    let own = format!("auth_api = {{ type = 'allowlist', allowlist.path = '{path}' }}");
    world.configure(&in_domain("sandbox", &sandbox, &own));
    world.start().await.expect("it starts again");
    let status = async |app: &Cvm| guest(&world, app).await.json("GetAppKey", json!({})).await.status;
    assert_eq!((status(&sandbox).await, status(&plain).await), (403, 403));
    rules.allow_app(&sandbox);
    rules.allow_app(&plain);
    assert_eq!((status(&sandbox).await, status(&plain).await), (200, 403));
    world.allow_app(&plain);
    assert_eq!((status(&sandbox).await, status(&plain).await), (200, 200));
    let digest = |text: String| hex::encode(Sha256::digest(text));
    let recorded = |app: &Cvm| {
        let id = json!(hex::encode(app.app_id()));
        let records = world.audited("app_key_released");
        records.iter().rfind(|record| record["app_id"] == id).expect("a record")["policy_sha256"].clone()
    };
    let file = |path: &std::path::Path| digest(std::fs::read_to_string(path).expect("a file"));
    assert_eq!(recorded(&sandbox), file(rules.path()));
    assert_eq!(recorded(&plain), file(world.allowlist.path()));
    // A candidate of the KMS's own policy is told nothing of the sandbox, and an explanation is by the sandbox's own.
    let operator = Operator::of(&world).await;
    let (pem, _) = world.attested(&sandbox).await.pem();
    std::fs::write(rules.path(), r#"{"osImages":[],"kms":{},"apps":{}}"#).expect("a file");
    let request = ExplainRequest { certificate: pem.into_bytes(), ..Default::default() };
    let explained = operator.explain(request).await;
    assert_eq!((&*explained.verdict, &*explained.app_domain), ("denied", "sandbox"), "{explained:#?}");
    assert!(explained.checks.iter().any(|check| check.step == "domain" && check.actual == "sandbox"));
}

#[tokio::test]
async fn a_request_that_names_another_domain_is_refused_and_answers_name_the_own_one() {
    let mut world = World::ready().await;
    let [sandbox, plain]: [Arc<Cvm>; 2] = [1, 2].map(|number| world.app(number));
    for app in [&sandbox, &plain] {
        world.allow_app(app);
    }
    world.configure(&format!("{}\n[domains.prod]", in_domain("sandbox", &sandbox, "")));
    world.start().await.expect("it starts again");
    for (app, asked, expected) in [
        (&sandbox, "", Ok("sandbox")),
        (&sandbox, "sandbox", Ok("sandbox")),
        (&plain, "", Ok("")),
        (&plain, "default", Ok("")),
        (&sandbox, "default", Err(403)),
        (&sandbox, "prod", Err(403)),
        (&sandbox, "unknown", Err(403)),
        (&plain, "sandbox", Err(403)),
        (&plain, "Sandbox", Err(400)),
    ] {
        let mut wish = certificate_request(app, &P256Key::generate());
        wish["app_domain"] = asked.into();
        let id = json!({ "app_id": hex::encode(app.app_id()), "app_domain": asked });
        for answer in [
            guest(&world, app).await.json("GetAppKey", json!({ "app_domain": asked })).await,
            world.caller().json("SignCert", wish).await,
            world.caller().json("GetAppEnvEncryptPubKey", id).await,
        ] {
            match expected {
                Ok(domain) => {
                    assert_eq!(answer.status, 200, "{asked}: {}", answer.text());
                    let said = answer.value()["app_domain"].as_str().unwrap_or_default().to_owned();
                    assert_eq!(said, domain, "{asked}");
                }
                Err(status) => assert_eq!(answer.status, status, "{asked}: {}", answer.text()),
            }
        }
    }
    let denied =
        eventually("records", async || Some(world.audited("denied")).filter(|denied| denied.len() == 8));
    assert!(denied.await.iter().all(|record| record["code"] == "domain_mismatch"));
}

#[tokio::test]
async fn a_receipt_in_a_domain_with_the_longest_name_is_small() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    world.configure(&in_domain(&"d".repeat(24), &app, ""));
    world.start().await.expect("it starts again");
    let keys = keys(&world, &app).await;
    let receipt = keys.receipt.as_ref().expect("a receipt");
    // A tree of 10 million leaves: 24 hashes, and an index and a size of 8 digits.
    let length = prost::Message::encoded_len(receipt) + 24 * 32 - receipt.proof.len() + 16;
    // With epochs that have many digits, `"epochs":"4000000000.4000000000",` is in the record too.
    assert!(length + 33 <= 2048, "{length}");
}

#[tokio::test]
async fn a_replica_with_other_domains_receives_no_keys_and_one_with_the_same_gives_the_same() {
    let mut source = World::ready().await;
    let app = source.app(1);
    let domains = in_domain("prod", &app, "");
    source.configure(&domains);
    source.start().await.expect("it starts again");
    let onboard = async |replica: &World| {
        let wish =
            json!({ "source_url": format!("https://{}", source.address()), "domain": "replica.example" });
        replica.caller().plain().json("Onboard", wish).await
    };
    let meta = async |world: &World| world.caller().json("GetMeta", json!({})).await.value();
    let digest = meta(&source).await["domains_sha256"].clone();
    assert_eq!(digest.as_str().map(str::len), Some(64));
    for other in
        [String::new(), in_domain("sandbox", &app, ""), in_domain("prod", &app, "instance_scoped = true")]
    {
        let replica = World::onboarding_with(&other).await;
        let (status, text) = onboard(&replica).await.refusal();
        assert!(status == 409 && text.contains("other domains than this KMS"), "{other}: {status} {text}");
        assert!(!replica.key_file("root-ca.key").exists());
    }
    let replica = World::onboarding_with(&domains).await;
    assert_eq!(onboard(&replica).await.status, 200);
    replica.finish().await;
    assert_eq!(meta(&replica).await["domains_sha256"], digest);
    for world in [&source, &replica] {
        world.allow_app(&app);
    }
    let (ours, theirs) = (keys(&source, &app).await, keys(&replica, &app).await);
    assert_eq!(ours.k256_key, theirs.k256_key);
    assert_eq!(ours.disk_crypt_key, theirs.disk_crypt_key);
}

//! Domains: whose keys an app gets, and whose it never gets.

use std::sync::Arc;

use crate::support::{Caller, World, certificate_request, eventually};
use cvm_kms::keys::derive::{self, AppAt};
use cvm_kms::keys::epoch::AppEpoch;
use cvm_kms::proto::{AppKeyResponse, PublicKeyResponse, SignCertResponse};
use kms_attest::certificate;
use kms_attest::identity::{AppId, DomainName, InstanceId};
use kms_attest::p256::P256Key;
use kms_simulator::Cvm;
use serde_json::{Value, json};

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

fn in_domain(domain: &str, app: &Cvm, more: &str) -> String {
    format!("[domains.{domain}]\napps = ['{}']\n{more}", hex::encode(app.app_id()))
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

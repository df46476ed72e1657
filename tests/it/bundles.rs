//! Signed bundles of policies: they decide live requests, serials only grow, and forks change nothing.

mod domains;
mod fleet;
mod nodes;
mod owners;
mod signatures;
mod unattended;

use std::fs;
use std::path::PathBuf;

use crate::support::http::{post, request, with};
use crate::support::operator::Operator;
use crate::support::{Answer, Identity, World, eventually};
use cvm_kms::clock::unix_now;
use kms_policy::bundle::{BundleDigest, Header, SecretKey, UnverifiedBundle, add_signature, sign};
use serde_json::{Value, json};

/// A world whose policy comes in bundles that Ann and Bob sign.
struct Signed {
    world: World,
    ann: SecretKey,
    bob: SecretKey,
    source: PathBuf,
}

async fn send(world: &World, call: http::Request<bytes::Bytes>) -> Answer {
    Operator::of(world).await.send(call).await
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.value()["code"].as_str().unwrap_or_default().to_owned())
}

fn digest(bundle: &[u8]) -> BundleDigest {
    UnverifiedBundle::parse(bundle).expect("a bundle").digest()
}

impl Signed {
    /// With the first bundle in the source, which allows the KMS alone.
    async fn ready(toml: &str) -> Self {
        let mut signed = Self::stopped(toml).await;
        signed.world.start().await.expect("the KMS starts");
        signed.world.bootstrap().await;
        signed.world.finish().await;
        signed.in_force(1).await;
        signed
    }

    async fn stopped(toml: &str) -> Self {
        let mut world = World::stopped_with("").await;
        let key = |name: &str| SecretKey::generate(name.parse().expect("a name")).expect("a key");
        let (ann, bob) = (key("team/ann"), key("team/bob"));
        let source = world.path("policy.bundle");
        world.configure(&format!(
            "[core.auth_api.bundle]\nkeys = ['{}', '{}']\nthreshold = 2\nsource = '{}'\n{toml}",
            ann.verifying_key(),
            bob.verifying_key(),
            source.display()
        ));
        let signed = Self { world, ann, bob, source };
        fs::write(&signed.source, signed.bundle(1, None)).expect("the source");
        signed
    }

    /// A bundle of the world's allowlist as it is now, signed by both.
    fn bundle(&self, serial: u64, previous: Option<&[u8]>) -> Vec<u8> {
        self.valid(serial, previous, (unix_now() - 60, unix_now() + 30 * 86400))
    }

    fn valid(&self, serial: u64, previous: Option<&[u8]>, times: (u64, u64)) -> Vec<u8> {
        let policy = fs::read(self.world.allowlist.path()).expect("allowlist");
        let header = Header::new("prod", "default", serial, times, previous.map(digest)).expect("a header");
        let bundle = sign(&header, &policy, &self.ann).expect("a bundle");
        add_signature(&UnverifiedBundle::parse(&bundle).expect("a bundle"), &self.bob).expect("signed")
    }

    async fn state(&self) -> Value {
        let answer = send(&self.world, request("GET", "/api/v1/policy/bundles", "")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.value()["domains"][0].clone()
    }

    async fn in_force(&self, serial: u64) {
        eventually("the bundle in force", async || {
            (self.state().await["in_force"]["serial"] == serial).then_some(())
        })
        .await;
    }

    async fn keys_of(&self, app: &Identity) -> u16 {
        let caller = self.world.caller().shows(app);
        caller.json("GetAppKey", json!({ "api_version": 1, "vm_config": "" })).await.status
    }

    async fn push(&self, bundle: Vec<u8>) -> Answer {
        let call = post("/api/v1/policy/bundles", bundle);
        send(&self.world, with(call, "content-type", "application/octet-stream")).await
    }

    async fn posted(&self, path: &str, body: Value) -> Answer {
        send(&self.world, post(&format!("/api/v1/policy/bundles/{path}"), body.to_string())).await
    }
}

#[tokio::test]
async fn a_bundle_of_the_source_decides_and_its_digest_is_in_the_record() {
    let signed = Signed::ready("").await;
    let world = &signed.world;
    let app = world.attested(&world.app(1)).await;
    assert_eq!(signed.keys_of(&app).await, 403);
    let first = fs::read(&signed.source).expect("source");
    world.allow_app(&world.app(1));
    let second = signed.bundle(2, Some(&first));
    fs::write(&signed.source, &second).expect("source");
    signed.in_force(2).await;
    assert_eq!(signed.keys_of(&app).await, 200);
    let released = &world.audited("app_key_released")[0];
    assert_eq!(released["policy_sha256"], digest(&second).to_string());
    let activated = world.audited("policy_bundle_activated");
    let last = activated.last().expect("a record");
    assert_eq!(
        (&last["serial"], &last["bundle"], &last["origin"]),
        (&json!(2), &json!("prod"), &json!("file"))
    );
    assert_eq!(last["replaces"], digest(&first).to_string());
    assert_eq!(last["signers"], json!(["team/ann", "team/bob"]));

    let policy = send(world, request("GET", "/api/v1/policy", "")).await.value();
    assert_eq!((&policy["kind"], &policy["source"]), (&json!("allowlist"), &json!("bundle")));
    assert_eq!(policy["sha256"], digest(&second).to_string());
    assert_eq!((&policy["bundle"]["serial"], &policy["editable"]), (&json!(2), &json!(false)));
    assert!(policy["document"]["apps"].as_object().is_some_and(|apps| apps.len() == 1), "{policy}");
    let metrics = world.caller().get("/metrics").await.text().to_owned();
    assert!(metrics.contains("cvm_kms_policy_bundle_serial{domain=\"default\"} 2"), "{metrics}");
}

#[tokio::test]
async fn serials_only_grow_also_over_a_restart_and_without_their_file() {
    let mut signed = Signed::ready("").await;
    let first = fs::read(&signed.source).expect("source");
    let app = signed.world.attested(&signed.world.app(1)).await;
    signed.world.allow_app(&signed.world.app(1));
    let second = signed.bundle(2, Some(&first));
    fs::write(&signed.source, &second).expect("source");
    signed.in_force(2).await;

    // What was in force decides again after a restart, though its source is older.
    fs::write(&signed.source, &first).expect("source");
    signed.world.start().await.expect("the KMS starts");
    assert_eq!(signed.keys_of(&app).await, 200);
    eventually("the refusal of the older one", async || {
        let problem = signed.state().await["source_problem"].clone();
        problem.as_str().is_some_and(|text| text.contains("serial 1, and 2 was seen before")).then_some(())
    })
    .await;
    let overview = send(&signed.world, request("GET", "/api/v1/overview", "")).await.value();
    let attention = overview["attention"].as_array().expect("a list");
    let failing = attention.iter().find(|it| it["code"] == "bundle_source_failing").expect("it is named");
    let detail = failing["detail"].as_str().expect("why");
    assert!(detail.contains("serial 1, and 2 was seen before") && failing["link"]["view"] == "policy");
    assert_eq!(code(&signed.push(first.clone()).await), (409, "bundle_serial_too_low".to_owned()));

    // Without the file of serials the audit log counts.
    signed.world.stop().await;
    fs::remove_dir_all(signed.world.key_file("policy-bundles")).expect("kept bundles");
    signed.world.start().await.expect("the KMS starts");
    eventually("the record", async || {
        signed.world.audited("policy_serials_lost").last().filter(|lost| lost["floor"] == 2).map(|_| ())
    })
    .await;
    assert_eq!(signed.keys_of(&app).await, 403, "nothing decides, so everything is denied");
    assert_eq!(code(&signed.push(first).await), (409, "bundle_serial_too_low".to_owned()));
    assert_eq!(signed.state().await["lowest_serial"], 2);
    // The way out is the bundle itself.
    fs::write(&signed.source, &second).expect("source");
    signed.in_force(2).await;
    assert_eq!(signed.keys_of(&app).await, 200);
}

#[tokio::test]
async fn a_fork_is_told_and_changes_nothing() {
    let signed = Signed::ready("").await;
    let world = &signed.world;
    let first = fs::read(&signed.source).expect("source");
    world.allow_app(&world.app(1));
    // The same serial with other rules; then one that does not follow what is in force.
    let other = signed.bundle(1, None);
    assert_eq!(code(&signed.push(other.clone()).await), (409, "bundle_forked".to_owned()));
    let stray = signed.bundle(2, Some(&other));
    assert_eq!(code(&signed.push(stray).await), (409, "bundle_forked".to_owned()));
    assert_eq!(signed.keys_of(&world.attested(&world.app(1)).await).await, 403, "the one in force stays");
    eventually("the records", async || (world.audited("policy_forked").len() == 2).then_some(())).await;
    assert_eq!(world.audited("policy_forked")[0]["known"], digest(&first).to_string());
    assert_eq!(signed.state().await["fork"]["serial"], 2);
    eventually("the warning", async || {
        let ready = world.caller().get("/readyz").await;
        (ready.status == 200 && ready.text().contains("policy_fork")).then_some(())
    })
    .await;
    // A later bundle of the branch in force ends it.
    let second = signed.bundle(2, Some(&first));
    fs::write(&signed.source, &second).expect("source");
    signed.in_force(2).await;
    let third = signed.bundle(3, Some(&second));
    fs::write(&signed.source, &third).expect("source");
    signed.in_force(3).await;
    assert_eq!(signed.state().await["fork"], Value::Null);
}

#[tokio::test]
async fn what_enough_keys_did_not_sign_is_refused() {
    let signed = Signed::ready("").await;
    let first = fs::read(&signed.source).expect("source");
    let policy = fs::read(signed.world.allowlist.path()).expect("allowlist");
    let times = (unix_now() - 60, unix_now() + 1000);
    let of =
        |domain: &str, times| Header::new("prod", domain, 2, times, Some(digest(&first))).expect("a header");
    let one = sign(&of("default", times), &policy, &signed.ann).expect("a bundle");
    assert_eq!(code(&signed.push(one).await), (400, "bundle_threshold_missed".to_owned()));
    let elsewhere = sign(&of("sandbox", times), &policy, &signed.ann).expect("a bundle");
    assert_eq!(code(&signed.push(elsewhere).await), (409, "not_configured".to_owned()));
    let mut altered = signed.bundle(2, Some(&first));
    let at = altered.windows(5).position(|window| window == b"\"kms\"").expect("a key");
    altered[at + 1] = b'K';
    assert_eq!(code(&signed.push(altered).await), (400, "bundle_signature_invalid".to_owned()));
    let expired = signed.valid(2, Some(&first), (unix_now() - 100, unix_now() - 50));
    assert_eq!(code(&signed.push(expired).await), (409, "bundle_expired".to_owned()));
    assert_eq!(code(&signed.push(b"no bundle".to_vec()).await), (400, "bundle_malformed".to_owned()));
    let refused = signed.world.audited("policy_bundle_refused");
    assert!(refused.iter().any(|record| record["code"] == "bundle_threshold_missed"), "{refused:?}");
    assert_eq!(signed.state().await["in_force"]["serial"], 1);
}

#[tokio::test]
async fn an_operator_brings_a_bundle_that_is_tried_and_then_activated() {
    let signed = Signed::ready("").await;
    let world = &signed.world;
    let app = world.attested(&world.app(1)).await;
    let first = fs::read(&signed.source).expect("source");
    world.allow_app(&world.app(1));
    let second = signed.bundle(2, Some(&first));
    let told = signed.push(second.clone()).await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert_eq!(told.value()["state"], "pending");
    assert_eq!(signed.keys_of(&app).await, 403, "it waits");
    let by = json!({ "digest": digest(&second).to_string() });
    assert_eq!(signed.posted("shadow", by.clone()).await.status, 200);
    assert_eq!(signed.keys_of(&app).await, 403);
    let policy = send(world, request("GET", "/api/v1/policy", "")).await.value();
    assert_eq!(policy["shadow"]["would_allow"], 1, "{policy}");
    let told = signed.posted("activate", by.clone()).await;
    assert_eq!((told.status, &told.value()["changed"]), (200, &json!(true)), "{}", told.text());
    assert_eq!(signed.keys_of(&app).await, 200);
    assert_eq!(world.audited("shadow_stopped")[0]["newly_allowed"], 1);
    let activated = world.audited("policy_bundle_activated");
    assert_eq!(activated.last().expect("a record")["by"], "token");
    assert_eq!(signed.posted("activate", by).await.value()["changed"], false);
    let other = json!({ "digest": "00".repeat(32) });
    assert_eq!(code(&signed.posted("activate", other).await), (409, "bundle_not_pending".to_owned()));
}

#[tokio::test]
async fn of_many_bundles_that_wait_one_is_kept() {
    let signed = Signed::ready("").await;
    let kept = || {
        let entries = fs::read_dir(signed.world.key_file("policy-bundles")).expect("the directory");
        let names = entries.map(|entry| entry.expect("a file").file_name().into_string().expect("a name"));
        names.filter(|name| name.ends_with(".bundle")).count()
    };
    let mut before = fs::read(&signed.source).expect("source");
    for serial in 2..6 {
        let bundle = signed.bundle(serial, Some(&before));
        assert_eq!(signed.push(bundle.clone()).await.status, 200);
        assert_eq!(kept(), 2, "that in force, and the newest");
        before = bundle;
    }
    let far = signed.bundle(1 << 50, Some(&before));
    assert_eq!(code(&signed.push(far).await), (409, "bundle_serial_too_high".to_owned()));
    assert_eq!(signed.state().await["lowest_serial"], 5);
}

#[tokio::test]
async fn a_bundle_that_the_disk_refuses_is_not_in_force_and_the_log_does_not_end_with_it() {
    let mut signed = Signed::ready("").await;
    let first = fs::read(&signed.source).expect("source");
    let soon = signed.valid(2, Some(&first), (unix_now() + 4, unix_now() + 86400));
    fs::write(&signed.source, &soon).expect("source");
    eventually("a bundle that waits", async || {
        (signed.state().await["pending"]["serial"] == 2).then_some(())
    })
    .await;
    // Not even root replaces a directory by a file.
    let obstacle = signed.world.key_file("policy-bundles").join("default.json.new");
    fs::create_dir(&obstacle).expect("a directory");
    let refused = eventually("a record", async || {
        signed.world.audited("policy_bundle_refused").into_iter().find(|it| it["code"] == "bundle_not_saved")
    })
    .await;
    let activated = signed.world.audited("policy_bundle_activated");
    let last = activated.last().expect("a record");
    assert_eq!(last["serial"], 2);
    assert!(refused["seq"].as_u64() > last["seq"].as_u64(), "{refused} {last}");
    assert_eq!(signed.state().await["in_force"]["serial"], 1);
    fs::remove_dir(&obstacle).expect("removed");
    signed.world.start().await.expect("it starts again");
    signed.in_force(2).await;
}

#[tokio::test]
async fn the_lowest_serial_counts_for_a_bundle_whose_record_is_gone() {
    let mut signed = Signed::ready("").await;
    signed.world.stop().await;
    let path = signed.world.key_file("policy-bundles").join("default.json");
    let mut record: Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a record")).expect("JSON");
    record["bundles"]["seen"] = json!([]);
    fs::write(&path, record.to_string()).expect("written");
    signed.world.configure("core.auth_api.bundle.minimum_serial = 2");
    signed.world.start().await.expect("it starts again");
    assert_eq!(signed.state().await["in_force"], Value::Null);
}

#[tokio::test]
async fn an_expired_bundle_warns_or_denies() {
    for (on_expiry, status) in [("warn", 200), ("deny", 403)] {
        let signed = Signed::ready(&format!("on_expiry = '{on_expiry}'")).await;
        let world = &signed.world;
        let app = world.attested(&world.app(1)).await;
        world.allow_app(&world.app(1));
        let first = fs::read(&signed.source).expect("source");
        let soon = signed.valid(2, Some(&first), (unix_now() - 60, unix_now() + 4));
        fs::write(&signed.source, &soon).expect("source");
        signed.in_force(2).await;
        eventually("the end", async || {
            let ready = world.caller().get("/readyz").await.text().to_owned();
            let is_over = match on_expiry {
                "warn" => ready.contains("policy_expires"),
                _ => ready.contains("allowlist_unusable"),
            };
            is_over.then_some(())
        })
        .await;
        eventually("the decision", async || (signed.keys_of(&app).await == status).then_some(())).await;
    }
}

//! KMSs that an allowlist names by OS image and compose hash: on VMs of any shape, and only if the registers are compared.

use cvm_kms::proto::ShadowReportResponse;
use kms_simulator::KeyProvider;

use super::*;
use crate::support::DOMAIN;
use crate::support::operator::Operator;

/// An entry for every guest of the vectors.
fn entry(cvm: &Cvm) -> Value {
    json!({ "osImageHash": hex::encode(cvm.os_image_hash()), "composeHash": hex::encode([1; 32]) })
}

/// Allows KMSs by these entries only.
fn allow(world: &World, entries: Value) {
    world.allowlist.change(|rules| {
        rules["osImages"] = json!([entries[0]["osImageHash"]]);
        rules["kms"] = json!({ "images": entries, "allowAnyDevice": true });
    });
}

async fn root_keys(kms: &Verifying, replica: &Cvm) -> crate::support::Answer {
    let identity = kms.world.attested(replica).await;
    kms.world.caller().shows(&identity).json("GetKmsKey", json!({})).await
}

/// The record of the denial of this caller.
async fn denied(world: &World, caller: &Cvm) -> Value {
    let measurement = hex::encode(caller.mr_aggregated());
    eventually("a denial", async || {
        world.audited("denied").into_iter().find(|line| line["mr_aggregated"] == measurement)
    })
    .await
}

/// This KMS is allowed by its measurement, the others by `entries`.
fn allow_others(kms: &Verifying, entries: Value) {
    let own = json!([hex::encode(kms.world.cvm.mr_aggregated())]);
    kms.world.allowlist.change(|rules| {
        let image = entries[0]["osImageHash"].clone();
        rules["osImages"] = json!([image, hex::encode(kms.world.cvm.os_image_hash())]);
        rules["kms"] = json!({ "mrAggregated": own, "images": entries, "allowAnyDevice": true });
    });
}

/// The allowlist in force.
fn active(kms: &Verifying) -> Value {
    serde_json::from_slice(&std::fs::read(kms.world.allowlist.path()).expect("allowlist")).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_entry_allows_replicas_of_every_shape_and_nothing_else() {
    // The KMS itself is a guest without an image that could be compared: it is allowed by its measurement.
    let kms = Verifying::start().await;
    let vectors = vectors();
    let replica = |case: usize| kms.guest(&vectors["legacy"][case], |_| {}).stage(Stage::Ready);
    let [small, large] = [0, 1].map(|case| replica(case).build());
    assert_ne!(small.mr_aggregated(), large.mr_aggregated());
    allow_others(&kms, json!([entry(&small)]));
    for replica in [&small, &large] {
        let answer = root_keys(&kms, replica).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(kms.downloads(), 1);

    // Other software in the image, or another source of the key of its disk.
    let sgx = KeyProvider::LocalSgx(vec![0x51; 32]);
    for other in [replica(0).compose_hash([2; 32]).build(), replica(0).key_provider(sgx.clone()).build()] {
        let answer = root_keys(&kms, &other).await.refusal();
        assert_eq!(answer, (403, "Boot denied: aggregated MR not allowed".to_owned()));
        let line = denied(&kms.world, &other).await;
        assert_eq!((text(&line["code"]), text(&line["step"])), ("kms_measurement_not_allowed", "policy"));
        let remedy = text(&line["remedy"]);
        assert!(remedy.contains("to kms.images, which allows the KMS on VMs of any shape"), "{remedy}");
        assert!(remedy.contains(&hex::encode(other.mr_aggregated())), "{remedy}");
    }
    let mut with_sgx = entry(&small);
    with_sgx["keyProvider"] = json!({ "name": "local-sgx", "id": "51".repeat(32) });
    allow_others(&kms, json!([entry(&small), with_sgx]));
    assert_eq!(root_keys(&kms, &replica(1).key_provider(sgx).build()).await.status, 200);

    // A guest that names the image and has booted something else: in each register.
    let changes: [fn(&mut BootRegisters); 4] = [
        |registers| registers.mrtd[0] ^= 1,
        |registers| registers.rtmr0[0] ^= 1,
        |registers| registers.rtmr1[0] ^= 1,
        |registers| registers.rtmr2[0] ^= 1,
    ];
    for change in changes {
        let other = kms.guest(&vectors["legacy"][0], change).stage(Stage::Ready).build();
        let (status, told) = root_keys(&kms, &other).await.refusal();
        assert_eq!(status, 403, "{told}");
        assert!(told.starts_with("Failed to verify os image hash: "), "{told}");
    }
    // The registers of one shape, and the description of another.
    let registers = vectors["legacy"][0]["expected"].clone();
    let swapped =
        |it: &mut BootRegisters| *it = serde_json::from_value(registers.clone()).expect("registers");
    let other = kms.guest(&vectors["legacy"][1], swapped).stage(Stage::Ready).build();
    let (status, told) = root_keys(&kms, &other).await.refusal();
    assert!(status == 403 && told.contains("MRs do not match"), "{told}");
    assert_eq!(kms.world.audited("kms_key_released").len(), 3);
    assert_eq!(kms.downloads(), 1);

    // A guest that somebody may have opened since, in an image and with a compose file that an entry names. A candidate without
    // that entry denies the same.
    let operator = Operator::of(&kms.world).await;
    let mut candidate = active(&kms);
    candidate["kms"]["images"] = json!([]);
    operator.called("StartShadow", json!({ "auth_config_json": candidate.to_string(), "name": "" })).await;
    let opened = replica(0).build();
    opened.emit("ssh-enabled", b"");
    assert_eq!(
        root_keys(&kms, &opened).await.refusal(),
        (403, "Boot denied: aggregated MR not allowed".to_owned())
    );
    let line = denied(&kms.world, &opened).await;
    assert_eq!((&line["role"], &line["domain"]), (&json!("kms"), &json!(null)));
    let expected = text(&line["expected"]);
    assert!(expected.contains(r#"its event log shows "ssh-enabled""#), "{expected}");
    assert_eq!(kms.world.audited("kms_key_released").len(), 3);
    let counts = async || {
        let report: ShadowReportResponse = operator.call("ShadowReport", json!({})).await.message();
        (report.denied_by_both, report.newly_denied, report.newly_allowed, report.allowed_by_both)
    };
    assert_eq!(counts().await, (1, 0, 0, 0));
    assert_eq!(root_keys(&kms, &small).await.status, 200);
    assert_eq!(counts().await, (1, 1, 0, 0), "one that was not opened is allowed by the entry alone");
    // Nor does a candidate allow it by another entry.
    operator.called("StartShadow", json!({ "auth_config_json": active(&kms).to_string(), "name": "" })).await;
    assert_eq!(root_keys(&kms, &opened).await.status, 403);
    assert_eq!(counts().await, (1, 0, 0, 0));

    // Lite evidence proves the image by digests that its hash covers.
    let case = &test_vectors::json("os_image_v4.json")["lite"][0];
    let lite = kms.guest(case, |_| {}).stage(Stage::Ready).build();
    allow_others(&kms, json!([entry(&lite)]));
    assert_eq!(root_keys(&kms, &lite).await.status, 200);
    let other = kms.guest(case, |registers| registers.rtmr2[0] ^= 1).stage(Stage::Ready).build();
    assert_eq!(root_keys(&kms, &other).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_of_an_image_is_not_enough_where_images_are_not_compared() {
    let world = World::ready().await;
    let kms = Verifying {
        world,
        downloads: Arc::default(),
        settings: String::new(),
        _tools: tempfile::tempdir().expect("directory"),
    };
    let replica = kms.guest(&vectors()["legacy"][0], |_| {}).stage(Stage::Ready).build();
    allow_others(&kms, json!([entry(&replica)]));
    let refusal = (403, "Boot denied: aggregated MR not allowed".to_owned());
    assert_eq!(root_keys(&kms, &replica).await.refusal(), refusal);
    let line = denied(&kms.world, &replica).await;
    let expected = text(&line["expected"]);
    let why = "but this KMS does not compare registers with OS images: set core.image.verify, or list the measurement \
               in kms.mrAggregated";
    assert!(
        expected.contains("an entry of kms.images names its OS image") && expected.ends_with(why),
        "{expected}"
    );
    let remedy = text(&line["remedy"]);
    assert!(remedy.starts_with("add the measurement ") && !remedy.contains("kms.images"), "{remedy}");
    // Nor for the KMS itself.
    let own = json!({
        "osImageHash": hex::encode(kms.world.cvm.os_image_hash()),
        "composeHash": hex::encode(kms.world.cvm.compose_hash()),
    });
    allow(&kms.world, json!([own]));
    let app = kms.world.app(3);
    kms.world.allow_app(&app);
    eventually("a refusal of this KMS itself", async || {
        let (status, told) = kms.app_key(&app).await.refusal();
        (status == 403 && told.contains("KMS is not allowed: aggregated MR not allowed")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_allowed_by_one_entry_from_its_bootstrap_on() {
    let images = Verifying::start().await;
    let vectors = vectors();
    let guest = |case: usize| images.guest(&vectors["legacy"][case], |_| {}).stage(Stage::Ready);
    let [first, second] = [0, 1].map(|case| guest(case).build());
    let entries = json!([entry(&first)]);
    let world_of = async |cvm: &Arc<Cvm>| {
        let mut world = World::stopped_in(Arc::clone(cvm), &images.settings).await;
        allow(&world, entries.clone());
        world.start().await.expect("the KMS starts");
        world
    };
    let source = world_of(&first).await;
    source.bootstrap().await;
    source.finish().await;
    let app = images.guest(&vectors["legacy"][2], |_| {}).build();
    source.allow_app(&app);
    let caller = source.caller().shows(&source.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);

    // Each asks its own policy about the other, and the replica about itself.
    let replica = world_of(&second).await;
    let body = json!({ "domain": DOMAIN, "source_url": format!("https://{}", source.address()) });
    let answer = replica.caller().plain().json("Onboard", body.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    replica.finish().await;
    assert_eq!(replica.root_keys().ca_spki(), source.root_keys().ca_spki());

    // A KMS that has booted something else, and names the same image, neither makes keys nor gets them, and its keys are
    // not taken.
    let altered = images.guest(&vectors["legacy"][0], |it| it.rtmr2[0] ^= 1).stage(Stage::Ready).build();
    // Nor does one that may have been opened.
    let opened = guest(0).build();
    opened.emit("ssh-enabled", b"");
    for other in [altered, opened] {
        let other = world_of(&other).await;
        let (status, told) =
            other.caller().plain().json("Bootstrap", json!({ "domain": DOMAIN })).await.refusal();
        assert!(status == 403 && told.contains("aggregated MR not allowed"), "{status} {told}");
        let (status, told) = other.caller().plain().json("Onboard", body.clone()).await.refusal();
        assert_eq!(status, 403, "{told}");
    }
    assert_eq!(source.audited("kms_key_released").len(), 1);

    // The entry is removed: nothing is released any more.
    source.allowlist.change(|rules| rules["kms"]["images"] = json!([]));
    let (status, told) = caller.json("GetAppKey", json!({})).await.refusal();
    assert_eq!(
        (status, &*told),
        (403, "KMS self authorization failed: KMS is not allowed: aggregated MR not allowed"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_removed_while_the_image_was_measured_allows_nothing() {
    let kms = Verifying::start_with("", "sleep 11").await;
    let replica = kms.guest(&vectors()["legacy"][0], |_| {}).stage(Stage::Ready).build();
    allow_others(&kms, json!([entry(&replica)]));
    let revoked = async {
        eventually("the download", async || (kms.downloads() > 0).then_some(())).await;
        kms.world.allowlist.change(|rules| rules["kms"]["images"] = json!([]));
    };
    let (answer, ()) = tokio::join!(root_keys(&kms, &replica), revoked);
    assert_eq!(answer.refusal(), (403, "Boot denied: aggregated MR not allowed".to_owned()));
    assert!(kms.world.audited("kms_key_released").is_empty());
}

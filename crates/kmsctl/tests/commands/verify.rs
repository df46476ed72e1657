//! `kmsctl verify`: every check passes where it should, and fails by name where it should not.

use std::sync::Arc;

use kms_attest::binding::ReportData;
use kms_attest::identity::{BootInfo, Registers};
use kms_attest::p256::P256Key;
use kms_attest::verify::{Binding, Verified};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

// The path that the test server uses.
use crate::support::{Authority, Desk, Kms, Leaf, Ran, RootKey, World, now, refusal};

/// The identity in the evidence of a world's CVM.
async fn identity(world: &World) -> BootInfo {
    let evidence = world.cvm.evidence(ReportData::ZERO);
    let verified: Verified = world.verifier.verify(&evidence, Binding::SelfReported).await.expect("genuine");
    BootInfo::from(&verified.identity(Registers::RunTime, "").expect("identity"))
}

fn verify<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["verify", url, "--dangerous-root", "root.der", "--json"], more].concat()
}

fn outcome<'a>(report: &'a Value, step: &str) -> (&'a str, &'a str) {
    let steps = report["steps"].as_array().expect("steps");
    let found =
        steps.iter().find(|found| found["step"] == step).unwrap_or_else(|| panic!("no {step}: {report}"));
    (found["outcome"].as_str().expect("outcome"), found["detail"].as_str().expect("detail"))
}

#[track_caller]
fn refuted(ran: Ran, step: &str, reason: &str) -> Value {
    let report = ran.expect(4).json();
    assert_eq!(report["verdict"], "refuted");
    assert_eq!(report["decided_by"], step, "{report}");
    let (outcome, detail) = outcome(&report, step);
    assert_eq!(outcome, "failed", "{report}");
    assert!(detail.contains(reason), "{detail}");
    report
}

#[tokio::test]
async fn a_kms_that_is_what_it_must_be_is_proven() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let who = identity(&world).await;
    let (url, root, k256) = (kms.url(), kms.root_spki(), RootKey::new(7).public().to_string());
    let aggregated = hex::encode(&who.mr_aggregated);
    desk.write(
        "allow.json",
        json!([
            { "name": "another", "mr_aggregated": "00".repeat(32) },
            {
                "name": "production",
                "mr_aggregated": ["11".repeat(32), aggregated],
                "mr_system": hex::encode(&who.mr_system),
                "device_id": [hex::encode(&who.device_id)],
                "compose_hash": hex::encode(&who.compose_hash),
            },
        ])
        .to_string(),
    );
    desk.run(&["app-key", "--dangerous-root", "root.der", "--out", "keys.json", "--kms", &url])
        .await
        .expect(0);
    let pins = [
        "--strict",
        "--allow",
        "allow.json",
        "--root-spki",
        &root,
        "--k256-pubkey",
        &k256,
        "--app-keys",
        "keys.json",
    ];
    let ran = desk.run(&verify(&url, &pins)).await.expect(0);
    let report = ran.json();
    assert_eq!(
        (&report["verdict"], &report["decided_by"], &report["exit"]),
        (&json!("proven"), &Value::Null, &json!(0))
    );
    let steps = report["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 16);
    for step in steps {
        assert_eq!(step["outcome"], "passed", "{step}");
    }
    assert_eq!(outcome(&report, "measurements").1, "production");
    assert_eq!(report["quoted"]["mr_aggregated"], aggregated);
    assert_eq!(report["quoted"]["device_id"], hex::encode(&who.device_id));
    assert_eq!(report["quoted"]["os_image_proven"], false);
    assert_eq!(report["root_spki"], root);
    assert_eq!(report["k256_pubkey"], k256);

    // The root by its fingerprint, the measurement as a flag, for people.
    let print = report["root_spki_sha256"].as_str().expect("text");
    let arguments = [
        "verify",
        "--kms",
        &url,
        "--dangerous-root",
        "root.der",
        "--mr-aggregated",
        &aggregated,
        "--root-spki",
        print,
    ];
    let ran = desk.run(&arguments).await.expect(0);
    assert!(ran.out.contains("PROVEN: every step passed"), "{}", ran.out);
    assert!(!ran.out.contains('\u{1b}'), "no colours without a terminal");
    ran.says("not Intel's");
}

#[tokio::test]
async fn without_pins_the_gaps_are_shown_and_strict_refuses_them() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let url = kms.url();
    let report = desk.run(&verify(&url, &[])).await.expect(0).json();
    assert_eq!((&report["verdict"], &report["decided_by"]), (&json!("incomplete"), &json!("measurements")));
    for step in ["measurements", "root_pin"] {
        let (outcome, detail) = outcome(&report, step);
        assert_eq!(outcome, "not_checked");
        assert!(detail.starts_with("nothing is pinned"), "{detail}");
    }
    let report = desk.run(&verify(&url, &["--strict"])).await.expect(4).json();
    assert_eq!((&report["verdict"], &report["decided_by"]), (&json!("incomplete"), &json!("measurements")));
    let ran = desk.run(&["verify", &url, "--dangerous-root", "root.der"]).await.expect(0);
    assert!(ran.out.contains("INCOMPLETE: nothing failed, 2 steps were not checked"), "{}", ran.out);
}

#[tokio::test]
async fn certificates_that_are_not_a_kms_of_this_root_are_refused() {
    let world = World::start().await;
    let stolen = Leaf { key: Arc::new(P256Key::generate()), ..world.attested_leaf() };
    let app = Leaf { usage: Some("app:custom"), ..world.attested_leaf() };
    let elsewhere = Leaf { names: vec!["kms.example".into()], ..world.attested_leaf() };
    for (leaf, step, reason) in [
        (stolen, "key_bound", "another key"),
        (app, "usage", "app:custom"),
        (Leaf { usage: None, ..world.attested_leaf() }, "usage", "usage"),
        (elsewhere, "chain", "the certificate is not for 127.0.0.1"),
        (Leaf::kms(), "quote_present", "carries no attestation"),
    ] {
        let kms = Kms::showing(&world, leaf).await;
        let desk = Desk::in_world(&world);
        refuted(desk.run(&verify(&kms.url(), &[])).await, step, reason);
    }
}

#[tokio::test]
async fn another_root_is_refused() {
    let world = World::start().await;
    // A root that did not issue the certificate.
    let other = Authority::new().root_pem;
    let foreign = other.clone();
    let kms = Kms::altered(&world, move |method, answer| {
        if matches!(method, "GetTempCaCert" | "GetMeta") {
            answer["ca_cert"] = foreign.clone().into();
        }
        None
    })
    .await;
    let desk = Desk::in_world(&world);
    refuted(desk.run(&verify(&kms.url(), &[])).await, "chain", "not issued by this root");

    let kms = Kms::altered(&world, move |method, answer| {
        if method == "GetMeta" {
            answer["ca_cert"] = other.clone().into();
        }
        None
    })
    .await;
    refuted(desk.run(&verify(&kms.url(), &[])).await, "root", "different root CAs");

    let honest = Kms::honest(&world).await;
    let pin = hex::encode(P256Key::generate().spki_der());
    for pin in [pin, "ab".repeat(32)] {
        let ran = desk.run(&verify(&honest.url(), &["--root-spki", &pin])).await;
        refuted(ran, "root_pin", "another public key than the pinned one");
    }
    desk.run(&verify(&honest.url(), &["--root-spki", "abcd"])).await.expect(2).says("must be 91 bytes");
}

#[tokio::test]
async fn a_debug_quote_is_refused() {
    let world = World::with(|cvm| cvm.debug()).await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let report = refuted(desk.run(&verify(&kms.url(), &[])).await, "not_debug", "debug mode is enabled");
    assert_eq!(outcome(&report, "quote_genuine").0, "not_checked");
}

#[tokio::test]
async fn a_quote_of_other_hardware_is_refused() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let url = kms.url();
    // The collateral service of the simulator is not Intel's either.
    let report = desk.run(&["verify", &url, "--json"]).await;
    assert_ne!(report.code, 0);
    assert_ne!(outcome(&report.json(), "quote_genuine").0, "passed");
    // From a bundle, where no service can refuse first.
    desk.run(&verify(&url, &["--save-bundle", "bundle.json"])).await.expect(0);
    refuted(desk.run(&["verify", "--offline", "bundle.json", "--json"]).await, "quote_genuine", "");
}

#[tokio::test]
async fn the_wrong_measurement_is_refused_with_what_differs() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let who = identity(&world).await;
    let (url, wrong) = (kms.url(), "ab".repeat(32));
    let ran = desk.run(&verify(&url, &["--mr-aggregated", &wrong])).await;
    refuted(ran, "measurements", &format!("mr_aggregated is {}", hex::encode(&who.mr_aggregated)));
    let aggregated = hex::encode(&who.mr_aggregated);
    for part in ["mr_system", "device_id", "compose_hash"] {
        desk.write("allow.json", json!({ "mr_aggregated": aggregated, (part): wrong }).to_string());
        refuted(
            desk.run(&verify(&url, &["--allow", "allow.json"])).await,
            "measurements",
            &format!("{part} is "),
        );
    }
    // The claimed configuration is not proven by the quote.
    let image = hex::encode(world.cvm.os_image_hash());
    desk.write("allow.json", json!({ "os_image_hash": image }).to_string());
    let ran = desk.run(&verify(&url, &["--allow", "allow.json"])).await;
    refuted(ran, "measurements", "os_image_hash is a claim that the quote does not prove");
    // Several files and flags are alternatives.
    let ran =
        desk.run(&verify(&url, &["--allow", "allow.json", "--mr-aggregated", &aggregated])).await.expect(0);
    assert_eq!(outcome(&ran.json(), "measurements").0, "passed");

    desk.write("allow.json", "{\n \"mr_aggregated\": 7\n}");
    let ran = desk.run(&verify(&url, &["--allow", "allow.json"])).await.expect(2);
    ran.says("allow.json: ");
}

#[tokio::test]
async fn an_event_log_that_was_not_measured_is_refused() {
    let world = World::start().await;
    let leaf = Leaf::kms();
    let mut evidence = world.cvm.evidence(ReportData::ra_tls(&leaf.key.spki_der()));
    evidence.stack.runtime_events[1].payload = vec![0xee; 20];
    let leaf = Leaf { evidence: Some(evidence.stripped().encode()), ..leaf };
    let kms = Kms::showing(&world, leaf).await;
    let desk = Desk::in_world(&world);
    let ran = desk.run(&verify(&kms.url(), &["--mr-aggregated", &"ab".repeat(32)])).await;
    let report = refuted(ran, "event_log", "RTMR3 mismatch");
    assert_eq!(outcome(&report, "measurements").0, "not_checked");
}

#[tokio::test]
async fn a_platform_out_of_date_is_refused_unless_accepted() {
    let world = World::with(|cvm| cvm.tcb(kms_simulator::TcbLevel::OutOfDate)).await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let url = kms.url();
    let report = refuted(desk.run(&verify(&url, &[])).await, "tcb", "OutOfDate; accepted: UpToDate");
    let advisories = report["quoted"]["advisory_ids"].clone();
    let ids: Vec<&str> =
        advisories.as_array().expect("list").iter().map(|id| id.as_str().expect("text")).collect();
    assert!(!ids.is_empty(), "{report}");
    let accepting = ["--tcb", "UpToDate,OutOfDate"];
    let report = desk.run(&verify(&url, &accepting)).await.expect(0).json();
    assert_eq!(outcome(&report, "tcb"), ("passed", "OutOfDate"));
    assert_eq!(outcome(&report, "advisories").0, "not_checked");
    let ran = desk.run(&verify(&url, &["--tcb", "OutOfDate", "--accept-advisory", "INTEL-SA-0"])).await;
    refuted(ran, "advisories", ids[0]);
    let all = ids.join(",");
    let report =
        desk.run(&verify(&url, &["--tcb", "OutOfDate", "--accept-advisory", &all])).await.expect(0).json();
    assert_eq!(outcome(&report, "advisories").0, "passed");
    let ran =
        desk.run(&verify(&url, &["--tcb", "OutOfDate", "--accept-advisory", "INTEL-SA-0"])).await.json();
    assert_eq!(outcome(&ran, "k256_attested").0, "failed", "{ran}");
    let other = ["--tcb", "OutOfDate", "--accept-advisory", &all, "--bootstrap-advisory", "INTEL-SA-0"];
    refuted(desk.run(&verify(&url, &other)).await, "k256_attested", "advisories that are not accepted");
    let ran = desk.run(&verify(&url, &["--tcb", "OutOfDate", "--bootstrap-tcb", "UpToDate"])).await;
    refuted(ran, "k256_attested", "the keys were made on a platform that is OutOfDate");
}

#[tokio::test]
async fn a_k256_key_that_was_not_attested_is_refused() {
    let world = World::start().await;
    let desk = Desk::in_world(&world);
    let other = RootKey::new(8).public().to_string();
    type Lie = fn(&mut Value, &str);
    let lies: [(Lie, &str); 5] = [
        (|meta, other| meta["k256_pubkey"] = other.into(), "another k256 key than GetMeta"),
        (
            |meta, other| {
                meta["k256_pubkey"] = other.into();
                meta["bootstrap_info"]["k256_pubkey"] = other.into();
            },
            "vouches for other keys",
        ),
        (|meta, _| meta["bootstrap_info"]["ca_pubkey"] = "00".repeat(91).into(), "another root CA"),
        (|meta, _| meta["bootstrap_info"]["attestation"] = "".into(), "without a TEE"),
        (|meta, _| meta["bootstrap_info"]["attestation"] = "0102".into(), ""),
    ];
    for (lie, reason) in lies {
        let other = other.clone();
        let kms = Kms::altered(&world, move |method, answer| {
            if method == "GetMeta" {
                lie(answer, &other);
            }
            None
        })
        .await;
        refuted(desk.run(&verify(&kms.url(), &[])).await, "k256_attested", reason);
    }

    let honest = Kms::honest(&world).await;
    let ran = desk.run(&verify(&honest.url(), &["--k256-pubkey", &other])).await;
    refuted(ran, "k256_attested", "pinned is");

    // A replica has no bootstrap statement: a pin replaces it.
    let replica = Kms::altered(&world, |method, answer| {
        if method == "GetMeta" {
            answer["bootstrap_info"] = Value::Null;
        }
        None
    })
    .await;
    let report = desk.run(&verify(&replica.url(), &[])).await.expect(0).json();
    assert_eq!(outcome(&report, "k256_attested").0, "not_checked");
    let key = RootKey::new(7).public().to_string();
    let report = desk.run(&verify(&replica.url(), &["--k256-pubkey", &key])).await.expect(0).json();
    assert_eq!(outcome(&report, "k256_attested").0, "passed");
}

#[tokio::test]
async fn app_keys_of_another_kms_are_refused() {
    let world = World::start().await;
    let desk = Desk::in_world(&world);
    let forged = Kms::altered(&world, |method, answer| {
        if method == "GetAppEnvEncryptPubKey" {
            *answer = RootKey::new(8).env_key(kms_attest::identity::AppId([0; 20]), now());
        }
        None
    })
    .await;
    refuted(desk.run(&verify(&forged.url(), &[])).await, "app_key_chain", "not by the k256 key");
    let stale = Kms::altered(&world, |method, answer| {
        if method == "GetAppEnvEncryptPubKey" {
            *answer = RootKey::new(7).env_key(kms_attest::identity::AppId([0; 20]), now() - 4000);
        }
        None
    })
    .await;
    refuted(desk.run(&verify(&stale.url(), &[])).await, "app_key_chain", "s ago");

    let (mine, other) = (Kms::honest(&world).await, Kms::honest(&world).await);
    let url = mine.url();
    desk.run(&["app-key", "--dangerous-root", "root.der", "--out", "keys.json", "--kms", &url])
        .await
        .expect(0);
    let ran = desk.run(&verify(&other.url(), &["--app-keys", "keys.json"])).await;
    refuted(ran, "released_keys", "another root CA");
    let mut keys: Value = serde_json::from_str(&desk.read("keys.json")).expect("JSON");
    keys["k256_key"] = "0a".repeat(32).into();
    desk.write("keys.json", keys.to_string());
    refuted(desk.run(&verify(&url, &["--app-keys", "keys.json"])).await, "released_keys", "k256_signature");
    keys["app_id"] = "12".into();
    desk.write("keys.json", keys.to_string());
    desk.run(&verify(&url, &["--app-keys", "keys.json"]))
        .await
        .expect(2)
        .says("keys.json: app_id must be 20 bytes");
}

#[tokio::test]
async fn app_keys_of_other_root_epochs_are_those_of_a_kms_that_states_them() {
    let world = World::start().await;
    let desk = Desk::in_world(&world);
    let old = Kms::honest(&world).await;
    desk.run(&["app-key", "--dangerous-root", "root.der", "--out", "keys.json", "--kms", &old.url()])
        .await
        .expect(0);
    let ca: [u8; 91] = hex::decode(old.root_spki()).expect("hex").try_into().expect("a public key");
    // Released under the root key of seed 8, which a KMS with another root CA and the root key of seed 7 has as epoch 1.
    let mut keys: Value = serde_json::from_str(&desk.read("keys.json")).expect("JSON");
    let id: [u8; 20] =
        hex::decode(keys["app_id"].as_str().expect("hex")).expect("hex").try_into().expect("20");
    let secret: [u8; 32] =
        hex::decode(keys["k256_key"].as_str().expect("hex")).expect("hex").try_into().expect("32");
    let key = kms_client::statement::Signer::of_secret(&secret).expect("a key");
    let id = kms_attest::identity::AppId(id);
    keys["k256_signature"] = hex::encode(RootKey::new(8).app_key_signature(id, &key)).into();
    keys["root_epoch"] = 1.into();
    desk.write("keys.json", keys.to_string());
    let kms = async |number: u32, stated_by: u8, of: u8| {
        let signer = RootKey::new(of).public();
        let epoch = json!({
            "number": number,
            "ca_pubkey": hex::encode(ca),
            "k256_pubkey": hex::encode(signer.as_bytes()),
            "signature": hex::encode(RootKey::new(stated_by).root_epoch_signature(number, &ca, &signer)),
        });
        Kms::altered(&world, move |method, answer| {
            if method == "GetMeta" {
                answer["epochs"] = json!([epoch]);
            }
            None
        })
        .await
    };
    let check = async |kms: &Kms| desk.run(&verify(&kms.url(), &["--app-keys", "keys.json"])).await;
    let report = check(&kms(1, 7, 8).await).await.expect(0).json();
    let (found, detail) = outcome(&report, "released_keys");
    assert!(found == "passed" && detail.contains("root epoch 1"), "{report}");
    refuted(check(&kms(1, 9, 8).await).await, "released_keys", "another root CA");
    refuted(check(&kms(2, 7, 8).await).await, "released_keys", "of epoch 2");
    refuted(check(&kms(1, 7, 9).await).await, "released_keys", "not of this KMS");
    // An epoch with the root key of the KMS itself states no root CA: nobody signed that.
    refuted(check(&kms(1, 9, 7).await).await, "released_keys", "another root CA");
}

#[tokio::test]
async fn what_cannot_be_found_out_is_neither_proven_nor_refuted() {
    let world = World::start().await;
    let desk = Desk::in_world(&world);
    let report = desk.run(&verify("https://127.0.0.1:1", &[])).await.expect(1).json();
    assert_eq!((&report["verdict"], &report["decided_by"]), (&json!("unknown"), &json!("certificate")));
    assert!(outcome(&report, "certificate").1.contains("connection failed"));

    let kms = Kms::altered(&world, |method, _| {
        if method == "GetAppEnvEncryptPubKey" { refusal(503, "KMS self authorization failed") } else { None }
    })
    .await;
    let report = desk.run(&verify(&kms.url(), &[])).await.expect(1).json();
    assert_eq!(report["decided_by"], "app_key_chain");
    assert!(outcome(&report, "app_key_chain").1.contains("KMS self authorization failed"));

    let honest = Kms::honest(&world).await;
    let desk = desk.with("KMS_PCCS_URL", "http://127.0.0.1:1");
    let report = desk.run(&verify(&honest.url(), &[])).await.expect(1).json();
    assert_eq!(report["decided_by"], "quote_genuine");
    assert_eq!(outcome(&report, "key_bound").0, "not_checked");
}

#[tokio::test]
async fn a_collateral_service_that_fails_is_named_with_what_was_asked_and_why() {
    let world = World::start().await;
    let desk = Desk::in_world(&world);
    let kms = Kms::honest(&world).await;
    let url = kms.url();
    // A TLS server with another certificate, for which there is no collateral either.
    let stranger = Kms::honest(&world).await;
    let stranger = stranger.url().trim_end_matches("/prpc").to_owned();
    let absent = PccsRoutes::start(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let no_chain = PccsRoutes::start(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    for (service, item, why) in [
        ("http://127.0.0.1:1", "pck crl", "Connection refused"),
        (&stranger, "pck crl", "UnknownIssuer"),
        (&absent, "pck crl", "answered 404"),
        (&no_chain, "pck crl", "missing SGX-PCK-CRL-Issuer-Chain"),
    ] {
        let desk = Desk::in_world(&world).with("KMS_PCCS_URL", service);
        let ran = desk.run(&verify(&url, &["--save-bundle", "bundle.json"])).await.expect(1);
        let detail = outcome(&ran.json(), "quote_genuine").1.to_owned();
        for expected in [service, item, why] {
            assert!(detail.contains(expected), "{expected} is missing in {detail}");
        }
        // The bundle gives the same result, and so do other commands that verify.
        let offline = ["verify", "--offline", "bundle.json", "--dangerous-root", "root.der", "--json"];
        assert_eq!(outcome(&desk.run(&offline).await.expect(1).json(), "quote_genuine").1, detail);
        let app_key = ["app-key", "--dangerous-root", "root.der", "--out", "keys.json", "--kms", &url];
        let ran = desk.run(&app_key).await.expect(1);
        for expected in [service, item, why] {
            assert!(ran.err.contains(expected), "{expected} is missing in {}", ran.err);
        }
    }
    // Several: each is named.
    let both = format!("http://127.0.0.1:1,{absent}");
    let report = desk.with("KMS_PCCS_URL", &both).run(&verify(&url, &[])).await.expect(1).json();
    let detail = outcome(&report, "quote_genuine").1;
    assert!(detail.contains("http://127.0.0.1:1: ") && detail.contains(&format!("{absent}: ")), "{detail}");
}

#[tokio::test]
async fn a_platform_under_an_untrusted_root_is_refuted_online_and_from_a_bundle() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let url = kms.url();
    let desk = Desk::in_world(&world);
    // Intel's root, which did not issue the simulated platform's certificate; no collateral is requested.
    let ran = desk.run(&["verify", &url, "--json", "--save-bundle", "own.json"]).await;
    let online = refuted(ran, "quote_genuine", "does not lead to the trusted root");
    assert_eq!(outcome(&online, "k256_attested").0, "failed");
    let people = desk.run(&["verify", &url]).await.expect(4);
    assert!(people.out.contains("FAIL  quote genuine"), "{}", people.out);
    desk.run(&verify(&url, &["--save-bundle", "other.json"])).await.expect(0);
    for bundle in ["own.json", "other.json"] {
        let report = refuted(
            desk.run(&["verify", "--offline", bundle, "--json"]).await,
            "quote_genuine",
            "does not lead to the trusted root",
        );
        assert_eq!(report["steps"].as_array().map(Vec::len), online["steps"].as_array().map(Vec::len));
        assert_eq!(outcome(&report, "k256_attested").0, "failed");
    }
}

/// A collateral service with one response to everything.
struct PccsRoutes;

impl PccsRoutes {
    async fn start(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
        url
    }
}

#[tokio::test]
async fn kept_answers_prove_the_same_without_the_kms() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let (url, root) = (kms.url(), kms.root_spki());
    let who = hex::encode(identity(&world).await.mr_aggregated);
    let pins = ["--strict", "--root-spki", &root, "--mr-aggregated", &who];
    let save = [&pins[..], &["--save-bundle", "bundle.json"]].concat();
    let online = desk.run(&verify(&url, &save)).await.expect(0).json();
    desk.run(&verify(&url, &["--save-bundle", "bundle.json"])).await.expect(2).says("exists; --force");
    drop(kms);

    // No collateral service either.
    let desk = desk.with("KMS_PCCS_URL", "http://127.0.0.1:1").with("KMS_URL", "https://127.0.0.1:1");
    let offline = |more: &[&'static str]| {
        let base = ["verify", "--offline", "bundle.json", "--dangerous-root", "root.der", "--json"];
        [&base[..], more].concat()
    };
    let ran = desk.run(&[&offline(&[])[..], &pins[..]].concat()).await.expect(0);
    assert_eq!(ran.json()["steps"], online["steps"]);
    assert_eq!(ran.json()["quoted"], online["quoted"]);

    // Of this KMS, and of no other.
    desk.run(&[&offline(&[])[..], &[&url]].concat()).await.expect(0);
    let ran = desk.run(&offline(&["https://kms.example"])).await.expect(4);
    ran.says("not of https://kms.example/prpc");
    desk.run(&[&offline(&["--kms"])[..], &[&url]].concat()).await.expect(0);
    let ran = desk.run(&offline(&["--kms", "https://kms.example"])).await.expect(4);
    ran.says("not of https://kms.example/prpc");
    let ran = desk.run(&[&offline(&["--kms", "https://kms.example"])[..], &[&url]].concat()).await.expect(2);
    ran.says("two KMSs are named");

    // At another time: before the collateral is valid, or after.
    for at in ["1000000000", "4102400000"] {
        let ran = desk.run(&offline(&["--at", at])).await;
        refuted(ran, "quote_genuine", "");
    }
    // Later only the signature of an app's key can be verified; before the responses, nothing.
    let bundle: Value = serde_json::from_str(&desk.read("bundle.json")).expect("JSON");
    let taken = bundle["taken_at"].as_u64().expect("a time");
    for (at, expected, detail) in [
        (taken + 400, "passed", "only the signature was checked: it is not fresh"),
        (taken - 59, "passed", "is of the k256 key"),
        (taken - 61, "failed", "taken after the time at which they are judged"),
    ] {
        let ran = desk.run(&[&offline(&["--at"])[..], &[&at.to_string()]].concat()).await;
        let report = ran.json();
        let (step, why) = outcome(&report, "app_key_chain");
        assert!(step == expected && why.contains(detail), "{at}: {step} {why}");
    }
    desk.run(&["verify", &url, "--at", "7"]).await.expect(2).says("--offline");

    // Every part of the document is checked.
    let bundle: Value = serde_json::from_str(&desk.read("bundle.json")).expect("JSON");
    assert!(!bundle.to_string().contains("PRIVATE KEY"));
    for (path, value, step) in [
        ("/server_certificate", json!(Authority::new().root_pem), "chain"),
        ("/ca_cert", json!(Authority::new().root_pem), "root"),
        ("/meta/k256_pubkey", json!(RootKey::new(8).public().to_string()), "k256_attested"),
        ("/env_key/app_id", json!("ee".repeat(20)), "app_key_chain"),
        (
            "/collateral/tcb_info",
            json!(bundle["collateral"]["tcb_info"].as_str().expect("text").replace("UpToDate", "OutOfDate")),
            "quote_genuine",
        ),
        ("/taken_at", json!(7), "app_key_chain"),
        ("/url", json!("https://kms.example"), "chain"),
    ] {
        let mut changed = bundle.clone();
        *changed.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        desk.write("bundle.json", changed.to_string());
        refuted(desk.run(&offline(&[])).await, step, "");
    }
    for part in ["server_certificate", "ca_cert", "meta", "env_key", "collateral", "bootstrap_collateral"] {
        let mut changed = bundle.clone();
        changed[part] = Value::Null;
        desk.write("bundle.json", changed.to_string());
        let report = desk.run(&offline(&[])).await.expect(1).json();
        assert_eq!(report["verdict"], "unknown", "{part}");
    }
    for (text, expected) in [("", "bundle.json: EOF"), ("{}", "missing field"), ("[1]", "bundle.json: ")] {
        desk.write("bundle.json", text);
        desk.run(&offline(&[])).await.expect(2).says(expected);
    }
}

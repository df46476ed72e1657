//! `kmsctl app-key` against KMSs that a guest may trust, and others.

use std::sync::Arc;
use std::time::Instant;

use kms_attest::p256::P256Key;
use serde_json::{Value, json};

use crate::support::{Desk, Kms, Leaf, Reply, World, refusal};

const OUT: [&str; 5] = ["app-key", "--dangerous-root", "root.der", "--out", "keys.json"];

fn fetch<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&OUT[..], &["--kms", url], more].concat()
}

#[tokio::test]
async fn keys_go_into_a_file_that_only_its_owner_reads() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let spki = kms.root_spki();
    let ran = desk.run(&fetch(&kms.url(), &["--key-provider-id", &spki, "--json"])).await.expect(0);
    assert_eq!(desk.mode("keys.json"), 0o600);
    let report = ran.json();
    assert_eq!(report["key_provider_id"], spki);
    assert_eq!(report["key_provider_pinned"], true);
    assert_eq!(report["app_id"], hex::encode(world.cvm.app_id()));
    assert_eq!(report["server_tcb_status"], "UpToDate");
    let keys: Value = serde_json::from_str(&desk.read("keys.json")).expect("JSON");
    assert_eq!(keys["disk_crypt_key"], "d1".repeat(32));
    assert_eq!(keys["k256_key"], "09".repeat(32));
    assert!(keys["temp_ca_key"].as_str().expect("text").contains("PRIVATE KEY"));
    for secret in ["d1".repeat(32), "09".repeat(32), "PRIVATE KEY".into()] {
        assert!(!ran.out.contains(&secret) && !ran.err.contains(&secret), "secrets go into the file only");
    }
    ran.says("not Intel's");
    assert_eq!(kms.calls(), ["GetTempCaCert", "GetChallenge", "GetAppKey"]);
}

#[tokio::test]
async fn keys_without_a_receipt_are_kept_and_the_status_says_so() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let ran = desk.run(&fetch(&kms.url(), &["--receipt", "keys.tlog-proof"])).await.expect(4);
    ran.says("gave no receipt").says("the keys were received and kept");
    assert!(desk.read("keys.json").contains("disk_crypt_key"));
    assert!(!desk.path("keys.tlog-proof").exists());
}

#[tokio::test]
async fn an_existing_file_is_overwritten_on_demand_only() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    desk.write("keys.json", "precious");
    let url = kms.url();
    desk.run(&fetch(&url, &[])).await.expect(2).says("keys.json exists; --force overwrites it");
    assert_eq!(desk.read("keys.json"), "precious");
    assert!(kms.calls().is_empty(), "nothing is asked for what cannot be kept");
    desk.run(&fetch(&url, &["--force"])).await.expect(0);
    assert_eq!(desk.mode("keys.json"), 0o600);
    assert!(desk.read("keys.json").contains("disk_crypt_key"));
}

#[tokio::test]
async fn keys_go_to_standard_output_when_asked() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let url = kms.url();
    let arguments = ["app-key", "--dangerous-root", "root.der", "--out", "-", "--kms", &url];
    let ran = desk.run(&arguments).await.expect(0);
    assert_eq!(ran.json()["disk_crypt_key"], "d1".repeat(32));
}

#[tokio::test]
async fn a_server_that_is_no_attested_kms_gets_no_request() {
    let world = World::start().await;
    let app = Leaf { usage: Some("app:custom"), ..world.attested_leaf() };
    let plain = Leaf { usage: None, ..world.attested_leaf() };
    let stolen = Leaf { key: Arc::new(P256Key::generate()), ..world.attested_leaf() };
    let elsewhere = Leaf { names: vec!["kms.example".into()], ..world.attested_leaf() };
    for (leaf, reason) in [
        (Leaf::kms(), "the server certificate does not contain attestation"),
        (app, "Invalid server cert usage: app:custom"),
        (plain, "missing server cert usage"),
        (stolen, "the server's attestation is not valid: report data mismatch"),
        (elsewhere, "TLS handshake failed"),
    ] {
        let kms = Kms::showing(&world, leaf).await;
        let desk = Desk::in_world(&world);
        let ran = desk.run(&fetch(&kms.url(), &["--json"])).await.expect(4);
        assert_eq!(ran.json()["exit"], 4);
        ran.says(reason).says(&kms.url());
        assert_eq!(kms.calls(), ["GetTempCaCert"], "{reason}");
        assert!(!crate::support::exists(&desk.path("keys.json")));
    }
}

#[tokio::test]
async fn a_server_of_other_hardware_gets_no_request() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world);
    let url = kms.url();
    // Without --dangerous-root, Intel's root decides.
    let ran = desk.run(&["app-key", "--out", "keys.json", "--kms", &url]).await;
    assert_ne!(ran.code, 0, "{}", ran.err);
    assert_eq!(kms.calls(), ["GetTempCaCert"]);
}

#[tokio::test]
async fn a_debug_kms_gets_no_request() {
    let world = World::with(|cvm| cvm.debug()).await;
    let kms = Kms::honest(&world).await;
    let ran = Desk::in_world(&world).run(&fetch(&kms.url(), &[])).await.expect(4);
    assert!(ran.err.to_lowercase().contains("debug"), "{}", ran.err);
    assert_eq!(kms.calls(), ["GetTempCaCert"]);
}

#[tokio::test]
async fn an_unattested_server_is_accepted_on_demand_with_a_warning() {
    let world = World::start().await;
    let kms = Kms::showing(&world, Leaf::kms()).await;
    let desk = Desk::in_world(&world);
    let ran = desk.run(&fetch(&kms.url(), &["--dangerous-unattested-server"])).await.expect(0);
    ran.says("a server without attestation is accepted");
}

#[tokio::test]
async fn another_key_provider_than_the_pinned_one_is_refused() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let other = hex::encode(P256Key::generate().spki_der());
    let desk = Desk::in_world(&world);
    let ran = desk.run(&fetch(&kms.url(), &["--key-provider-id", &other])).await.expect(4);
    ran.says("not the pinned key provider");
    assert_eq!(kms.calls(), ["GetTempCaCert"]);
    let ran = desk.run(&fetch(&kms.url(), &["--key-provider-id", "abcd"])).await.expect(2);
    ran.says("must be 91 bytes");
}

#[tokio::test]
async fn a_refusal_of_the_kms_has_its_own_exit_code_and_reason() {
    let world = World::start().await;
    let kms = Kms::altered(&world, |method, _| {
        if method == "GetAppKey" {
            refusal(403, "App not allowed: Boot denied: app not registered")
        } else {
            None
        }
    })
    .await;
    let desk = Desk::in_world(&world);
    let ran = desk.run(&fetch(&kms.url(), &["--json"])).await.expect(3);
    assert_eq!(ran.json()["attempts"][0]["exit"], 3);
    let numbered = Kms::altered(&world, |method, _| {
        let body = json!({ "error": "Boot denied", "code": "denied", "denial_id": "d-17" }).to_string();
        (method == "GetAppKey").then(|| Reply::Status(403, body.into_bytes()))
    })
    .await;
    desk.run(&fetch(&numbered.url(), &[])).await.expect(3).says("Boot denied (denial d-17)");
    ran.says("App not allowed: Boot denied: app not registered");
}

#[tokio::test]
async fn keys_under_another_root_than_the_servers_are_refused() {
    let world = World::start().await;
    let other = crate::support::Authority::new().root_pem;
    let kms = Kms::altered(&world, move |method, answer| {
        if method == "GetAppKey" {
            answer["ca_cert"] = other.clone().into();
        }
        None
    })
    .await;
    let desk = Desk::in_world(&world);
    desk.run(&fetch(&kms.url(), &[])).await.expect(4).says("another key than that of GetTempCaCert");
    assert!(!crate::support::exists(&desk.path("keys.json")));
}

#[tokio::test]
async fn urls_are_tried_in_order_and_each_failure_is_reported() {
    let world = World::start().await;
    let refusing = Kms::altered(&world, |method, _| {
        if method == "GetAppKey" { refusal(403, "Boot denied: maintenance") } else { None }
    })
    .await;
    let honest = Kms::honest(&world).await;
    let closed = "https://127.0.0.1:1/prpc";
    let desk = Desk::in_world(&world);
    let (first, second) = (refusing.url(), honest.url());
    let ran = desk.run(&fetch(closed, &["--kms", &first, "--kms", &second, "--json"])).await.expect(0);
    let report = ran.json();
    assert_eq!(report["kms_url"], second);
    assert_eq!(report["failed"].as_array().expect("list").len(), 2);
    ran.says("https://127.0.0.1:1/prpc: connection failed").says("Boot denied: maintenance");

    // All of them fail: each with its reason, and the gravest decides the exit code.
    let both = format!("{closed},{first}");
    let desk = Desk::in_world(&world).with("KMS_URL", &both);
    let ran = desk.run(&OUT).await.expect(3);
    ran.says("https://127.0.0.1:1/prpc: connection failed").says("Boot denied: maintenance");
    let desk = Desk::in_world(&world);
    desk.run(&fetch(closed, &[])).await.expect(1).says("no KMS released the keys: https://127.0.0.1:1/prpc");
}

#[tokio::test]
async fn the_time_of_all_urls_together_is_bounded() {
    let world = World::start().await;
    let silent = Kms::altered(&world, |method, _| (method == "GetAppKey").then_some(Reply::Hang)).await;
    let desk = Desk::in_world(&world);
    let began = Instant::now();
    let (url, again) = (silent.url(), silent.url());
    let ran = desk.run(&fetch(&url, &["--kms", &again, "--timeout", "5"])).await.expect(1);
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    assert_eq!(ran.err.matches("out of time").count(), 2, "{}", ran.err);
}

#[tokio::test]
async fn a_guest_agent_that_never_answers_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let world = World::start().await;
    let agent = format!("http://{}", silent.local_addr().expect("address"));
    let desk = Desk::in_world(&world).with("DSTACK_AGENT_ADDRESS", &agent);
    let ran = desk.run(&fetch("https://127.0.0.1:1", &["--timeout", "1"])).await.expect(1);
    ran.says("the guest agent gives no vm_config within 1 s");
}

#[tokio::test]
async fn without_a_guest_agent_nothing_is_asked() {
    let world = World::start().await;
    let kms = Kms::honest(&world).await;
    let desk = Desk::in_world(&world).with("DSTACK_AGENT_ADDRESS", "unix:/nonexistent/dstack.sock");
    desk.run(&fetch(&kms.url(), &[])).await.expect(1).says("guest agent");
    assert!(kms.calls().is_empty());
    let desk = desk.with("DSTACK_AGENT_ADDRESS", "ftp://nowhere");
    desk.run(&fetch(&kms.url(), &[])).await.expect(2).says("--agent: attester address must be");
}

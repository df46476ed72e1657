//! `kmsctl verify --attestation` against the real KMS: from a URL, from a file, and each refusal in one sentence.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::World;
use crate::support::kmsctl::Desk;

const ROOT: &[&str] = &["--dangerous-root", "root.der"];

#[tokio::test]
async fn an_outsider_verifies_a_kms_from_its_url_and_later_from_a_file() {
    let world = World::ready().await;
    let desk = Desk::in_world(&world);
    let url = format!("https://localhost:{}", world.address().port());
    let root = hex::encode(Sha256::digest(world.root_keys().ca_spki()));
    let measured = hex::encode(world.cvm.mr_aggregated());
    desk.write("pins.json", json!({ "root_ca_spki_sha256": root, "mr_aggregated": [measured] }).to_string());

    let of_url = ["verify", "--attestation", &url, "--pins", "pins.json", "--save-bundle", "document.json"];
    let report = desk.json(0, &[&of_url[..], ROOT].concat()).await;
    assert_eq!(report["verdict"], "proven");
    assert_eq!(report["tls_key_checked"], true);
    assert_eq!(report["quoted"]["mr_aggregated"], measured);
    assert_eq!(report["stated"]["root"]["ca_spki_sha256"], root);
    assert!(report["stated"]["nonce"].is_string(), "{report}");
    let said = desk
        .run(&[&["verify", &format!("{url}/attestation.json"), "--root-spki", &root], ROOT].concat())
        .await;
    assert_eq!(said.code, 0, "{}", said.text());
    for line in ["PROVEN", "log_key", "Not proved:", "no mr_aggregated is pinned"] {
        assert!(said.out.contains(line), "{line}: {}", said.out);
    }

    world.pccs.set_mode(kms_simulator::PccsMode::Down);
    world.agent.set_mode(kms_simulator::AgentMode::Down);
    let of_file = ["verify", "--attestation", "document.json", "--pins", "pins.json"];
    let report = desk.json(0, &[&of_file[..], ROOT].concat()).await;
    assert_eq!(report["tls_key_checked"], false);
    assert!(report["not_proved"].to_string().contains("the document is from a file"), "{report}");

    let document: Value = serde_json::from_str(&desk.read("document.json")).expect("JSON");
    let mut altered = document.clone();
    let statement =
        document["statement"].as_str().expect("text").replace("\"sealed\":null", "\"sealed\":true");
    altered["statement"] = statement.into();
    desk.write("altered.json", altered.to_string());
    desk.write("cut.json", "{");
    desk.write("other.json", json!({ "mr_aggregated": "00".repeat(32) }).to_string());
    desk.write("misspelt.json", json!({ "mr_agregated": measured }).to_string());
    for (file, pins, more, exit, code) in [
        ("altered.json", "pins.json", &[][..], 4, "report_data"),
        ("cut.json", "pins.json", &[], 4, "malformed"),
        ("document.json", "other.json", &[], 4, "pin_mismatch"),
        ("document.json", "pins.json", &["--at", "4200000000"], 4, "collateral_expired"),
        ("document.json", "pins.json", &["--at", "1600000000"], 4, "time"),
        ("document.json", "misspelt.json", &[], 2, ""),
    ] {
        let asked = [&["verify", "--attestation", file, "--pins", pins], ROOT, more].concat();
        let report = desk.json(exit, &asked).await;
        let refused = report["refusal"]["code"].as_str().unwrap_or_default();
        assert_eq!(refused, code, "{file}, {pins}, {more:?}: {report}");
    }
    // Intel's root.
    let report = desk.json(4, &of_file).await;
    assert_eq!(report["refusal"]["code"], "quote", "{report}");
    for (asked, told) in [
        (&["verify", "--attestation", "document.json"][..], "pin root_ca_spki_sha256 or mr_aggregated"),
        (&["verify", "--attestation", &url, "--pins", "pins.json", "--at", "7"], "--at is for"),
        (&["verify", "--attestation", "http://localhost", "--pins", "pins.json"], "http://localhost"),
    ] {
        let ran = desk.run(asked).await;
        assert!([1, 2].contains(&ran.code) && ran.text().contains(told), "{asked:?}: {}", ran.text());
    }
    // The agent is down, so there is no new document.
    let ran = desk.run(&[&of_url[..5], ROOT].concat()).await;
    assert!(ran.code == 1 && ran.text().contains("gets no quote"), "{}", ran.text());
}

#[tokio::test]
async fn an_outsider_compares_a_kms_with_the_description_of_a_release() {
    let world = World::ready().await;
    let desk = Desk::in_world(&world);
    let url = format!("https://localhost:{}", world.address().port());
    let measured = hex::encode(world.cvm.mr_aggregated());
    let of_url =
        ["verify", "--attestation", &url, "--mr-aggregated", &measured, "--save-bundle", "document.json"];
    let report = desk.json(0, &[&of_url[..], ROOT].concat()).await;
    assert!(report["release"].is_null(), "{report}");
    let program = report["stated"]["program_sha256"].as_str().expect("the program could be read").to_owned();

    let release = |program: &str, sha256: &str| {
        let image = format!("ghcr.io/cvm-kms/kms@sha256:{}", "1".repeat(64));
        json!({ "version": 1, "program": program, "program_version": "0.1.0", "revision": "00ff", "sha256": sha256,
                "images": [image] })
        .to_string()
    };
    desk.write("kms-build.json", release("kms", &program));
    desk.write("other.json", release("kms", &"0".repeat(64)));
    desk.write("kmsctl.json", release("kmsctl", &program));
    // The file whose hash simulated CVMs measure. It names no image.
    desk.write("app-compose.json", "simulated compose file");
    desk.write("changed.json", "simulated compose file ");
    let compared = async |exit: i32, more: &[&str]| {
        let of_file = ["verify", "--attestation", "document.json", "--mr-aggregated", &measured];
        desk.json(exit, &[&of_file[..], ROOT, more].concat()).await
    };
    let report = compared(0, &["--release", "kms-build.json"]).await;
    assert_eq!(report["release"]["finding"], "stated", "{report}");
    assert_eq!(report["release"]["revision"], "00ff");
    assert!(report["not_proved"].to_string().contains("--compose"), "{report}");
    for (release, compose, finding) in [
        ("other.json", "app-compose.json", "other_program"),
        ("kms-build.json", "changed.json", "other_compose"),
        ("kms-build.json", "app-compose.json", "no_image"),
    ] {
        let report = compared(4, &["--release", release, "--compose", compose]).await;
        assert_eq!(report["release"]["finding"], finding, "{report}");
    }
    let report = compared(2, &["--release", "kmsctl.json"]).await;
    assert!(report["error"].to_string().contains("a release of kmsctl, not of kms"), "{report}");
}

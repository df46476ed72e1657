//! A KMS that a client of another language verifies from outside, before and after a restart with another TLS key.

use std::fs;
use std::path::Path;
use std::process::Command;

use kms_attest::p256::P256Key;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::http::request;
use crate::support::process::finish;
use crate::support::program::{Program, Setting};
use crate::support::{DOMAIN, eventually};

/// The KMS, and what a client pins.
pub(crate) struct Outsider {
    setting: Setting,
    program: Program,
    pins: Value,
}

/// Waits until the program shows the document that clients verify. Without a nonce there is no limit to this.
async fn attests(setting: &Setting) {
    eventually("/attestation.json", async || {
        let answer = setting.caller().try_send(request("GET", "/attestation.json", "")).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

impl Outsider {
    pub(crate) async fn new() -> Self {
        let setting = Setting::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"")).await;
        let program = setting.start().await;
        attests(&setting).await;
        let world = &setting.world;
        let root = fs::read_to_string(world.key_file("root-ca.key")).expect("the root key");
        let root = Sha256::digest(P256Key::from_pem(&root).expect("P-256").spki_der());
        let pins = json!({
            "root_ca_spki_sha256": hex::encode(root),
            "mr_aggregated": hex::encode(world.cvm.mr_aggregated()),
            "app_id": hex::encode(world.cvm.app_id()),
        });
        Self { setting, program, pins }
    }

    /// Runs a client that is told the URL, the pins and the root of the platform, and the member `more`. When it makes the file
    /// `restart` in `directory`, the KMS is started again with another TLS key. Returns what the client printed, after the
    /// assertions that hold for each client.
    pub(crate) async fn shown_to(self, client: Command, directory: &Path, more: (&str, &Path)) -> Value {
        let Self { setting, program, pins } = self;
        let world = &setting.world;
        let told = json!({
            "url": format!("https://{}", setting.address),
            "pins": pins,
            "root_ca": hex::encode(world.platform.root_der()),
            (more.0): more.1,
        });
        let client = tokio::spawn(finish(client, told.to_string()));
        eventually("the client asks for the restart", async || {
            (directory.join("restart").exists() || client.is_finished()).then_some(())
        })
        .await;
        if client.is_finished() {
            panic!("{}", client.await.expect("no panic").text());
        }
        assert_eq!(program.stop(Signal::TERM).await, Some(0));
        for name in ["rpc.key", "rpc.crt"] {
            fs::remove_file(world.key_file(name)).expect("the TLS key of the KMS");
        }
        let program = setting.start().await;
        attests(&setting).await;
        fs::File::create(directory.join("restarted")).expect("a file");
        let ran = client.await.expect("no panic").expect_ok();
        assert_eq!(program.stop(Signal::TERM).await, Some(0));
        let got = serde_json::from_str(&ran.out).expect("JSON");
        holds(&got, &pins);
        got
    }
}

/// What each client must have found.
fn holds(got: &Value, pins: &Value) {
    let (before, after) = (&got["before"], &got["after"]);
    for shown in [before, after, &got["saved"], &got["by repository"]] {
        assert_eq!(shown["root"], pins["root_ca_spki_sha256"], "{shown}");
        assert_eq!(shown["mr_aggregated"], pins["mr_aggregated"], "{shown}");
        assert_eq!(shown["app_id"], pins["app_id"], "{shown}");
        assert_eq!(shown["k256_public_key"], got["meta"]["k256_pubkey"], "{shown}");
        assert_eq!(shown["log_key"], got["meta"]["log_key"], "{shown}");
        assert_eq!((&shown["signed_by_root"], &shown["tcb_status"]), (&json!(true), &json!("UpToDate")));
        assert_eq!(shown["fresh"], shown != &got["saved"], "{shown}");
    }
    assert_eq!(before["tls_key"], got["saved"]["tls_key"]);
    assert_ne!(before["tls_key"], after["tls_key"]);
    assert_eq!(got["meta"]["ca_cert"], got["meta after the restart"]["ca_cert"]);
    for (what, expected) in [
        ("health", json!("OK")),
        ("denied", json!("call")),
        ("man in the middle", json!("tls_key")),
        ("sent to the man in the middle", json!(["GET /attestation.json"])),
        ("saved, another pin", json!("pin_mismatch")),
        ("saved, Intel's root", json!("quote")),
        ("wrong pin", json!("pin_mismatch")),
    ] {
        assert_eq!(got[what], expected, "{what}: {got}");
    }
}

//! `profile = "production"` and `kms doctor` as programs: all findings at once, with exit codes, and nothing is written.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kms_ledger::signature::CosigningKey;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::program::Setting;

/// Every file below a directory with its content; sockets and directories without.
fn snapshot(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(snapshot(&path));
        }
        found.insert(path.display().to_string(), fs::read(&path).unwrap_or_default());
    }
    found
}

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn messages(report: &Value, level: &str) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings").iter();
    let of_level = findings.filter(|finding| finding["level"] == level);
    of_level.map(|finding| finding["message"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_examines_a_kms_that_does_not_run_and_writes_nothing() {
    let mut setting = Setting::with("core.admin.auth_token = \"hunter2\"").await;
    let before = snapshot(&setting.world.path(""));
    let told = setting.run(&["doctor"]).await;
    assert_eq!(told.code, 3, "{}", told.text());
    for part in [
        "passed    attester: Evidence over fresh random data was made and verified",
        "passed    collateral: Fetched",
        "passed    clock: ",
        "passed    authorization: The policy (allowlist) allows this KMS",
        "unsafe    core.image.verify: os image verification is disabled",
        ". Set it to true",
        "unsafe    core.attestation.root_ca.tdx: ",
        "unsafe    core.admin.auth_token: it has less than 128 bits",
        "run would start; warnings: 0, unsafe settings: ",
    ] {
        assert!(told.out.contains(part), "{part} is not in {}", told.out);
    }
    let json = setting.run(&["doctor", "--json"]).await;
    assert_eq!(json.code, 3, "{}", json.text());
    let json = report(&json.out);
    assert_eq!((&json["worst"], &json["profile"]), (&json!("advice"), &json!("standard")));
    let unsafe_settings = messages(&json, "advice");
    assert!(unsafe_settings.len() >= 4, "{unsafe_settings:?}");
    assert_eq!(snapshot(&setting.world.path("")), before, "nothing is written");

    setting.world.agent.set_mode(kms_simulator::AgentMode::Down);
    let ill = setting.run(&["doctor"]).await;
    assert_eq!(ill.code, 1, "{}", ill.text());
    assert!(ill.out.contains("USELESS   attester: Guest agent returned status 500."), "{}", ill.out);
    assert!(ill.out.contains("run would come up and release nothing"), "{}", ill.out);
    setting.world.agent.set_mode(kms_simulator::AgentMode::Up);

    setting.configure("rpc.prot = 1");
    let wrong = setting.run(&["doctor", "--json"]).await;
    assert_eq!(wrong.code, 1);
    let wrong = report(&wrong.out);
    assert_eq!((&wrong["worst"], &wrong["profile"]), (&json!("refused"), &Value::Null));
    assert!(messages(&wrong, "refused")[0].starts_with("rpc.prot: unknown key"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_refuses_every_unsafe_setting_at_once() {
    let mut setting = Setting::with("").await;
    let advised = report(&setting.run(&["doctor", "--json"]).await.out);
    let advised = messages(&advised, "advice");
    setting.configure("profile = \"production\"");
    let before = snapshot(&setting.world.path(""));
    for arguments in [&["check"][..], &["doctor"], &[]] {
        let refused = setting.run(arguments).await;
        assert_eq!(refused.code, 1, "{arguments:?}: {}", refused.text());
        for message in &advised {
            assert!(
                refused.text().contains(message),
                "{arguments:?}: {message} is not in {}",
                refused.text()
            );
        }
        assert!(refused.text().contains("Set it to true"), "{}", refused.text());
    }
    assert!(!setting.world.path("certs").exists(), "nothing is made");
    assert_eq!(snapshot(&setting.world.path("")), before, "nothing is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_starts_with_a_safe_configuration() {
    let mut setting = Setting::with("").await;
    setting.configure(
        "profile = \"production\"\n[core]\nimage.verify = true\nadmin.auth_token = \"9f86d081884c7d659a2feaa0c55ad015\"\n\
         [core.attestation]\ninsecure_allow_external_trust_anchors = false\nroot_ca.tdx = \"\"",
    );
    let file = setting.world.path("kms.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    let open = setting.run(&["check"]).await;
    assert_eq!(open.code, 1, "{}", open.out);
    let told = format!("REFUSED   {}: its mode is 0644", file.display());
    assert_eq!(open.out.matches("REFUSED").count(), 1, "{}", open.out);
    assert!(open.out.contains(&told), "{}", open.out);

    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    let fine = setting.run(&["check"]).await.expect_ok();
    assert!(fine.out.contains("profile   production"), "{}", fine.out);
    let program = setting.start().await;
    assert!(program.log().contains("profile=\"production\""), "{}", program.log());
    assert_eq!(program.stop(Signal::TERM).await, Some(0));

    // A variable does not get around it.
    setting.configure("core.admin.auth_token = \"\"");
    let mut command = setting.command(&["check"]);
    command.env("ADMIN_API_TOKEN", "hunter2").env("DSTACK_AGENT_ADDRESS", "http://10.0.2.2:8090");
    let refused = crate::support::process::finish(command, String::new()).await;
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(refused.out.contains("REFUSED   ADMIN_API_TOKEN: it has less than 128 bits"), "{}", refused.out);
    assert!(!refused.out.contains("hunter2"), "{}", refused.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_tells_which_services_cannot_be_reached_and_what_that_stops() {
    let key =
        CosigningKey::from_seed("witness.example/w1".parse().expect("a name"), &[5; 32]).expect("a key");
    let mut setting = Setting::with(&format!(
        "core.ledger.witnesses.list = [\"{} http://127.0.0.1:1\"]\n\
         [[core.notify]]\nurl = 'http://127.0.0.1:1'\nsecret = 'sixteen bytes or more'",
        key.verifying_key()
    ))
    .await;
    let told = setting.run(&["doctor"]).await;
    assert_eq!(told.code, 3, "{}", told.text());
    for (label, what) in
        [("warning", "witness: Of 1 in core.ledger.witnesses"), ("warning", "notify: Of 1 in core.notify")]
    {
        let line = format!("{label:<9} {what} cannot be reached: number 1: connection refused. Make sure");
        assert!(told.out.contains(&line), "{line} is not in {}", told.out);
    }
    setting.configure("core.ledger.witnesses.require = 1");
    let told = setting.run(&["doctor"]).await;
    assert_eq!(told.code, 1, "{}", told.text());
    assert!(told.out.contains("USELESS   witness: Of 1 in core.ledger.witnesses"), "{}", told.out);
}

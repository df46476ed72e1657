//! The whole story, told twice in one directory.

use std::{
    path::Path,
    process::{Command, Output},
};

fn sandbox(dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kms-sandbox"))
        .args(["--once", "--port", "0", "--dir"])
        .arg(dir)
        .env_remove("RUST_LOG")
        .env_remove("DSTACK_AGENT_ADDRESS")
        .output()
        .expect("the sandbox runs")
}

fn story(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What follows the names of the facts that must not change.
fn keys(story: &str) -> Vec<String> {
    ["app_id", "disk key", "env key", "k256 key", "key provider"]
        .iter()
        .map(|name| {
            let line = story.lines().find(|line| line.trim_start().starts_with(name));
            line.unwrap_or_else(|| panic!("{name} is missing in\n{story}")).to_owned()
        })
        .collect()
}

#[test]
fn a_second_start_finds_the_keys_and_releases_the_same() {
    let home = tempfile::tempdir().expect("directory");
    let dir = home.path().join("state of mine");

    let first = story(&sandbox(&dir));
    for expected in [
        "refused          KMS is not allowed to bootstrap: boot denied: ",
        "bootstrapped     ",
        "refused          App not allowed: Boot denied: app not registered",
        "released         over RA-TLS",
    ] {
        assert!(first.contains(expected), "{expected} is missing in\n{first}");
    }
    assert!(!first.contains('\u{1b}'), "no colours where there is no terminal");

    let second = story(&sandbox(&dir));
    assert!(second.contains("keys found") && second.contains("the same keys"), "{second}");
    assert!(!second.contains("refused"), "{second}");
    assert_eq!(keys(&first), keys(&second));

    for file in ["certs/root-ca.key", "certs/root-k256.key", "certs/tmp-ca.key"] {
        let secret = std::fs::read(dir.join(file)).expect(file);
        let log = std::fs::read_to_string(dir.join("kms.log")).expect("log");
        for text in [&first, &second, &log] {
            assert!(!text.contains(&hex::encode(&secret)), "{file} shows");
        }
    }
}

#[test]
fn keys_that_changed_are_an_error() {
    let home = tempfile::tempdir().expect("directory");
    story(&sandbox(home.path()));
    let path = home.path().join("app-keys.json");
    let text = std::fs::read_to_string(&path).expect("remembered");
    let mut remembered: serde_json::Value = serde_json::from_str(&text).expect("json");
    remembered["disk"] = "00000000".into();
    std::fs::write(&path, remembered.to_string()).expect("changed");
    let output = sandbox(home.path());
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("error: the keys of the app are not those of the earlier run"), "{error}");
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let home = tempfile::tempdir().expect("directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = taken.local_addr().expect("address").port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_kms-sandbox"))
        .args(["--once", "--port", &port, "--dir"])
        .arg(home.path())
        .output()
        .expect("the sandbox runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&port) && error.contains("--port"), "{error}");
}

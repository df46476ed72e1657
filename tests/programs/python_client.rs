//! The Python client: built as a wheel, installed, and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_attest::p256::P256Key;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::http::request;
use crate::support::process::{Ran, finish};
use crate::support::program::Setting;
use crate::support::{DOMAIN, eventually, tools};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python");

/// A virtual environment with the wheel of the client, and the directory that holds it.
struct Installed {
    /// Python with the pinned packages, which has no client.
    tools: PathBuf,
    /// Python with the client too.
    python: PathBuf,
    directory: tempfile::TempDir,
}

/// `python` without our environment: no `PYTHONPATH`, no proxy, no compiled files beside the sources.
fn command(python: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg("-B").args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

async fn ok(python: &Path, arguments: &[&str]) -> Ran {
    finish(command(python, arguments), String::new()).await.expect_ok()
}

impl Installed {
    /// Builds sdist and wheel, the wheel out of the sdist, and installs it as `pip install` would: what it needs must be
    /// there, in the versions that it names.
    async fn new() -> Self {
        let tools = tokio::task::spawn_blocking(|| tools::python("python_client"));
        let tools = tools.await.expect("the tools are installed");
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let [dist, venv] = ["dist", "venv"].map(|name| path(name).to_str().expect("text").to_owned());
        ok(&tools, &["-m", "build", "--no-isolation", "--outdir", &dist, SOURCE]).await;
        ok(&tools, &["-m", "venv", "--without-pip", &venv]).await;
        let python = path("venv/bin/python");
        let packages = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let [ours, theirs] = [ok(&tools, &["-c", packages]).await, ok(&python, &["-c", packages]).await];
        let pinned = Path::new(theirs.out.trim()).join("pinned.pth");
        fs::write(pinned, &ours.out).expect("the pinned packages");
        let wheel = format!("{dist}/cvm_kms-0.1.0-py3-none-any.whl");
        let target = python.to_str().expect("text");
        ok(&tools, &["-m", "pip", "--python", target, "install", "-q", "--no-index", &wheel]).await;
        Self { tools, python, directory }
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        ok(&self.python, arguments).await
    }
}

#[tokio::test]
async fn the_python_package_builds_and_its_own_tests_pass() {
    let installed = Installed::new().await;
    let place = installed.run(&["-c", "import cvm_kms; print(cvm_kms.__file__)"]).await;
    assert!(Path::new(place.out.trim()).starts_with(installed.directory.path()), "{}", place.out);
    let wheel = installed.directory.path().join("dist/cvm_kms-0.1.0-py3-none-any.whl");
    let files = installed.run(&["-m", "zipfile", "-l", wheel.to_str().expect("text")]).await.out;
    for file in ["cvm_kms/py.typed", "licenses/LICENSE", "cvm_kms/_verify.py"] {
        assert!(files.contains(file), "{file} is not in the wheel: {files}");
    }
    let mut tests = command(&installed.python, &["-m", "unittest"]);
    tests.current_dir(SOURCE);
    let ran = finish(tests, String::new()).await.expect_ok();
    assert!(ran.err.contains("\nOK\n") && !ran.err.contains("Ran 0 tests"), "{}", ran.text());
}

#[tokio::test]
async fn the_types_of_the_python_package_hold() {
    let installed = Installed::new().await;
    let cache = installed.directory.path().join("mypy");
    let script = installed.directory.path().join("user.py");
    // Each line with `ignore` must be an error, or `warn_unused_ignores` makes it one.
    fs::write(
        &script,
        "import cvm_kms\n\
         session = cvm_kms.connect('https://kms.example.com', {'mr_aggregated': '00'})\n\
         text: str = session.attestation.mr_aggregated\n\
         number: int = session.attestation.mr_aggregated  # type: ignore[assignment]\n\
         cvm_kms.connect('https://kms.example.com', verify=False)  # type: ignore[call-arg]\n",
    )
    .expect("a file");
    let cache = cache.to_str().expect("text");
    let python = installed.python.to_str().expect("text");
    for what in ["src", script.to_str().expect("text")] {
        let arguments = ["-m", "mypy", "--strict", "--cache-dir", cache, "--python-executable", python, what];
        let mut mypy = command(&installed.tools, &arguments);
        mypy.current_dir(SOURCE);
        finish(mypy, String::new()).await.expect_ok();
    }
}

/// Waits until the program shows the document that clients verify. Without a nonce there is no limit to this.
async fn attests(setting: &Setting) {
    eventually("/attestation.json", async || {
        let answer = setting.caller().try_send(request("GET", "/attestation.json", "")).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_verifies_a_real_kms_and_follows_it_over_a_restart() {
    let installed = Installed::new().await;
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
    let path = |name: &str| installed.directory.path().join(name);
    let asked = json!({
        "url": format!("https://{}", setting.address),
        "pins": pins,
        "root_ca": hex::encode(world.platform.root_der()),
        "directory": installed.directory.path(),
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python_client/live.py");
    let client = finish(command(&installed.python, &[script, SOURCE]), asked.to_string());
    let client = tokio::spawn(client);
    eventually("the client asks for the restart", async || {
        (path("restart").exists() || client.is_finished()).then_some(())
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
    fs::File::create(path("restarted")).expect("a file");
    let ran = client.await.expect("no panic").expect_ok();
    assert_eq!(program.stop(Signal::TERM).await, Some(0));

    let got: Value = serde_json::from_str(&ran.out).expect("JSON");
    let (before, after) = (&got["before"], &got["after"]);
    for shown in [before, after, &got["saved"], &got["by repository"]] {
        assert_eq!(shown["root"], pins["root_ca_spki_sha256"], "{shown}");
        assert_eq!(shown["mr_aggregated"], pins["mr_aggregated"], "{shown}");
        assert_eq!(shown["app_id"], pins["app_id"], "{shown}");
        assert_eq!(shown["k256_public_key"], got["meta"]["k256_pubkey"], "{shown}");
        assert_eq!(shown["log_key"], got["meta"]["log_key"], "{shown}");
        assert_eq!((&shown["signed_by_root"], &shown["tcb_status"]), (&json!(true), &json!("UpToDate")));
        let is_saved = shown == &got["saved"];
        assert_eq!(shown["fresh"], !is_saved, "{shown}");
    }
    assert_eq!(before["tls_key"], got["saved"]["tls_key"]);
    assert_ne!(before["tls_key"], after["tls_key"]);
    assert_eq!(after["tls_key"], got["by repository"]["tls_key"]);
    assert_eq!(got["meta"]["ca_cert"], got["meta after the restart"]["ca_cert"]);
    for (what, expected) in [
        ("health", json!("OK")),
        ("denied", json!("call")),
        ("man in the middle", json!("tls_key")),
        ("sent to the man in the middle", json!(["GET /attestation.json"])),
        ("saved, another pin", json!("pin_mismatch")),
        ("saved, Intel's root", json!("quote")),
        ("command", json!(0)),
        ("command, another root", json!("quote")),
        ("measured after the restart", json!("tls_key")),
        ("wrong pin", json!("pin_mismatch")),
    ] {
        assert_eq!(got[what], expected, "{what}: {got}");
    }
}

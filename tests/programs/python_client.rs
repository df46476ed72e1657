//! The Python client: built as a wheel, installed, and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::outsider::Outsider;
use crate::support::process::{Ran, finish};
use crate::support::tools;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_verifies_a_real_kms_and_follows_it_over_a_restart() {
    let installed = Installed::new().await;
    let directory = installed.directory.path();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python_client/live.py");
    let client = command(&installed.python, &[script, SOURCE]);
    let got = Outsider::new().await.shown_to(client, directory, ("directory", directory)).await;
    assert_eq!(got["after"]["tls_key"], got["by repository"]["tls_key"]);
    for (what, expected) in [
        ("command", json!(0)),
        ("command, another root", json!("quote")),
        ("measured after the restart", json!("tls_key")),
    ] {
        assert_eq!(got[what], expected, "{what}: {got}");
    }
}

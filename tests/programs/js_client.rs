//! The npm package for JavaScript in `clients/js`: its own tests, and the packed tarball as a user has it, against a
//! real KMS.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::outsider::Outsider;
use crate::support::process::{Ran, finish};
use crate::support::tools;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PACKAGE: &str = "clients/js";

/// `program` without our environment: no options for Node, no proxy. npm does not look for a newer npm.
fn command(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(tools::program(program));
    command.current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("npm_config_update_notifier", "false");
    command
}

async fn packages() -> PathBuf {
    tokio::task::spawn_blocking(|| tools::npm_packages_of(PACKAGE)).await.expect("the tools are installed")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            // A developer may have installed the packages there.
            true if entry.file_name() == "node_modules" => {}
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy")),
        }
    }
}

/// A copy of the package beside the vectors, with the pinned packages and nothing else.
async fn copied() -> tempfile::TempDir {
    let installed = packages().await;
    let directory = tempfile::tempdir().expect("a directory");
    copy(&Path::new(ROOT).join(PACKAGE), &directory.path().join(PACKAGE));
    symlink(Path::new(ROOT).join("tests"), directory.path().join("tests")).expect("a link");
    symlink(installed.join("node_modules"), directory.path().join("node_modules")).expect("a link");
    directory
}

#[tokio::test]
async fn the_tests_of_the_javascript_package_pass() {
    let directory = copied().await;
    let tests = directory.path().join(PACKAGE).join("test");
    // A test that waits for ever must end, with what the others said.
    let mut node = command("timeout", &tests);
    node.args(["600", "node", "--test", "--test-reporter=tap"]);
    let files = fs::read_dir(&tests).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let mut files: Vec<String> = files.map(|name| name.into_string().expect("text")).collect();
    files.retain(|name| name.ends_with(".test.js"));
    files.sort();
    assert!(files.contains(&"vectors.test.js".to_owned()), "{files:?}");
    node.args(&files);
    let ran = finish(node, String::new()).await.expect_ok();
    let count = |what: &str| -> u32 {
        let line = ran.out.lines().find_map(|line| line.strip_prefix(&format!("# {what} ")));
        line.and_then(|count| count.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {what}: {}", ran.text()))
    };
    assert!(count("pass") > 120, "{}", ran.out);
    for what in ["fail", "cancelled", "skipped", "todo"] {
        assert_eq!(count(what), 0, "{what}: {}", ran.out);
    }
}

/// The packed tarball, installed with `npm install` in an empty directory.
async fn installed() -> tempfile::TempDir {
    let source = copied().await;
    let directory = tempfile::tempdir().expect("a directory");
    let cache = packages().await.join("npm-cache");
    let npm = async |at: &Path, arguments: &[&str]| -> Ran {
        let mut npm = command("npm", at);
        npm.arg("--cache").arg(&cache).args([
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--fetch-timeout=60000",
        ]);
        npm.args(arguments);
        finish(npm, String::new()).await.expect_ok()
    };
    let to = directory.path().to_str().expect("text");
    let packed = npm(&source.path().join(PACKAGE), &["pack", "--pack-destination", to]).await;
    let tarball = packed.out.trim().lines().last().expect("a name").to_owned();
    fs::write(directory.path().join("package.json"), "{\"private\": true, \"type\": \"module\"}")
        .expect("a file");
    npm(directory.path(), &["install", "--prefer-offline", &format!("./{tarball}")]).await;
    directory
}

#[tokio::test]
async fn the_packed_package_has_what_users_need_and_no_tests() {
    let directory = installed().await;
    let package = directory.path().join("node_modules/cvm-kms");
    for file in
        ["LICENSE", "README.md", "bin/cvm-kms.js", "src/index.d.ts", "src/verify.d.ts", "src/webcrypto.js"]
    {
        assert!(package.join(file).is_file(), "{file}");
    }
    for directory in ["test", "node_modules"] {
        assert!(!package.join(directory).exists(), "{directory}");
    }
    assert_eq!(
        fs::read_to_string(package.join("LICENSE")).expect("a licence"),
        fs::read_to_string(Path::new(ROOT).join("LICENSE")).expect("a licence")
    );
    let mut help = command("npx", directory.path());
    help.args(["--no-install", "cvm-kms", "--help"]).env("HOME", directory.path());
    assert!(finish(help, String::new()).await.expect_ok().out.starts_with("cvm-kms verify TARGET"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_javascript_client_verifies_a_real_kms_and_refuses_another_key_after_a_restart() {
    let installed = installed().await;
    let path = |name: &str| installed.path().join(name);
    let tests = Path::new(ROOT).join(PACKAGE).join("test");
    fs::copy(Path::new(ROOT).join("tests/js_client/live.mjs"), path("live.mjs")).expect("a copy");
    let mut script = command("timeout", installed.path());
    script.args(["600", "node", "live.mjs"]).env("HOME", installed.path());
    let got = Outsider::new().await.shown_to(script, installed.path(), ("tests", &tests)).await;
    let place = fs::canonicalize(installed.path()).expect("a path");
    assert!(Path::new(got["installed"].as_str().expect("a path")).starts_with(place), "{got}");
    assert_eq!(got["before"]["tls_key"], got["by repository"]["tls_key"]);
    for (what, expected) in [
        ("command", json!([0, ""])),
        ("command, another root", json!([1, "quote"])),
        ("after the restart", json!("tls_key")),
        ("a body after the restart", json!("tls_key")),
        ("command at the URL", json!([0, ""])),
    ] {
        assert_eq!(got[what], expected, "{what}: {got}");
    }
}

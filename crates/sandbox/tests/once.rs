//! The whole demo, run twice in one directory.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn sandbox(dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kms-sandbox"))
        .args(["--once", "--port", "0", "--admin-port", "0", "--dir"])
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

/// The values of the facts that must not change.
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
        .args(["--once", "--admin-port", "0", "--port", &port, "--dir"])
        .arg(home.path())
        .output()
        .expect("the sandbox runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&port) && error.contains("--port"), "{error}");
}

/// The sandbox while it runs; killed at the end.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The test ends even if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines to paste, which are the only ones without indentation.
fn invitation(dir: &Path, more: &[&str]) -> (Running, Vec<String>) {
    let (sandbox, told) = started(dir, more);
    let lines = told.into_iter().filter(|line| !line.is_empty() && !line.starts_with(' '));
    (sandbox, lines.skip_while(|line| !line.ends_with(". Yours")).skip(1).collect())
}

/// A sandbox that stays up, and everything that it says.
fn started(dir: &Path, more: &[&str]) -> (Running, Vec<String>) {
    let mut sandbox = Command::new(env!("CARGO_BIN_EXE_kms-sandbox"))
        .args(["--port", "0", "--admin-port", "0"])
        .args(more)
        .arg("--dir")
        .arg(dir)
        .env_remove("RUST_LOG")
        .env_remove("DSTACK_AGENT_ADDRESS")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the sandbox runs");
    let told = BufReader::new(sandbox.stdout.take().expect("piped"));
    let sandbox = Running(sandbox);
    let lines = told.lines().map(|line| line.expect("text"));
    let told: Vec<String> = lines.take_while(|line| !line.trim_start().starts_with("start over")).collect();
    assert!(told.iter().any(|line| line.ends_with(". Yours")), "it stays up: {told:#?}");
    (sandbox, told)
}

/// The commands of the README's table, each with the name of the program.
fn commands_of_the_readme() -> Vec<String> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let text = std::fs::read_to_string(readme).expect("README.md");
    let rows = text.lines().filter(|line| line.starts_with("| `kmsctl "));
    let names = rows.flat_map(|row| {
        let first = row.split('|').nth(1).expect("a column");
        first.split('`').skip(1).step_by(2).collect::<Vec<_>>()
    });
    names.map(|name| format!("kmsctl {}", name.trim_start_matches("kmsctl "))).collect()
}

#[test]
fn every_row_of_the_readme_has_a_line_and_every_line_works_when_pasted() {
    let kmsctl = Path::new(env!("CARGO_BIN_EXE_kms-sandbox")).with_file_name("kmsctl");
    assert!(kmsctl.is_file(), "{} is not built: cargo build -p kmsctl", kmsctl.display());
    let home = tempfile::tempdir().expect("directory");
    let dir = home.path().join("it's mine");
    // At the second start nothing is left to set up, and the lines must work again.
    for more in [&[][..], &["--quiet"]] {
        let (_running, lines) = invitation(&dir, more);
        let commands = commands_of_the_readme();
        assert!(commands.len() >= 12, "{commands:?}");
        for command in commands {
            assert!(
                lines.iter().any(|line| line.starts_with(&command)),
                "no line for {command} in {lines:#?}"
            );
        }
        // One shell, because the first line sets it up for the others.
        let mut script = String::new();
        for line in &lines {
            script.push_str(&format!("{line} </dev/null >out 2>&1; echo \"$?\" >>codes; cat out >>shown\n"));
        }
        let shell = Command::new("timeout")
            .args(["300", "sh", "-c", &script])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .current_dir(home.path())
            .status()
            .expect("sh");
        let shown = std::fs::read_to_string(home.path().join("shown")).expect("shown");
        assert!(shell.success(), "{shown}");
        let codes = std::fs::read_to_string(home.path().join("codes")).expect("codes");
        assert_eq!(codes.lines().count(), lines.len(), "{shown}");
        for (line, code) in lines.iter().zip(codes.lines()) {
            let expected = if line.starts_with("kmsctl explain") { "3" } else { "0" };
            assert_eq!(code, expected, "{line}\n{shown}");
        }
        for expected in [
            "keys received",
            "GREETING=hello",
            "All of them show the same root keys.",
            "DENIED: app_not_registered",
            "Frozen: ",
            "No longer frozen",
            "It judges live requests",
        ] {
            assert!(shown.contains(expected), "{expected} is missing in\n{shown}");
        }
        for file in ["shown", "codes"] {
            std::fs::remove_file(home.path().join(file)).expect("removed");
        }
    }
}

/// The value of a fact.
fn fact<'a>(told: &'a [String], name: &str) -> &'a str {
    let line = told.iter().find_map(|line| line.trim_start().strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is missing in {told:#?}")).trim()
}

#[test]
fn the_console_has_a_viewer_and_something_to_show() {
    let home = tempfile::tempdir().expect("directory");
    let mut tokens = Vec::new();
    for (more, boots) in [(&[][..], true), (&["--quiet"], false)] {
        let (_running, told) = started(home.path(), more);
        let console = told.iter().position(|line| line.ends_with(". Console")).expect("a chapter");
        let address = fact(&told[console..], "address").to_owned();
        let token = fact(&told[console..], "viewer token").to_owned();
        assert!(address.starts_with("http://127.0.0.1:"), "{address}");
        let ask = |token: &str, path: &str, post: &[&str]| {
            let url = format!("{address}{path}");
            let asked = Command::new("curl")
                .args(["-s", "--max-time", "60", "-w", "\n%{http_code}", "-H"])
                .arg(format!("Authorization: Bearer {token}"))
                .args(post)
                .arg(&url)
                .output()
                .expect("curl");
            String::from_utf8(asked.stdout).expect("text")
        };
        let denials = |token: &str| {
            let listed = ask(token, "prpc/Admin.ListDenials", &["-d", "{}"]);
            let (body, status) = listed.rsplit_once('\n').expect("a status");
            assert_eq!(status, "200", "{body}");
            let listed: serde_json::Value = serde_json::from_str(body).expect("json");
            let codes = listed["denials"].as_array().into_iter().flatten();
            codes.filter_map(|denial| denial["code"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
        };
        if boots {
            let until = Instant::now() + Duration::from_secs(120);
            while denials(&token).len() < 6 {
                assert!(Instant::now() < until, "{:?}", denials(&token));
                std::thread::sleep(Duration::from_millis(300));
            }
        } else {
            assert!(!told.iter().any(|line| line.contains("reboot")), "{told:#?}");
        }
        let refused = ask(&token, "api/v1/credentials", &[]);
        assert!(refused.ends_with("\n403"), "a viewer is no owner: {refused}");
        let owner = std::fs::read_to_string(home.path().join("env")).expect("env");
        let owner =
            owner.lines().find_map(|line| line.strip_prefix("export KMS_ADMIN_TOKEN=")).expect("a token");
        let listed = ask(owner, "api/v1/credentials", &[]);
        assert_eq!(listed.matches("sandbox-viewer").count(), 1, "{listed}");
        if boots {
            let boot = || {
                let told = ask(owner, "api/v1/me", &[]);
                let (body, _) = told.rsplit_once('\n').unwrap_or_default();
                let told: Option<serde_json::Value> = serde_json::from_str(body).ok();
                told.and_then(|told| told["boot_id"].as_str().map(str::to_owned))
            };
            let before = boot().expect("it answers");
            let restarted = ask(owner, "api/v1/restart", &["-X", "POST"]);
            assert!(restarted.ends_with("\n200"), "{restarted}");
            let until = Instant::now() + Duration::from_secs(60);
            while boot().is_none_or(|now| now == before) {
                assert!(Instant::now() < until, "it does not come back");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        tokens.push(token);
    }
    assert_ne!(tokens[0], tokens[1], "only the hash is kept");
}

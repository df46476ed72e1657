//! Runs the command lines in README.md and docs/ unchanged and in order, against real KMSs.
//!
//! A command line is a line of a fenced block without a language (or `sh`, or `console` after `$ `); a line
//! of a `text` block that begins with a program; or a code span that begins with `curl`, `openssl` or
//! `grpcurl` and names a host, or begins with `kms` or `kmsctl` and has an option or a path. Each must
//! succeed and have its documented effect. [`NOT_RUN`] lists those that cannot run, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::support::process::{Ran, finish};
use crate::support::program::{KMS, Program, Setting};
use crate::support::{DOMAIN, eventually, free_port, tools};
use kms_simulator::{Cvm, GuestAgent};
use serde_json::{Value, json};

/// Lines that no test can run, with the reason.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo run -p kms-sandbox", "CI's own step, to its end"),
    ("bash tests/run", "this test is a part of it"),
    ("cargo build --release", "cargo has built the program for this test"),
    ("cargo bench --bench rpc", "a measurement, which needs an idle machine"),
    (
        "cargo bench --bench rpc -- --before=/path/to/an/older/kms",
        "a measurement, which needs an idle machine",
    ),
    ("cargo bench --bench rpc -- --process", "a measurement, which needs an idle machine"),
    ("cargo bench --bench parts", "a measurement, which needs an idle machine"),
    ("cargo bench --bench policy", "a measurement, which needs an idle machine"),
    ("cargo bench --bench ledger", "a measurement, which needs an idle machine"),
    ("cargo bench --bench storm", "a measurement, which needs an idle machine"),
    ("cargo bench --bench storm -- --cvms=10000 --nodes=8", "a measurement, which needs an idle machine"),
    (
        "kms auth serve --file auth-config.json --signing-key decision.key",
        "serves until it is stopped; tests/policy_commands.rs runs it",
    ),
    (
        "cargo build --release -p cvm-kms -p kmsctl -p kms-simulator",
        "cargo has built the programs for this test",
    ),
    ("mkdir -p /tmp/kms-try", "a directory that others may use; the test of this section has one of its own"),
    (
        "target/release/kms-simulator --agent-socket /tmp/kms-try/agent.sock --root-ca /tmp/kms-try/root.pem",
        "serves until it is stopped; the test of this section runs it",
    ),
    ("target/release/kms -c /tmp/kms-try/kms.toml", "the test of this section runs it"),
    ("kms doctor -c kms.toml", "its status is that of the worst finding; tests/programs/doctor.rs runs it"),
    ("kms doctor -c kms.toml --json", "as above"),
    ("just reproduce", "two release builds, which the workflow of releases makes"),
    ("just reproduce v0.1.0 ./kms", "as above"),
    (
        "kmsctl verify --attestation https://kms.example.com:8000 --pins pins.json --release kms-build.json --compose app-compose.json",
        "a release has these files; tests/programs/attestation.rs runs it with those of a KMS",
    ),
    ("docker compose -f docker/compose.yaml up --build", "needs a container engine; CI lints the file"),
    (
        "kmsctl verify https://kms.example.com:8000 --strict --json --allow allow.json --root-spki <hex> --k256-pubkey <hex>",
        "the reader fills in the pins; tests/kmsctl.rs runs it with those of a KMS",
    ),
    (
        "kmsctl verify --attestation https://kms.example.com:8000 --pins pins.json",
        "the reader has the pins; tests/programs/attestation.rs runs it with those of a KMS",
    ),
    ("kmsctl verify https://kms.example.com:8000/attestation.json --root-spki <hex>", "as above"),
    ("kmsctl verify --attestation attestation.json --mr-aggregated <hex>", "as above"),
    (
        "kmsctl audit verify https://kms.example.com:8000 --k256-pubkey <hex> --save-checkpoint checkpoint",
        "the reader fills in the key; tests/programs/kmsctl_audit.rs runs it with that of a KMS",
    ),
    (
        "kmsctl audit watch https://kms.example.com:8000 --k256-pubkey <hex>",
        "goes on until it is stopped; tests/programs/kmsctl_audit.rs runs it",
    ),
    (
        "kmsctl recovery restore --kms https://HOST:8000 --pin MRAGGREGATED --manifest recovery-SET.json --share NAME-of-SET.age --identity FILE",
        "an officer has these files; tests/programs/restore.rs runs it with those of a set",
    ),
    (
        "kmsctl recovery send --kms https://HOST:8000 --pin MRAGGREGATED --manifest recovery-SET.json --share NAME-of-SET.age --identity FILE",
        "as above",
    ),
    ("kmsctl recovery status --kms https://HOST:8000 --pin MRAGGREGATED", "as above"),
    (
        "kms collateral export --fetch B0C06F000000 bundle.json",
        "needs internet; tests/programs/collateral.rs fetches a simulated model",
    ),
    (
        "kms -c kms.toml collateral import bundle.json",
        "for a node that is stopped; tests/programs/collateral.rs runs it",
    ),
    ("kmsctl policy push prod-2.bundle", "its KMS pins the signers; tests/it/bundles.rs pushes one"),
    ("kmsctl policy fetch", "as above"),
    (
        "kmsctl policy merge --into new.json fragment.json",
        "the fragment is that of a refusal; tests/programs/kmsctl_operator.rs merges one",
    ),
    ("kmsctl policy activate DIGEST --shadow 10m", "as above"),
    (
        "kmsctl rollout start --image 8f0c1e7f4a2b49d56c3e9a0b1d2c3f4e5a6b7c8d9e0f1a2b3c4d5e6f70819203 --plan",
        "its KMS shares nothing; tests/programs/kmsctl_rollout.rs rolls an image out",
    ),
    ("kmsctl action run drain --node node-1", "the same; tests/programs/kmsctl_fleet.rs drains a node"),
    ("kmsctl rollout start --image HASH --hook ./replace-node", "as above"),
    ("kmsctl rollout run --hook ./replace-node", "as above"),
    ("kmsctl rollout status --watch", "the same: a KMS that shares nothing cannot say how a rollout ended"),
    (
        "kmsctl replica watch 0123456789abcdef",
        "an invitation that is not there; tests/programs/kmsctl_replicas.rs follows one",
    ),
    (
        "kmsctl explain --denial 8d41f0c2a97b",
        "the id of a refusal that happened elsewhere; tests/kmsctl_operator.rs explains one",
    ),
];

/// The app in the documents.
const APP: [u8; 20] = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x00\x11\x22\x33";

/// The operator's token in `kmsctl` commands.
const TOKEN: &str = "operators-token";

/// The content of `.env`.
const ENVIRONMENT: &str = "NAME=value\n";

/// Programs that lines may call, beside this project's.
const PROGRAMS: &[&str] = &["curl", "openssl", "jq", "grpcurl", "cat", "echo", "grep", "mkdir", "cp", "mv"];

/// Languages of fenced blocks without command lines.
const DATA: &[&str] = &["text", "json", "toml", "yaml", "rust", "python", "javascript", "proto", "solidity"];

/// The position of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    document: String,
    number: usize,
    text: String,
}

/// All command lines of a document, in order.
///
/// # Errors
/// The line of a block whose language is unknown.
fn command_lines(document: &str, markdown: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    let mut block: Option<&str> = None;
    let mut begun = String::new();
    for (index, line) in markdown.lines().enumerate() {
        let number = index + 1;
        let mut found = |text: &str| {
            lines.push(Line { document: document.to_owned(), number, text: text.to_owned() });
        };
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = match block {
                Some(_) => None,
                None => Some(language.trim()),
            };
            continue;
        }
        match block {
            None => code_spans(line).filter(|span| is_command(span)).for_each(&mut found),
            Some("" | "sh" | "bash" | "console") => {
                let is_console = block == Some("console");
                let line = match line.trim().strip_prefix("$ ") {
                    Some(typed) => typed,
                    None if is_console && begun.is_empty() => continue,
                    None => line.trim(),
                };
                if let Some(part) = line.strip_suffix('\\') {
                    begun.push_str(part);
                    continue;
                }
                let whole = std::mem::take(&mut begun) + line;
                let whole = without_comment(&whole);
                if !whole.is_empty() {
                    found(whole);
                }
            }
            Some("text") => {
                let line = line.trim().trim_start_matches("$ ");
                if line.split(' ').next().is_some_and(is_program) {
                    found(without_comment(line));
                }
            }
            Some(language) if DATA.contains(&language) => (),
            Some(language) => {
                return Err(format!("{document}:{number}: a block of unknown language {language:?}"));
            }
        }
    }
    Ok(lines)
}

/// The text between single backticks.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether a line of shown text that begins with this word is a command line.
fn is_program(word: &str) -> bool {
    PROGRAMS.contains(&word)
        || ["kms", "kmsctl", "target/release/kms", "cargo", "docker", "just"].contains(&word)
}

/// Whether a code span is a command line, not the name of a program or subcommand.
fn is_command(span: &str) -> bool {
    match span.split_once(' ') {
        Some(("curl" | "openssl" | "grpcurl", rest)) => rest.contains(':'),
        Some(("kms" | "kmsctl", rest)) => rest.contains(" -") || rest.contains('/'),
        _ => false,
    }
}

/// `line` up to a `#` before a space, at its start or after a space, outside single quotes.
fn without_comment(line: &str) -> &str {
    let mut is_quoted = false;
    let mut before = ' ';
    for (at, character) in line.char_indices() {
        match character {
            '\'' => is_quoted = !is_quoted,
            '#' if !is_quoted && before == ' ' => return line[..at].trim_end(),
            _ => (),
        }
        before = character;
    }
    line.trim_end()
}

/// The state that a line needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// A configuration without a running KMS.
    Configured,
    /// The line starts the KMS itself.
    Start,
    /// A KMS without keys.
    Onboarding,
    /// A KMS with keys.
    Serving,
    /// A KMS without keys, beside the one with keys.
    Replica,
}

fn scene_of(line: &str) -> Scene {
    let plain = ["HOST", "127.0.0.1", "localhost"].map(|host| format!("http://{host}:8000"));
    match line {
        "kms -c kms.toml" | "target/release/kms -c kms.toml" => Scene::Start,
        _ if line.contains("kms check") => Scene::Configured,
        _ if ["REPLICA", "kms2.example.com:8000", "\"source_url\""]
            .iter()
            .any(|sign| line.contains(sign)) =>
        {
            Scene::Replica
        }
        _ if plain.iter().any(|url| line.contains(url)) => Scene::Onboarding,
        _ => Scene::Serving,
    }
}

/// A KMS that lines call.
struct Node {
    setting: Setting,
    program: Option<Program>,
    /// The CVM of the app in the documents.
    guest: GuestAgent,
    /// Whether onboarding has ended, or ends by itself.
    is_finished: bool,
}

impl Node {
    async fn with(toml: &str) -> Self {
        let mut setting = Setting::with(toml).await;
        setting.configure(&format!("core.admin.auth_token = \"{TOKEN}\""));
        let world = &setting.world;
        let app = Cvm::builder(&world.platform).app_id(APP).build();
        world.allow_app(&app);
        let guest = GuestAgent::serve(&app, world.path("guest.sock")).await.expect("guest agent");
        fs::write(world.path(".env"), ENVIRONMENT).expect("an environment");
        Self { setting, program: None, guest, is_finished: false }
    }

    async fn onboarding() -> Self {
        let mut node = Self::with("").await;
        node.program = Some(node.setting.start().await);
        node
    }

    async fn serving() -> Self {
        let mut node = Self::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"")).await;
        node.program = Some(node.setting.start().await);
        node.is_finished = true;
        node
    }

    /// The root key that it shows, once it has keys.
    async fn root_key(&self) -> Value {
        eventually("keys are served", async || {
            let answer = self.setting.caller().try_json("GetMeta", json!({})).await.ok()?;
            (answer.status == 200).then(|| answer.value()["k256_pubkey"].clone())
        })
        .await
    }
}

/// The KMSs of one document, in the state after the lines so far.
#[derive(Default)]
struct Stage {
    configured: Option<Node>,
    first: Option<Node>,
    replica: Option<Node>,
    /// The variables set by `export` lines.
    exported: BTreeMap<String, String>,
}

impl Stage {
    /// Prepares what the line needs, runs it, and checks its result.
    async fn run(&mut self, line: &Line) {
        let scene = scene_of(&line.text);
        println!("{}:{}: {} ({scene:?})", line.document, line.number, line.text);
        self.prepare(scene, &line.text).await;
        if scene == Scene::Start {
            return;
        }
        if let Some((name, value)) = line.text.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
            self.exported.insert(name.to_owned(), value.trim_matches(['\'', '"']).to_owned());
            return;
        }
        let (here, subject) = match scene {
            Scene::Configured => (&self.configured, &self.configured),
            Scene::Replica => (&self.first, &self.replica),
            Scene::Start | Scene::Onboarding | Scene::Serving => (&self.first, &self.first),
        };
        check(line, &self.shell(line, here.as_ref().expect("prepared")).await);
        if ["/finish", "kmsctl finish", "--finish"].iter().any(|end| line.text.contains(end)) {
            let shown = subject.as_ref().expect("prepared").root_key().await;
            if let (Scene::Replica, Some(first)) = (scene, &self.first) {
                assert_eq!(shown, first.root_key().await, "a replica serves the same keys");
            }
            let subject = if scene == Scene::Replica { &mut self.replica } else { &mut self.first };
            subject.as_mut().expect("prepared").is_finished = true;
        }
    }

    /// Prepares the state that a line needs.
    async fn prepare(&mut self, scene: Scene, line: &str) {
        let first = self.first.as_ref().map(|node| node.is_finished);
        match scene {
            Scene::Configured if self.configured.is_some() => (),
            Scene::Configured => self.configured = Some(Node::with("").await),
            Scene::Start => self.first = Some(Node::onboarding().await),
            Scene::Onboarding if first == Some(false) => (),
            Scene::Onboarding => self.first = Some(Node::onboarding().await),
            Scene::Serving | Scene::Replica => {
                if first != Some(true) {
                    self.first = Some(Node::serving().await);
                    self.first.as_ref().expect("made above").root_key().await;
                }
                // Without TLS there is only onboarding.
                let is_new =
                    self.replica.as_ref().is_none_or(|node| node.is_finished && line.contains("http://"));
                if scene == Scene::Replica && is_new {
                    self.replica = Some(Node::onboarding().await);
                }
            }
        }
    }

    /// Runs a line in a shell, in the directory of its KMS.
    async fn shell(&self, line: &Line, node: &Node) -> Ran {
        let Node { setting, guest, .. } = node;
        let directory = setting.world.path("");
        let text = self.substituted(&line.text, setting);
        let programs = programs(&directory, line);
        let curlrc = "silent\nshow-error\nfail-with-body\nmax-time = 60\n";
        fs::write(directory.join(".curlrc"), curlrc).expect("curl's configuration");
        let mut command = Command::new(tools::program("timeout"));
        command.args(["120", "bash", "-o", "pipefail", "-c", &text]).current_dir(&directory).env_clear();
        command.env("PATH", programs).env("HOME", &directory);
        command.env("TOKEN", TOKEN).env("KMS_PCCS_URL", setting.world.pccs.url());
        command.env("DSTACK_AGENT_ADDRESS", guest.address());
        command.env("KMS_ADMIN_URL", format!("http://{}", setting.admin)).env("KMS_ADMIN_TOKEN", TOKEN);
        for (name, value) in &self.exported {
            command.env(name, self.substituted(value, setting));
        }
        finish(command, String::new()).await
    }

    /// The line with this run's names, ports and paths.
    fn substituted(&self, line: &str, setting: &Setting) -> String {
        let mut ports = vec![
            (["kms.example.com", "HOST", "127.0.0.1", "localhost"].as_slice(), 8000, setting.address.port()),
            (&["HOST", "127.0.0.1", "localhost"], 8001, setting.admin.port()),
        ];
        if let Some(replica) = &self.replica {
            let port = replica.setting.address.port();
            ports.push((&["kms2.example.com", "REPLICA"], 8000, port));
            if line.contains("\"source_url\"") {
                // If there are two KMSs, the new one is the one with a source.
                ports.insert(0, (&["HOST"], 8000, port));
            }
        }
        let mut line = line.to_owned();
        for (hosts, documented, real) in ports {
            for host in hosts {
                line = line.replace(&format!("{host}:{documented}"), &format!("{DOMAIN}:{real}"));
            }
        }
        for name in ["kms.example.com", "kms2.example.com"] {
            line = line.replace(name, DOMAIN);
        }
        let certs = setting.world.path("certs").display().to_string();
        line.replace("/etc/kms/certs", &certs)
            .replace("/srv/audit", &format!("{certs}/archived"))
            .replace("target/release/kms", "kms")
    }
}

/// A `PATH` that starts with this build's programs; `line` shows which of them it needs.
///
/// # Panics
/// If the line calls a program that is not in [`PROGRAMS`]: no line runs unread.
fn programs(directory: &Path, line: &Line) -> OsString {
    let ours = directory.join("programs");
    fs::create_dir_all(&ours).expect("a directory");
    for program in programs_of(&line.text) {
        match program.as_str() {
            "kms" | "target/release/kms" => script(&ours.join("kms"), &format!("exec {KMS} \"$@\"")),
            "kmsctl" => script(&ours.join("kmsctl"), &kmsctl(directory)),
            other if PROGRAMS.contains(&other) => drop(tools::program(other)),
            other => panic!(
                "{}:{}: `{other}` is not a program that documents may call: add it to PROGRAMS, or the line to NOT_RUN \
                 with a reason",
                line.document, line.number
            ),
        }
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths([ours].into_iter().chain(env::split_paths(&path))).expect("a path")
}

/// Runs the `kmsctl` of this build, with the simulated root for the verification of quotes.
fn kmsctl(directory: &Path) -> String {
    let program = Path::new(KMS).with_file_name("kmsctl");
    let (program, root) = (program.display(), directory.join("root.der"));
    assert!(Path::new(&program.to_string()).is_file(), "{program} is not built: cargo build -p kmsctl");
    let root = root.display();
    format!(
        "case $1 in app-key | sign-cert | verify) exec {program} \"$@\" --dangerous-root {root} ;; esac\n\
         exec {program} \"$@\""
    )
}

/// Writes an executable shell script.
fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a script");
}

/// The first word of each command of a line.
fn programs_of(line: &str) -> Vec<String> {
    let mut quote = None;
    let bare: String = line
        .chars()
        .map(|character| match quote {
            Some(open) => {
                quote = Some(open).filter(|open| *open != character);
                '_'
            }
            None => {
                quote = Some(character).filter(|character| matches!(character, '\'' | '"'));
                character
            }
        })
        .collect();
    let commands = bare.split(['|', ';', '&', '(', ')']);
    let words = commands.filter_map(|command| command.split_whitespace().find(|word| !word.contains('=')));
    words.map(str::to_owned).collect()
}

/// Checks that a line has had its effect.
fn check(line: &Line, ran: &Ran) {
    let Line { document, number, text } = line;
    let what = format!("{document}:{number}: {text}\n{}", ran.text());
    assert_eq!(ran.code, 0, "{what}");
    assert!(!text.contains("jq ") || ran.out.trim() != "null", "{what}");
    let is_curl = text.starts_with("curl ") && !text.contains('|') && !text.contains('>');
    if is_curl && (text.contains("/prpc/") || text.contains("/api/")) {
        let answer: Value = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {what}"));
        assert!(answer.get("error").is_none(), "{what}");
        assert!(!text.contains("/validate/") || answer["ok"] == true, "{what}");
    } else if is_curl && (text.contains("/finish") || text.contains("/health")) {
        assert_eq!(ran.out, "OK", "{what}");
    } else if is_curl && text.contains("/metrics") {
        assert!(ran.out.contains("cvm_kms_ready 1"), "{what}");
    } else if text.starts_with("openssl s_client") && text.contains("-CAfile") {
        assert!(ran.text().contains("Verification: OK"), "{what}");
    } else if text.starts_with("kmsctl env decrypt") || text.starts_with("kmsctl env open") {
        assert!(ran.out.contains(ENVIRONMENT.trim()), "{what}");
    } else if text.starts_with("curl ") && !text.contains('>') {
        assert!(!ran.out.trim().is_empty(), "{what}");
    }
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = ["docs", "docs/observability", "docs/operators", "docs/security"]
        .map(|directory| root.join(directory));
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).expect("a directory"));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    found.push(root.join("README.md"));
    found.sort();
    found
}

/// The command lines of each document with any.
fn all_lines() -> Vec<Vec<Line>> {
    let documents = documents().into_iter().map(|path| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a document");
        command_lines(&name, &text).unwrap_or_else(|problem| panic!("{problem}"))
    });
    documents.filter(|lines| !lines.is_empty()).collect()
}

fn reason_not_to_run(line: &Line) -> Option<&'static str> {
    NOT_RUN.iter().find(|(text, _)| *text == line.text).map(|(_, reason)| *reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_line_of_the_documents_works() {
    let mut ran = 0;
    for lines in all_lines() {
        let mut stage = Stage::default();
        for line in lines.iter().filter(|line| reason_not_to_run(line).is_none()) {
            stage.run(line).await;
            ran += 1;
        }
    }
    assert!(ran >= 20, "only {ran} lines were found");
}

/// The text of a section of a document, without its title.
fn section(document: &str, title: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    let text = fs::read_to_string(path).expect("a document");
    let (_, rest) = text.split_once(&format!("\n## {title}\n")).expect("the section");
    rest.split("\n## ").next().unwrap_or(rest).to_owned()
}

/// The first fenced block of a language.
fn block<'a>(markdown: &'a str, language: &str) -> &'a str {
    let (_, rest) = markdown.split_once(&format!("```{language}\n")).expect("a block");
    rest.split("\n```").next().expect("its end")
}

/// The allowlist in the documents, with values for the reader's placeholders.
fn allowlist_of_the_documents(mr_aggregated: &str, os_image: &str, device: &str) -> String {
    let section = section("operations.md", "Allowing apps and KMS nodes");
    let filled = block(&section, "json")
        .replace("<os_image_hash>", os_image)
        .replace("<mr_aggregated>", mr_aggregated)
        .replace("<device_id>", device)
        .replace("<app id of the gateway>", &"ab".repeat(20))
        .replace("<app id>", &hex::encode(APP))
        .replace("<compose hash>", &"cd".repeat(32));
    assert!(!filled.contains('<'), "{filled}");
    filled
}

#[tokio::test]
async fn the_allowlist_of_the_documents_is_one_that_our_own_check_has_nothing_against() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("auth-config.json");
    let hash = |byte: &str| byte.repeat(32);
    fs::write(&path, allowlist_of_the_documents(&hash("01"), &hash("02"), &hash("03"))).expect("a file");
    let mut command = Command::new(KMS);
    command.args(["policy", "check"]).arg(&path);
    let ran = finish(command, String::new()).await.expect_ok();
    assert!(ran.out.starts_with("allows "), "{}", ran.text());
}

#[test]
fn the_configuration_of_a_node_of_a_fleet_is_whole() {
    let section = section("operators/fleet.md", "Set up");
    let text = block(&section, "toml");
    let (config, _) = cvm_kms::config::Config::from_toml(text).expect("a configuration");
    let cvm_kms::config::State::Postgres(settings) = &config.core.state else { panic!("{text}") };
    assert_eq!(settings.node_name, "node-1");
}

#[test]
fn the_configuration_for_a_cvm_verifies_os_images_and_has_an_admin_listener() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/compose.cvm.yaml");
    let compose = fs::read_to_string(path).expect("a compose file");
    let (_, content) = compose.split_once("    content: |\n").expect("the configuration");
    let lines = content.lines().take_while(|line| line.is_empty() || line.starts_with("      "));
    let text: String = lines.map(|line| format!("{}\n", line.trim_start())).collect();
    // The reader's placeholders, `${NAME:?why}`.
    let mut parts = text.split("${");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += "https://filled-in.example";
        text += part.split_once('}').expect("its end").1;
    }
    // What the environment has, by the compose file.
    let token = "9f86d081884c7d659a2feaa0c55ad015";
    let text = text.replace("[core.admin]\n", &format!("[core.admin]\nauth_token = \"{token}\"\n"));
    let text = format!("{text}\n[core.onboard]\nauth_token = \"{token}\"\n");
    let (config, _) = cvm_kms::config::Config::from_toml(&text).expect("a configuration");
    assert!(config.core.image.verify && config.core.admin.enabled, "{text}");
    assert_eq!(config.posture().relaxed().len(), 0, "{text}");
    assert_eq!(config.profile, cvm_kms::config::Profile::Production, "{text}");
    // The file in the working directory is not that of the container.
    let mut found = config.unsafe_settings();
    found.retain(|setting| setting.code != "readable_by_others");
    assert_eq!(found, [], "{text}");
    assert!(compose.contains("DSTACK_KMS_ONBOARD_TOKEN: $"), "{compose}");
    assert!(compose.contains("DSTACK_KMS_ADMIN_TOKEN: $") && compose.contains("\"8001:8001\""), "{compose}");
}

/// A program that serves until it is killed.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_way_without_tdx_is_as_it_is_written() {
    let section = section("operations.md", "Without TDX");
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().display().to_string();
    let programs = Path::new(KMS).parent().expect("a directory").display().to_string();
    let [pccs, main, admin] = [(); 3].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let here = |text: &str| {
        text.replace("/tmp/kms-try", &directory)
            .replace("target/release", &programs)
            .replace("127.0.0.1:8081", &pccs.to_string())
    };
    let line = |start: &str| {
        let line = section.lines().find(|line| line.starts_with(start));
        here(line.unwrap_or_else(|| panic!("no line begins with {start}")))
    };

    // The default port in the documents, replaced by a free one.
    let simulator = line("target/release/kms-simulator ") + &format!(" --pccs-listen {pccs}");
    let mut words = simulator.split(' ');
    let program = words.next().expect("a program");
    assert!(Path::new(program).is_file(), "{program} is not built: cargo build -p kms-simulator");
    let mut simulator =
        Command::new(program).args(words).stdout(Stdio::piped()).spawn().expect("the simulator");
    let told = BufReader::new(simulator.stdout.take().expect("piped"));
    let _simulator = Server(simulator);
    let mut values = BTreeMap::new();
    for line in told.lines().map(|line| line.expect("text")) {
        if let Some((name, value)) = line.split_once(' ') {
            values.insert(name.to_owned(), value.to_owned());
        }
        if values.contains_key("device_id") {
            break;
        }
    }
    let allowlist =
        allowlist_of_the_documents(&values["mr_aggregated"], &values["os_image_hash"], &values["device_id"]);
    fs::write(home.path().join("auth-config.json"), allowlist).expect("a file");
    let mut toml: toml::Table = here(block(&section, "toml")).parse().expect("TOML");
    let port = |address: std::net::SocketAddr| toml::Value::from(i64::from(address.port()));
    let of_main = toml::Table::from_iter([("port".to_owned(), port(main))]);
    toml.insert("rpc".to_owned(), of_main.clone().into());
    let core = toml["core"].as_table_mut().expect("a table");
    core.insert("onboard".to_owned(), of_main.into());
    core["admin"].as_table_mut().expect("a table").insert("port".to_owned(), port(admin));
    let toml = toml.to_string();
    fs::write(home.path().join("kms.toml"), toml).expect("a file");

    let kms = line("target/release/kms -c ");
    let (kms, arguments) = kms.split_once(' ').expect("arguments");
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut check = Command::new(kms);
    check.args(&arguments).arg("check");
    finish(check, String::new()).await.expect_ok();
    let mut serve = Command::new(kms);
    let log = fs::File::create(home.path().join("log")).expect("a log");
    let _kms = Server(serve.args(&arguments).stderr(log).spawn().expect("the KMS"));
    eventually("the port opens", async || tokio::net::TcpStream::connect(main).await.ok()).await;
    let root = here("/tmp/kms-try/root.pem");
    let url = format!("http://{main}");
    let mut bootstrap = Command::new(format!("{programs}/kmsctl"));
    bootstrap.args(["bootstrap", "--kms", &url, "--domain", "127.0.0.1", "--dangerous-root", &root]);
    bootstrap.env("KMS_PCCS_URL", format!("http://{pccs}"));
    let made = finish(bootstrap, String::new()).await.expect_ok();
    assert!(made.out.contains("verified: it covers both keys"), "{}", made.text());
}

#[test]
fn what_is_not_run_stands_in_a_document() {
    let lines: BTreeSet<String> = all_lines().into_iter().flatten().map(|line| line.text).collect();
    for (line, reason) in NOT_RUN {
        assert!(lines.contains(*line), "no document has `{line}` any more ({reason})");
    }
}

#[test]
fn command_lines_are_found_and_told_from_everything_else() {
    let markdown = "\
Text with `curl -k https://HOST:8000/x`, `curl -k`, `kms`, `kms check`, `kms check -c kms.toml` and `kmsctl verify URL`.
```
curl http://HOST:8000/finish     # a comment
# another
curl http://HOST:8000/a \\
   -d '# none'
```
1. indented
   ```console
   $ kms audit verify /etc/kms/certs/audit.jsonl
   printed
   ```
```json
{ \"curl\": 1 }
```
```text
$ kmsctl frozen
curl is not shown how
kms-like is no program, nor is a kms
  openssl version # which
```
";
    let found: Vec<(usize, String)> = command_lines("a", markdown)
        .expect("known languages")
        .into_iter()
        .map(|line| (line.number, line.text))
        .collect();
    let expected = [
        (1, "curl -k https://HOST:8000/x"),
        (1, "kms check -c kms.toml"),
        (3, "curl http://HOST:8000/finish"),
        (6, "curl http://HOST:8000/a -d '# none'"),
        (10, "kms audit verify /etc/kms/certs/audit.jsonl"),
        (17, "kmsctl frozen"),
        (18, "curl is not shown how"),
        (20, "openssl version"),
    ];
    assert_eq!(found, expected.map(|(number, text)| (number, text.to_owned())));
    assert!(command_lines("a", "```cobol\n```\n").is_ok(), "an empty block holds nothing");
    assert!(command_lines("a", "```cobol\nADD 1 TO A\n```\n").is_err());
}

#[test]
fn the_programs_of_a_line_are_seen() {
    for (line, expected) in [
        ("curl -k https://HOST:8000/prpc/GetMeta | jq -r '.a | .b' > file", &["curl", "jq"][..]),
        ("TOKEN=x kms check -c \"a; b\" && echo \"$(cat c)\"", &["kms", "echo"]),
        ("openssl s_client -connect HOST:8000 </dev/null | openssl x509 -noout", &["openssl", "openssl"]),
        ("echo $(rm x)", &["echo", "rm"]),
    ] {
        assert_eq!(programs_of(line), expected, "{line}");
    }
}

#[test]
fn the_table_of_clients_has_the_versions_that_are_pinned() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file");
    let table = read("docs/compatibility.md");
    let requirements = read("tests/clients/python/requirements.txt");
    let chosen = requirements.split("\n\n").next().expect("the chosen ones come first");
    let chosen = chosen.lines().filter_map(|line| line.split_once("=="));
    let package: Value = serde_json::from_str(&read("tests/clients/node/package.json")).expect("JSON");
    let node = package["dependencies"].as_object().expect("dependencies");
    let node = node.iter().map(|(name, version)| (name.as_str(), version.as_str().expect("a version")));
    let published = node.filter(|(name, _)| name.starts_with("@phala/"));
    for (name, version) in chosen.chain(published) {
        let row = format!("| `{name}` | {version} |");
        assert!(table.contains(&row), "docs/compatibility.md has no row that begins {row}");
    }
}

#[test]
fn lines_find_the_phase_that_they_are_about() {
    for (line, scene) in [
        ("target/release/kms -c kms.toml", Scene::Start),
        ("kms check -c kms.toml", Scene::Configured),
        ("curl http://127.0.0.1:8000/prpc/Bootstrap -d '{}'", Scene::Onboarding),
        ("curl http://REPLICA:8000/finish", Scene::Replica),
        ("curl http://HOST:8000/api -d '{\"source_url\": \"https://kms.example.com:8000\"}'", Scene::Replica),
        ("curl -k https://HOST:8000/prpc/GetMeta", Scene::Serving),
        ("curl -H \"X-Admin-Token: $TOKEN\" http://127.0.0.1:8001/prpc/ClearImageCache", Scene::Serving),
        ("kms audit verify /etc/kms/certs/audit.jsonl", Scene::Serving),
    ] {
        assert_eq!(scene_of(line), scene, "{line}");
    }
}

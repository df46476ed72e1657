//! The real `kmsctl` program, used with a [`World`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

use super::World;
use super::process::{Ran, finish};

/// Built once for each test binary, which takes cargo a second if nothing changed.
static KMSCTL: LazyLock<PathBuf> = LazyLock::new(|| built("kmsctl", "commands"));

/// Builds a program of the workspace, and says where it is. `test` is a test of its crate: together with it, features
/// are those of `cargo test --workspace`, and nothing is built again.
pub fn built(program: &str, test: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--workspace", "--bin", program, "--test", test]);
    cargo.args(["--message-format", "json"]);
    // Cargo has set these for this test. A build script of a dependency names some of them, so with them that dependency
    // and all that depend on it would be built again.
    for (name, _) in std::env::vars_os() {
        let of_this_test = |name: &str| {
            name == "OUT_DIR" || ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|set| name.starts_with(set))
        };
        if name.to_str().is_some_and(of_this_test) {
            cargo.env_remove(name);
        }
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{program} does not build");
    let messages = String::from_utf8(output.stdout).expect("text");
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == program)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where the program is")
}

/// A directory, and `kmsctl` run in it.
pub struct Desk {
    home: TempDir,
    environment: BTreeMap<&'static str, String>,
}

impl Desk {
    /// For verifying quotes of a world: `root.der` is its root, for `--dangerous-root`.
    pub fn in_world(world: &World) -> Self {
        let home = tempfile::tempdir().expect("directory");
        std::fs::write(home.path().join("root.der"), world.platform.root_der()).expect("root certificate");
        Self { home, environment: [("KMS_PCCS_URL", world.pccs.url())].into() }
    }

    /// For an operator of a world, with this token.
    pub async fn of_operator(world: &World, token: &str) -> Self {
        Self::in_world(world)
            .with("KMS_ADMIN_URL", format!("http://{}", world.admin_address().await))
            .with("KMS_ADMIN_TOKEN", token)
    }

    /// Sets an environment variable.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.insert(name, value.into());
        self
    }

    /// A file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("file");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect(name)
    }

    /// Runs `kmsctl` to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).await, String::new()).await
    }

    /// `kmsctl`, to be run in the directory, with only the given environment.
    pub async fn command(&self, arguments: &[&str]) -> Command {
        // The first test builds it, which takes a while.
        let program = tokio::task::spawn_blocking(|| KMSCTL.clone()).await.expect("no panic");
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.home.path()).env_clear();
        command.env("HOME", self.home.path()).envs(&self.environment);
        command
    }

    /// Runs it with `--json`; the exit code must be `code`.
    pub async fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let ran = self.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(ran.code, code, "{}", ran.text());
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.text()))
    }
}

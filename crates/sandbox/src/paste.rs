//! Lines to paste into a shell while the sandbox runs: `curl`, and one for every `kmsctl` command.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::allow;
use crate::state::StateDir;

const ENVIRONMENT: &str = "GREETING=hello\n";

/// The values in the lines.
pub(crate) struct Yours<'a> {
    /// Where `kmsctl` is built, beside this program.
    pub(crate) programs: PathBuf,
    /// `https://127.0.0.1:<port>`
    pub(crate) kms: String,
    pub(crate) admin: SocketAddr,
    pub(crate) token: &'a str,
    pub(crate) pccs: String,
    /// The guest agent of an allowed CVM that waits for its keys.
    pub(crate) agent: &'a str,
    pub(crate) app_id: &'a [u8],
    /// SHA-256 of the public key of the root CA.
    pub(crate) root_spki: [u8; 32],
    /// The name of a domain that does not exist yet.
    pub(crate) domain: String,
    pub(crate) refusal: Refusal,
    /// Two KMSs without keys.
    pub(crate) spares: [SocketAddr; 2],
}

/// What `kmsctl explain` is given.
pub(crate) enum Refusal {
    Denial(String),
    /// Nothing was refused: the evidence of a CVM.
    None(Vec<u8>),
}

/// Lines about one topic.
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) lines: Vec<String>,
}

const STRANGER: &str = "stranger-evidence.hex";
const DOTENV: &str = "hello.env";
const EVENTS: &str = "events.jsonl";

impl Yours<'_> {
    /// Writes the files that the lines use.
    pub(crate) fn prepare(&self, state: &StateDir) -> Result<()> {
        let known_signers = state.path().join("known-signers");
        let variables: [(&str, &dyn Display); 6] = [
            ("KMS_URL", &self.kms),
            ("KMS_PCCS_URL", &self.pccs),
            ("KMS_ADMIN_URL", &format_args!("http://{}", self.admin)),
            ("KMS_ADMIN_TOKEN", &self.token),
            ("KMS_KNOWN_SIGNERS", &known_signers.display()),
            ("DSTACK_AGENT_ADDRESS", &self.agent),
        ];
        let mut text =
            "# Written by kms-sandbox at each start, for the shell in which kmsctl is called.\n".to_owned();
        for (name, value) in variables {
            text.push_str(&format!("export {name}={}\n", quoted(&value.to_string())));
        }
        text.push_str(&format!("export PATH={}:\"$PATH\"\n", shown(&self.programs)));
        state.write("env", &text)?;
        state.write(DOTENV, ENVIRONMENT)?;
        if let Refusal::None(evidence) = &self.refusal {
            state.write(STRANGER, &hex::encode(evidence))?;
        }
        Ok(())
    }

    /// What to do first, if `kmsctl` is not built.
    pub(crate) fn lacks(&self) -> Option<String> {
        let profile = if self.programs.ends_with("release") { " --release" } else { "" };
        let text =
            || format!("kmsctl is not built; first, in this repository: cargo build{profile} -p kmsctl");
        (!self.programs.join("kmsctl").is_file()).then(text)
    }

    /// All groups, in an order in which each line works.
    pub(crate) fn lines(&self, state: &StateDir) -> Vec<Group> {
        let file = |name: &str| shown(&state.path().join(name));
        let (app, domain) = (hex::encode(self.app_id), &self.domain);
        let root = shown(&state.hardware_root());
        let (keys, sealed) = (file("hello-keys.json"), file("hello.env.hex"));
        let explained = match &self.refusal {
            Refusal::Denial(id) => format!("--denial {}", quoted(id)),
            Refusal::None(_) => format!("--evidence {}", file(STRANGER)),
        };
        let [first, second] = self.spares.map(|address| format!("http://{address}"));
        let group = |title, lines: &[String]| Group { title, lines: lines.to_vec() };
        vec![
            group("without kmsctl, checked against the root CA of the KMS", &self.curl(&state.root_ca())),
            group(
                "first: the settings for kmsctl, and PATH",
                &[format!(". {}", shown(&state.environment()))],
            ),
            group(
                "as the CVM of an app, and as its deployer",
                &[
                    format!("kmsctl app-key --dangerous-root {root} --out {keys} --force"),
                    format!(
                        "kmsctl env encrypt {} --app-id {app} --accept-new --out {sealed} --force",
                        file(DOTENV)
                    ),
                    format!("kmsctl env decrypt {sealed} --app-keys {keys}"),
                ],
            ),
            group(
                "is this the KMS?",
                &[
                    format!("kmsctl verify --dangerous-root {root}"),
                    format!(
                        "kmsctl verify --attestation {} --root-spki {} --dangerous-root {root}",
                        self.kms,
                        hex::encode(self.root_spki)
                    ),
                    "kmsctl meta".to_owned(),
                ],
            ),
            group(
                "two further KMSs wait for keys: the first begins a cluster of its own",
                &[
                    format!("kmsctl bootstrap --kms {first} --domain 127.0.0.1 --dangerous-root {root}"),
                    format!("kmsctl finish --kms {first}"),
                ],
            ),
            group(
                "the second becomes a replica of this one: EITHER so, without an invitation",
                &[
                    format!("kmsctl onboard --kms {second} --source {} --domain 127.0.0.1", self.kms),
                    format!("kmsctl finish --kms {second}"),
                    format!(
                        "kmsctl status --kms {} --kms {}",
                        self.kms,
                        second.replace("http://", "https://")
                    ),
                ],
            ),
            group(
                "OR so, with an invitation: what it prints only works if the lines of EITHER were not run",
                &[format!("kmsctl replica invite --domain kms2.example --new-node {second}")],
            ),
            group(
                "all nodes that share their state, and what goes on",
                &[
                    "kmsctl fleet status".to_owned(),
                    "kmsctl rollout status".to_owned(),
                    "kmsctl operations".to_owned(),
                ],
            ),
            group(
                "how is it, which keys has it, and what can it do?",
                &[
                    "kmsctl doctor".to_owned(),
                    "kmsctl epoch list".to_owned(),
                    "kmsctl action list".to_owned(),
                ],
            ),
            group(
                "why was it refused, and what would allow it? (ends with 3 while it is refused)",
                &["kmsctl denials".to_owned(), format!("kmsctl explain {explained}")],
            ),
            group(
                "freeze the app, list what is frozen, and unfreeze it",
                &[
                    format!("kmsctl freeze app {app} --reason 'trying it' --for 10m"),
                    "kmsctl frozen".to_owned(),
                    format!("kmsctl unfreeze app {app} --reason 'tried it'"),
                ],
            ),
            group(
                "an allowlist that allows the stranger, checked, and evaluated on live requests",
                &[
                    format!("kmsctl policy check {}", file(allow::CANDIDATE)),
                    format!("kmsctl shadow start {}", file(allow::CANDIDATE)),
                    "kmsctl shadow report".to_owned(),
                    "kmsctl shadow stop".to_owned(),
                ],
            ),
            group(
                "report an event, read the event log, export it with the entries of the audit log",
                &[
                    "kmsctl event add 'tried it'".to_owned(),
                    "kmsctl events --since 1h".to_owned(),
                    format!("kmsctl audit export --since 1h --out {} --force", file(EVENTS)),
                ],
            ),
            group(
                "a part with keys of its own: the app gets others there, and back the ones of before",
                &[
                    format!("kmsctl domain create {domain} --allow-dev-images"),
                    format!("kmsctl domain move {app} {domain} --yes"),
                    "kmsctl domain list".to_owned(),
                    format!("kmsctl domain move {app} default --yes"),
                ],
            ),
            group("who may call the admin listener?", &["kmsctl credential list".to_owned()]),
        ]
    }

    fn curl(&self, root_ca: &Path) -> Vec<String> {
        let (base, root_ca) = (&self.kms, shown(root_ca));
        [
            "/prpc/GetMeta".to_owned(),
            format!("/prpc/GetAppEnvEncryptPubKey?app_id={}", hex::encode(self.app_id)),
            "/prpc/GetTempCaCert".to_owned(),
            "/health".to_owned(),
            "/metrics".to_owned(),
        ]
        .map(|path| format!("curl -s --cacert {root_ca} {}", quoted(&format!("{base}{path}"))))
        .into()
    }
}

fn shown(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// Quotes a text for a POSIX shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:".contains(c);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_to_build_kmsctl_where_that_is_missing() {
        let home = tempfile::tempdir().expect("a directory");
        let yours = |programs: &str| Yours {
            programs: home.path().join(programs),
            kms: String::new(),
            admin: SocketAddr::from(([127, 0, 0, 1], 1)),
            token: "",
            pccs: String::new(),
            agent: "",
            app_id: &[],
            root_spki: [0; 32],
            domain: String::new(),
            refusal: Refusal::Denial(String::new()),
            spares: [SocketAddr::from(([127, 0, 0, 1], 2)); 2],
        };
        for (programs, command) in
            [("debug", "cargo build -p kmsctl"), ("release", "cargo build --release -p kmsctl")]
        {
            let said = yours(programs).lacks().expect("a line");
            assert!(said.ends_with(command), "{said}");
        }
        std::fs::create_dir(home.path().join("debug")).expect("a directory");
        std::fs::write(home.path().join("debug/kmsctl"), "").expect("a file");
        assert_eq!(yours("debug").lacks(), None);
    }

    #[test]
    fn what_a_shell_would_interpret_is_quoted() {
        assert_eq!(quoted("/home/a/root-ca.crt"), "/home/a/root-ca.crt");
        assert_eq!(quoted("/home/a b/$x"), "'/home/a b/$x'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("https://h:1/p?app_id=0"), "'https://h:1/p?app_id=0'");
    }
}

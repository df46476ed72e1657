//! `kmsctl recovery create`, `fetch`, `show` and `drill`: what owners do. Nothing secret passes here: each file that an owner
//! gets opens with its officer's key only.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kms_recovery::{MAX_OFFICERS_FILE, SignedManifest, check, parse_officers};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::shown::Shown;
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};

const RECOVERY: &str = "/api/v1/recovery";
const SETS: &str = "/api/v1/recovery/sets";
const DRILL: &str = "/api/v1/recovery/drill";
/// The largest is a set: its manifest, and 32 files.
const REPLY: Reply = Reply {
    max_bytes: 8 << 20,
    unreadable: |_| Failure::failed("the response is not what a KMS sends about recovery"),
};

/// Arguments of `kmsctl recovery create`.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// File of the officers: `NAME RECIPIENT` a line, with recipients of age: age1…, ssh-ed25519 … or ssh-rsa …
    #[arg(long, value_name = "FILE")]
    recipients: PathBuf,
    /// How many of the officers restore, at least 2
    #[arg(long, value_name = "NUMBER")]
    threshold: u8,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl recovery fetch`.
#[derive(Args, Debug)]
pub(crate) struct Fetch {
    /// Number of the set, as `kmsctl recovery show` prints it
    set: String,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    admin: Administered,
}

/// Where files go.
#[derive(Args, Debug)]
struct Out {
    /// Existing directory for the manifest and one file for each officer
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    out: PathBuf,
}

/// Arguments of the commands without any of their own.
#[derive(Args, Debug)]
pub(crate) struct Plain {
    #[command(flatten)]
    admin: Administered,
}

/// The commands of `kmsctl recovery drill`.
#[derive(Debug, Subcommand)]
pub(crate) enum Drill {
    /// Open a drill for an hour: officers send their shares with kmsctl recovery send
    Start(Plain),
    /// End the drill, and forget its shares
    Cancel(Plain),
    /// Show the drill that is open, and how the last one ended
    Status(Plain),
}

/// A set as the KMS sends it.
#[derive(Debug, Deserialize)]
struct Made {
    set: String,
    manifest_name: String,
    manifest: String,
    manifest_sha256: String,
    files: Vec<File>,
    retires: Option<String>,
}

#[derive(Debug, Deserialize)]
struct File {
    officer: String,
    name: String,
    content: String,
}

#[derive(Debug, Serialize)]
struct Written {
    set: String,
    manifest: PathBuf,
    manifest_sha256: String,
    files: Vec<PathBuf>,
    retires: Option<String>,
}

impl Create {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let text = files::read(&self.recipients, MAX_OFFICERS_FILE)?;
        let usage = |error: String| {
            Failure::usage(format_args!("{}: {}", self.recipients.display(), printable(&error)))
        };
        let officers = parse_officers(&text).map_err(|error| usage(error.to_string()))?;
        check(self.threshold.into(), &officers).map_err(|error| usage(error.to_string()))?;
        self.out.check()?;
        let body = json!({ "recipients": officers, "threshold": self.threshold }).to_string().into_bytes();
        let made: Made = self.admin.post(terminal, SETS, body, REPLY).await?;
        let manifest = made.verified()?;
        let described = &manifest.manifest().officers;
        let is_asked = described.len() == officers.len()
            && described
                .iter()
                .zip(&officers)
                .all(|(found, asked)| found.name == asked.name && found.recipient == asked.recipient);
        if !is_asked || manifest.manifest().threshold != self.threshold {
            return Err(Failure::unproven(
                "the set is not for the officers and the threshold that were asked for",
            ));
        }
        self.out.write(terminal, made)
    }
}

impl Fetch {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let is_number = self.set.len() == 32 && self.set.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_number {
            return Err(Failure::usage("the number of a recovery set has 32 hex digits"));
        }
        self.out.check()?;
        let path = format!("{SETS}/{}", self.set.to_ascii_lowercase());
        let made: Made = self.admin.get(terminal, &path, REPLY).await?;
        made.verified()?;
        if made.files.is_empty() {
            terminal.warn(
                "the KMS has started again since it made the set, and keeps no officers' files: only the manifest is written",
            );
        }
        self.out.write(terminal, made)
    }
}

impl Made {
    /// The manifest, after everything was compared with it.
    fn verified(&self) -> Outcome<SignedManifest> {
        let wrong = |what: &str| Failure::unproven(format_args!("the recovery set is refused: {what}"));
        let manifest = SignedManifest::parse(self.manifest.as_bytes())
            .map_err(|error| wrong(&printable(&error.to_string())))?;
        let described = manifest.manifest();
        if described.set.to_string() != self.set
            || self.manifest_name != format!("recovery-{}.json", self.set)
            || hex::encode(described.sha256()) != self.manifest_sha256
        {
            return Err(wrong("its manifest is of another set"));
        }
        for file in &self.files {
            let officer = described.officers.iter().find(|officer| officer.name.as_str() == file.officer);
            let is_right = officer.is_some_and(|officer| {
                file.name == format!("{}-of-{}.age", officer.name, self.set)
                    && officer.file_sha256.0 == <[u8; 32]>::from(Sha256::digest(&file.content))
            });
            if !is_right {
                return Err(wrong("a file is not that of an officer in its manifest"));
            }
        }
        if !(self.files.is_empty() || self.files.len() == described.officers.len()) {
            return Err(wrong("files of officers are missing"));
        }
        Ok(manifest)
    }
}

impl Out {
    /// Checks that the files can be written, before a set is made.
    fn check(&self) -> Outcome<()> {
        files::check_writable(&self.out.join("recovery.json"), Existing::Replaced)
    }

    fn write(&self, terminal: &Terminal, made: Made) -> Outcome {
        let Made { set, manifest_name, manifest, manifest_sha256, files, retires } = made;
        let place = |name: &str, content: &str, readers| -> Outcome<PathBuf> {
            let path: PathBuf = self.out.join(Path::new(name));
            files::write(&path, content.as_bytes(), readers, Existing::Kept)?;
            Ok(path)
        };
        let of_officers = files.iter().map(|file| place(&file.name, &file.content, Readers::Owner));
        let of_officers = of_officers.collect::<Outcome<Vec<_>>>()?;
        let manifest = place(&manifest_name, &manifest, Readers::Everyone)?;
        let written = Written { set, manifest, manifest_sha256, files: of_officers, retires };
        terminal.show(&written, |page| {
            page.field("recovery set", &written.set);
            page.field("manifest", written.manifest.display());
            page.field("its SHA-256", &written.manifest_sha256);
            written.files.iter().for_each(|file| page.field("officer's file", file.display()));
            if let Some(old) = &written.retires {
                page.line(format_args!(
                    "Set {} counts no more. Its shares still open the root keys of then: let its officers destroy them.",
                    printable(old)
                ));
            }
            page.line("Give each officer their file and the manifest, keep the manifest in several places, and start a drill.");
        })?;
        Ok(Exit::Done)
    }
}

impl Plain {
    pub(crate) async fn show(self, terminal: &Terminal) -> Outcome {
        let shown: Value = self.admin.get(terminal, RECOVERY, REPLY).await?;
        terminal.show(&shown, |page| overview(page, &shown))?;
        Ok(Exit::Done)
    }
}

impl Drill {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let is_about_all = !matches!(self, Self::Cancel(_));
        let shown: Shown = match self {
            Self::Start(Plain { admin }) => admin.post(terminal, DRILL, Vec::new(), REPLY).await?,
            Self::Cancel(Plain { admin }) => admin.delete(terminal, DRILL, REPLY).await?,
            Self::Status(Plain { admin }) => admin.get(terminal, DRILL, REPLY).await?,
        };
        terminal.show(&shown, |page| shown.write(page))?;
        // A drill of a set without the keys of an epoch proves nothing about them.
        Ok(if is_about_all && shown.gap().is_some() { Exit::Unproven } else { Exit::Done })
    }
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    value.get(member).and_then(Value::as_array).into_iter().flatten()
}

fn numbers(value: &Value, member: &str) -> String {
    list(value, member).map(Value::to_string).collect::<Vec<_>>().join(", ")
}

fn overview(page: &mut Page, shown: &Value) {
    match shown.get("set").filter(|set| !set.is_null()) {
        None => page.line(page.toned(Tone::Bad, "There is no recovery set.")),
        Some(set) => {
            page.field("recovery set", printable(text(set, "set")));
            page.field(
                "made",
                format_args!(
                    "{} by {}",
                    printable(text(set, "created_at")),
                    printable(text(set, "created_by"))
                ),
            );
            page.field(
                "threshold",
                format_args!("{} of {}", set["threshold"], list(set, "officers").count()),
            );
            page.field("epochs", numbers(set, "epochs"));
            page.field("manifest SHA-256", printable(text(set, "manifest_sha256")));
            for officer in list(set, "officers") {
                page.field(
                    &format!("officer {}", officer["index"]),
                    format_args!(
                        "{} {}",
                        printable(text(officer, "name")),
                        printable(text(officer, "recipient"))
                    ),
                );
            }
            let proved = Some(text(shown, "proved_at")).filter(|at| !at.is_empty());
            page.field("last proved", printable(proved.unwrap_or("never")));
            page.field("next drill", format_args!("by {}", printable(text(shown, "drill_due_at"))));
        }
    }
    for drill in list(shown, "drills").take(5) {
        let ended = match drill.get("ok").and_then(Value::as_bool) {
            Some(true) => page.toned(Tone::Good, "passed"),
            _ => page.toned(Tone::Bad, &format!("failed: {}", printable(text(drill, "reason")))),
        };
        page.field("drill", format_args!("{} {ended}", printable(text(drill, "at"))));
    }
    for retired in list(shown, "retired") {
        page.field(
            "retired",
            format_args!(
                "{} at {}; its shares still open the root keys of epochs {}",
                printable(text(retired, "set")),
                printable(text(retired, "retired_at")),
                numbers(retired, "epochs")
            ),
        );
    }
    if let Some(open) = shown.get("ceremony").filter(|open| !open.is_null()) {
        page.field(
            "open drill",
            format_args!("{} of {} shares have arrived", open["received"], open["threshold"]),
        );
    }
    if !text(shown, "advice").is_empty() {
        page.line(page.toned(Tone::Doubtful, &printable(text(shown, "advice"))));
    }
}

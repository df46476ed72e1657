//! `kmsctl policy` and `kmsctl upload`: what is in force, a check of an allowlist, its activation, and files of owners.

mod bundles;
mod merge;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kms_client::bundles::ShownBundle;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};

const POLICY: &str = "/api/v1/policy";
/// The largest response: an allowlist and a candidate.
const REPLY: Reply = Reply {
    max_bytes: 64 << 20,
    unreadable: |_| Failure::failed("the response is not what a KMS sends about its policy"),
};
/// The largest file that a KMS takes.
const MAX_FILE: usize = 8 << 20;

/// The commands of `kmsctl policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Show the policy in force, and the candidate in shadow
    Show(Show),
    /// Add what `kmsctl explain` prints to an allowlist file: lists grow, and nothing is removed
    Merge(merge::Merge),
    /// Check an allowlist against the policy in force, without using it
    Check(Check),
    /// Have the candidate in shadow decide from now on, or a signed bundle that waits
    Activate(Activate),
    /// Bring a signed bundle, which is verified and waits
    Push(bundles::Push),
    /// Have the KMS ask the source of signed bundles now
    Fetch(bundles::Fetch),
    /// Show the signed bundles: in force, waiting, and earlier ones
    History(bundles::History),
}

/// Arguments of `kmsctl policy show`.
#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl policy check`.
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The allowlist
    file: PathBuf,
    /// The id of a denial: would the allowlist allow that caller?
    #[arg(long, value_name = "ID")]
    denial: Option<String>,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl policy activate`.
#[derive(Args, Debug)]
pub(crate) struct Activate {
    /// SHA-256 of the candidate, as `kmsctl policy show` shows it; or the digest of the bundle that waits, as
    /// `kmsctl policy history` shows it
    sha256: String,
    /// Of a bundle: have it judge live requests for this long first, without deciding, and show what it would change. It
    /// decides then only if it would deny nobody that is allowed now
    #[arg(long, value_name = "DURATION")]
    shadow: Option<String>,
    /// With --shadow: it decides then even if it would deny some
    #[arg(long, requires = "shadow")]
    accept_denials: bool,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl upload`.
#[derive(Args, Debug)]
pub(crate) struct Upload {
    /// What the file is: auth-config (the allowlist), htpasswd, or collateral-bundle
    name: String,
    /// The file
    file: PathBuf,
    /// Only check it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    kind: String,
    sha256: Option<String>,
    loaded_at: Option<String>,
    source: String,
    editable: bool,
    message: Option<String>,
    /// Older versions have none.
    #[serde(default)]
    bundle: Option<ShownBundle>,
    document: Option<Value>,
    shadow: Option<Shadow>,
    relaxed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Shadow {
    name: String,
    sha256: String,
    started_at: String,
    seen: u64,
    would_deny: u64,
    would_allow: u64,
    allows_this_kms: Option<bool>,
    document: Option<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Checked {
    valid: bool,
    sha256: String,
    problems: Vec<Problem>,
    more_problems: usize,
    difference: Difference,
    allows_this_kms: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Problem {
    severity: String,
    code: String,
    at: String,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Difference {
    added: Vec<String>,
    removed: Vec<String>,
    omitted: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Decision {
    allowed: bool,
    code: String,
    message: String,
    expected: Option<String>,
    found: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Placed {
    name: String,
    bytes: u64,
    sha256: String,
    changed: bool,
    dry_run: bool,
    message: String,
    problems: Vec<Problem>,
}

impl Policy {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::Show(Show { admin }) => {
                let state: State = admin.get(terminal, POLICY, REPLY).await?;
                terminal.show(&state, |page| shown(page, &state))?;
                Ok(Exit::Done)
            }
            Self::Merge(merge) => merge.run(terminal),
            Self::Check(Check { file, denial, admin }) => {
                let text = files::read_text(&file, MAX_FILE)?;
                let mut body = json!({ "document": text.as_str() });
                if let Some(id) = denial {
                    body["denial_id"] = id.into();
                }
                let checked: Checked = admin
                    .post(terminal, &format!("{POLICY}/check"), body.to_string().into_bytes(), REPLY)
                    .await?;
                terminal.show(&checked, |page| of_check(page, &checked))?;
                Ok(if checked.valid { Exit::Done } else { Exit::Failed })
            }
            Self::Push(push) => push.run(terminal).await,
            Self::Fetch(fetch) => fetch.run(terminal).await,
            Self::History(history) => history.run(terminal).await,
            Self::Activate(Activate { sha256, shadow, accept_denials, admin }) => {
                let shadow =
                    shadow.map(|time| bundles::BundleShadow::parse(&time, accept_denials)).transpose()?;
                if shadow.is_some() || bundles::waits(terminal, &admin, &sha256).await? {
                    return bundles::activate(terminal, &admin, &sha256, shadow).await;
                }
                let body = json!({ "sha256": sha256 }).to_string().into_bytes();
                let placed: Placed = admin.post(terminal, &format!("{POLICY}/activate"), body, REPLY).await?;
                terminal.show(&placed, |page| of_placed(page, &placed))?;
                Ok(Exit::Done)
            }
        }
    }
}

impl Upload {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let Self { name, file, dry_run, admin } = self;
        // It goes into a path.
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            return Err(Failure::usage("the name of a file has lower-case letters and '-' only"));
        }
        let query = if dry_run { "?dry_run=true" } else { "" };
        let path = format!("/api/v1/file-upload/{name}{query}");
        let placed: Placed = admin.post(terminal, &path, read(&file)?, REPLY).await?;
        terminal.show(&placed, |page| of_placed(page, &placed))?;
        Ok(Exit::Done)
    }
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    files::read(path, MAX_FILE).map(|content| content.to_vec())
}

fn shown(page: &mut Page, state: &State) {
    page.line(format_args!("Policy: {}", printable(&state.kind)));
    if let Some(sha256) = &state.sha256 {
        page.field("sha256", printable(sha256));
    }
    if let Some(since) = &state.loaded_at {
        page.field("in force since", printable(since));
    }
    if let Some(bundle) = &state.bundle {
        bundles::of_bundle(page, "signed bundle", bundle);
    }
    if let Some(message) = &state.message {
        page.field("note", printable(message));
    }
    if state.relaxed {
        page.field("relaxed", page.toned(Tone::Doubtful, "its rules relax something; see kmsctl meta"));
    }
    if let Some(shadow) = &state.shadow {
        page.line(format_args!("In shadow: {}", printable(&shadow.name)));
        page.field("sha256", printable(&shadow.sha256));
        page.field("since", printable(&shadow.started_at));
        page.field(
            "judged",
            format_args!(
                "{}, of which it would newly deny {} and newly allow {}",
                shadow.seen, shadow.would_deny, shadow.would_allow
            ),
        );
        of_own(page, shadow.allows_this_kms);
    }
}

fn of_own(page: &mut Page, allows_this_kms: Option<bool>) {
    if allows_this_kms == Some(false) {
        page.line(page.toned(Tone::Bad, "It does not allow this KMS itself: it would stop every release."));
    }
}

fn of_problems(page: &mut Page, problems: &[Problem]) {
    for Problem { severity, at, message, .. } in problems {
        let tone = if severity == "error" { Tone::Bad } else { Tone::Doubtful };
        let place = if at.is_empty() { "the file" } else { at };
        page.line(format_args!(
            "{} {} {}",
            page.toned(tone, &printable(severity)),
            printable(place),
            printable(message)
        ));
    }
}

fn of_check(page: &mut Page, checked: &Checked) {
    of_problems(page, &checked.problems);
    if checked.more_problems > 0 {
        page.line(format_args!("and {} more", checked.more_problems));
    }
    match checked.valid {
        true => page.line(page.toned(Tone::Good, "It could be used.")),
        false => page.line(page.toned(Tone::Bad, "It could not be used: it would deny everything.")),
    }
    page.field("sha256", printable(&checked.sha256));
    let Difference { added, removed, omitted, message } = &checked.difference;
    match message {
        Some(message) => page.field("changes", printable(message)),
        None => page
            .field("changes", format_args!("{} newly allowed, {} newly denied", added.len(), removed.len())),
    }
    for (sign, lines) in [("+", added), ("-", removed)] {
        for line in lines {
            page.line(format_args!("{sign} {}", printable(line)));
        }
    }
    if *omitted > 0 {
        page.line(format_args!("and {omitted} more"));
    }
    of_own(page, checked.allows_this_kms);
    if let Some(Decision { allowed, message, expected, found, .. }) = &checked.decision {
        let tone = if *allowed { Tone::Good } else { Tone::Bad };
        page.field("the denied caller", page.toned(tone, &printable(message)));
        for (name, value) in [("expected", expected), ("found", found)] {
            if let Some(value) = value {
                page.field(name, printable(value));
            }
        }
    }
}

fn of_placed(page: &mut Page, placed: &Placed) {
    of_problems(page, &placed.problems);
    page.line(format_args!("{}: {}.", printable(&placed.name), printable(&placed.message)));
    page.field("bytes", placed.bytes);
    page.field("sha256", printable(&placed.sha256));
}

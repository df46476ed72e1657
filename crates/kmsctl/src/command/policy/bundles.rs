//! `kmsctl policy push|fetch|history`, and the activation of signed bundles.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kms_client::bundles::{BundleList, BundleOutcome, BundleState, ShownBundle, ShownShadow};
use kms_client::proto::ShadowReportResponse;
use serde_json::json;

use super::{REPLY, read};
use crate::command::shadow;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::Administered;

const BUNDLES: &str = "/api/v1/policy/bundles";
/// The longest time in shadow that a command waits for.
const MAX_SHADOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Arguments of `kmsctl policy push`.
#[derive(Args, Debug)]
pub(crate) struct Push {
    /// The bundle, as `kms policy sign` writes it; the signature of minisign may be in FILE.minisig
    file: PathBuf,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl policy fetch`.
#[derive(Args, Debug)]
pub(crate) struct Fetch {
    /// The domain
    #[arg(long, default_value = "default")]
    domain: String,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl policy history`.
#[derive(Args, Debug)]
pub(crate) struct History {
    #[command(flatten)]
    admin: Administered,
}

/// How a bundle is tried before it decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct BundleShadow {
    time: Duration,
    accept_denials: bool,
}

impl Push {
    pub(super) async fn run(self, terminal: &Terminal) -> Outcome {
        let told: BundleOutcome =
            self.admin.post(terminal, BUNDLES, with_signature(&self.file)?, REPLY).await?;
        show(terminal, &told)
    }
}

/// A bundle; to one without signatures, that of minisign in the file beside it is added.
fn with_signature(path: &Path) -> Outcome<Vec<u8>> {
    let bundle = read(path)?;
    if !bundle.ends_with(b"}\n") {
        return Ok(bundle);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".minisig");
    if !Path::new(&beside).exists() {
        return Err(Failure::usage(format_args!(
            "{} has no signature, and {} does not exist",
            path.display(),
            Path::new(&beside).display()
        )));
    }
    Ok([&bundle[..], b"\n", &read(Path::new(&beside))?].concat())
}

impl Fetch {
    pub(super) async fn run(self, terminal: &Terminal) -> Outcome {
        let body = json!({ "domain": self.domain }).to_string().into_bytes();
        let told: BundleOutcome = self.admin.post(terminal, &format!("{BUNDLES}/fetch"), body, REPLY).await?;
        show(terminal, &told)
    }
}

impl History {
    pub(super) async fn run(self, terminal: &Terminal) -> Outcome {
        let list: BundleList = self.admin.get(terminal, BUNDLES, REPLY).await?;
        terminal.show(&list, |page| {
            if list.domains.is_empty() {
                page.line("No policy of this KMS comes in signed bundles.");
            }
            list.domains.iter().for_each(|state| of_domain(page, state));
        })?;
        Ok(Exit::Done)
    }
}

impl BundleShadow {
    pub(super) fn parse(time: &str, accept_denials: bool) -> Outcome<Self> {
        let parsed = kms_client::text::duration(time).filter(|time| !time.is_zero() && *time <= MAX_SHADOW);
        let time =
            parsed.ok_or_else(|| Failure::usage("--shadow must be a duration such as 10m, at most 7d"))?;
        Ok(Self { time, accept_denials })
    }
}

/// Whether a bundle with this digest waits or is in force. A KMS without bundles has none.
pub(super) async fn waits(terminal: &Terminal, admin: &Administered, digest: &str) -> Outcome<bool> {
    let list: BundleList = match admin.get(terminal, BUNDLES, REPLY).await {
        Ok(list) => list,
        // An older KMS does not know the route.
        Err(_) => return Ok(false),
    };
    let digest = digest.to_ascii_lowercase();
    let is_it = |bundle: &Option<ShownBundle>| bundle.as_ref().is_some_and(|bundle| bundle.digest == digest);
    Ok(list.domains.iter().any(|state| is_it(&state.pending) || is_it(&state.in_force)))
}

/// Puts a bundle in force, after its shadow if one is wanted.
pub(super) async fn activate(
    terminal: &Terminal,
    admin: &Administered,
    digest: &str,
    shadow: Option<BundleShadow>,
) -> Outcome {
    let body = || json!({ "digest": digest }).to_string().into_bytes();
    if let Some(BundleShadow { time, accept_denials }) = shadow {
        let started: BundleOutcome =
            admin.post(terminal, &format!("{BUNDLES}/shadow"), body(), REPLY).await?;
        terminal.note(format_args!("{}; {} s until it is decided", started.message, time.as_secs()));
        tokio::time::sleep(time).await;
        let answer: ShadowReportResponse = admin.call(terminal, "ShadowReport", &()).await?;
        if !answer.running {
            return Err(Failure::failed("the bundle is not in shadow any more; it was not put in force"));
        }
        if answer.allows_this_kms == Some(false) || (answer.newly_denied > 0 && !accept_denials) {
            terminal.show(&answer, |page| shadow::report(page, &answer))?;
            return Err(Failure::failed(
                "it was not put in force: it would deny what is allowed now. --accept-denials puts it in force all the same, \
                 unless it denies this KMS itself",
            ));
        }
        terminal.note(format_args!(
            "{} decisions compared: {} newly allowed, {} newly denied",
            answer.decisions, answer.newly_allowed, answer.newly_denied
        ));
    }
    let told: BundleOutcome = admin.post(terminal, &format!("{BUNDLES}/activate"), body(), REPLY).await?;
    show(terminal, &told)
}

fn show(terminal: &Terminal, told: &BundleOutcome) -> Outcome {
    terminal.show(told, |page| {
        page.line(format_args!("{}.", printable(&told.message)));
        page.field("domain", printable(&told.domain));
        page.field("digest", printable(&told.digest));
        page.field("state", printable(&told.state));
        let is_manual = told.activation.as_deref() != Some("automatic");
        if told.state == "pending" && told.changed && is_manual {
            page.field("next", format_args!("kmsctl policy activate {}", printable(&told.digest)));
        }
    })?;
    Ok(Exit::Done)
}

fn of_domain(page: &mut Page, state: &BundleState) {
    page.line(format_args!("Domain {}", printable(&state.domain)));
    let signed = format!("{} of {}", state.threshold, state.keys.join(", "));
    page.field("signed by", printable(&signed));
    page.field("source", printable(&state.source));
    if let Some(problem) = &state.source_problem {
        page.field("problem", page.toned(Tone::Bad, &printable(problem)));
    }
    page.field("new ones decide", printable(&state.activation));
    page.field("expired ones", printable(&state.on_expiry));
    page.field("lowest serial", state.lowest_serial);
    if let Some(fork) = &state.fork {
        let text = format!(
            "serial {} with digest {} contradicts what was seen, at {}",
            fork.serial, fork.digest, fork.at
        );
        page.field("FORK", page.toned(Tone::Bad, &printable(&text)));
    }
    match &state.in_force {
        Some(bundle) => of_bundle(page, "in force", bundle),
        None => page.field("in force", page.toned(Tone::Bad, "none: everything is denied")),
    }
    if let Some(bundle) = &state.pending {
        of_bundle(page, "waiting", bundle);
    }
    if let Some(it) = &state.shadow {
        let ShownShadow { ran_seconds, compared, would_allow, would_deny, .. } = it;
        let of = it.of_seconds.map_or_else(String::new, |of| format!(" of {of}"));
        let tried = format!(
            "{ran_seconds}{of} s, {compared} requests, would allow {would_allow} and deny {would_deny}"
        );
        page.field("tried", tried);
        if it.held {
            let own = if it.denies_this_kms { "this KMS itself" } else { "what is allowed now" };
            let text = format!("it would deny {own}: kmsctl policy activate DIGEST decides");
            page.field("HELD", page.toned(Tone::Bad, &text));
        }
    }
    for past in &state.history {
        let activated = match (&past.activated_at, &past.activated_by) {
            (Some(at), Some(by)) => format!("in force from {at}, by {by}"),
            _ => "never in force".to_owned(),
        };
        let line =
            format!("{} {}  {}  from {}, {activated}", past.serial, past.name, past.digest, past.origin);
        page.line(printable(&line));
    }
}

/// Shows a bundle.
pub(super) fn of_bundle(page: &mut Page, place: &str, bundle: &ShownBundle) {
    let ShownBundle { name, serial, digest, expires, signers, rules, .. } = bundle;
    page.field(place, format_args!("{} with serial {serial}", printable(name)));
    page.field("digest", printable(digest));
    page.field("expires", printable(expires));
    page.field("signers", printable(&signers.join(", ")));
    page.field("allows", printable(rules));
}

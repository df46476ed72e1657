//! `kmsctl shadow`: evaluates an allowlist on live requests before it decides.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kms_client::proto::{ShadowChange, ShadowReportResponse, StartShadowRequest, StartShadowResponse};

use crate::exit::{Exit, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::Administered;
use crate::{files, when};

/// The largest allowlist that the KMS accepts.
const MAX_ALLOWLIST_BYTES: usize = 7 << 20;

/// What to do with the candidate.
#[derive(Subcommand, Debug)]
pub(crate) enum Shadow {
    /// Evaluate live requests by an allowlist, beside the policy that decides
    Start(Start),
    /// Show what it would newly allow or deny
    Report(Report),
    /// Stop it, and show its last report
    Stop(Report),
}

#[derive(Args, Debug)]
pub(crate) struct Start {
    #[command(flatten)]
    admin: Administered,
    /// The candidate, an auth-config.json; - is standard input
    file: PathBuf,
    /// Name in reports and in the audit log; default: the name of the file
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Whether an empty device list allows no device; default: as the KMS is configured
    #[arg(long, value_name = "BOOL")]
    strict_devices: Option<bool>,
}

/// Arguments of `kmsctl shadow report` and `stop`.
#[derive(Args, Debug)]
pub(crate) struct Report {
    #[command(flatten)]
    admin: Administered,
}

impl Shadow {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let (admin, method) = match self {
            Self::Start(start) => return start.run(terminal).await,
            Self::Report(report) => (report.admin, "ShadowReport"),
            Self::Stop(stop) => (stop.admin, "StopShadow"),
        };
        let answer: ShadowReportResponse = admin.call(terminal, method, &()).await?;
        terminal.show(&answer, |page| report(page, &answer))?;
        Ok(Exit::Done)
    }
}

impl Start {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let text = files::read_text(&self.file, MAX_ALLOWLIST_BYTES)?;
        let of_file = || self.file.file_name().map(|name| name.to_string_lossy().into_owned());
        let request = StartShadowRequest {
            auth_config_json: text.to_string(),
            name: self.name.clone().or_else(of_file).unwrap_or_default(),
            strict_devices: self.strict_devices,
        };
        let answer: StartShadowResponse = self.admin.call(terminal, "StartShadow", &request).await?;
        terminal.show(&answer, |page| {
            page.line("It judges live requests from now on, without deciding.");
            page.field("it allows", printable(&answer.rules));
            if answer.replaced {
                page.line("It replaces another candidate, whose report is discarded.");
            }
            own(page, answer.allows_this_kms, "");
            page.line("`kmsctl shadow report` shows what it would change.");
        })?;
        Ok(Exit::Done)
    }
}

fn own(page: &mut Page, allows: Option<bool>, because: &str) {
    if allows == Some(false) {
        let because = if because.is_empty() { String::new() } else { format!(": {}", printable(because)) };
        let text = format!("It would DENY THIS KMS ITSELF{because}. Activated, it would stop everything.");
        page.line(page.toned(Tone::Bad, &text));
    }
}

/// Shows what a candidate would change.
pub(super) fn report(page: &mut Page, answer: &ShadowReportResponse) {
    if !answer.running && answer.since == 0 {
        page.line("No candidate is running.");
        return;
    }
    page.field("candidate", printable(&answer.name));
    page.field("it allows", printable(&answer.rules));
    page.field("since", when::at(answer.since));
    page.field("decisions compared", answer.decisions);
    page.field("allowed by both", answer.allowed_by_both);
    page.field("denied by both", answer.denied_by_both);
    page.field("newly allowed", answer.newly_allowed);
    page.field("newly denied", answer.newly_denied);
    if answer.without_answer > 0 {
        page.field("not compared", format_args!("{}: the policy did not respond", answer.without_answer));
    }
    own(page, answer.allows_this_kms, &answer.denies_this_kms_because);
    if answer.decisions == 0 {
        page.line("No keys were requested since: there is nothing to compare yet.");
    } else if answer.changes.is_empty() {
        page.line(page.toned(Tone::Good, "So far it would decide everything as the policy in force does."));
    }
    for change in &answer.changes {
        show(page, change);
    }
    if answer.omitted > 0 {
        page.line(format_args!("{} further changes are not listed", answer.omitted));
    }
}

fn show(page: &mut Page, change: &ShadowChange) {
    let (tone, word) = match change.effect.as_str() {
        "newly_denied" => (Tone::Bad, "newly DENIED "),
        _ => (Tone::Doubtful, "newly ALLOWED"),
    };
    let who = change.identity.as_ref().map_or_else(String::new, |identity| match change.subject.as_str() {
        "kms" => format!("KMS {}", hex::encode(&identity.mr_aggregated)),
        _ => format!("app {} compose {}", hex::encode(&identity.app_id), hex::encode(&identity.compose_hash)),
    });
    let times = if change.count == 1 { "once".to_owned() } else { format!("{} times", change.count) };
    page.line("");
    page.line(format_args!("{}  {who}", page.toned(tone, word)));
    let rule = match change.effect.as_str() {
        "newly_denied" => "  by its rule",
        _ => "  now denied by",
    };
    page.field(rule, format_args!("{}: {}", printable(&change.code), printable(&change.reason)));
    page.field("  expected", printable(&change.expected));
    page.field("  found", printable(&change.actual));
    page.field("  seen", format_args!("{times}, last {}", when::at(change.last)));
}

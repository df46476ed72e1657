//! `kmsctl explain`: why a CVM is refused, and what would allow it. A dry run at the KMS: nothing is
//! released.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use kms_client::proto::{Check, ExplainRequest, ExplainResponse};

use super::denials;
use crate::exit::{Exit, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::Administered;
use crate::{files, input};

/// The largest evidence that the KMS accepts as hexadecimal in JSON.
const MAX_EVIDENCE_BYTES: usize = 500 << 10;
const MAX_VM_CONFIG_BYTES: usize = 256 << 10;

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct Explain {
    #[command(flatten)]
    admin: Administered,
    /// File with an attestation from the guest agent, binary or hexadecimal; - is standard input
    #[arg(long, value_name = "FILE", group = "what")]
    evidence: Option<PathBuf>,
    /// File with an RA-TLS certificate, PEM or DER; - is standard input
    #[arg(long, value_name = "FILE", group = "what")]
    certificate: Option<PathBuf>,
    /// Id of a recent refusal: `denial_id` in the response, `X-Denial-Id`, or from `kmsctl denials`
    #[arg(long, value_name = "ID", group = "what")]
    denial: Option<String>,
    /// Role to explain; default: the role of the refused request, otherwise an app
    #[arg(long = "as", value_name = "ROLE")]
    role: Option<Role>,
    /// File with the vm_config that the CVM would send; default: the one in the evidence
    #[arg(long, value_name = "FILE")]
    vm_config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// GetAppKey
    App,
    /// GetKmsKey
    Kms,
    /// SignCert
    Certificate,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Kms => "kms",
            Self::Certificate => "certificate",
        }
    }
}

impl Explain {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let mut request = ExplainRequest {
            denial_id: self.denial.unwrap_or_default(),
            subject: self.role.map(Role::name).unwrap_or_default().to_owned(),
            ..ExplainRequest::default()
        };
        if let Some(path) = &self.evidence {
            request.evidence = binary(files::read(path, MAX_EVIDENCE_BYTES)?.to_vec());
        }
        if let Some(path) = &self.certificate {
            request.certificate = files::read(path, MAX_EVIDENCE_BYTES)?.to_vec();
        }
        if let Some(path) = &self.vm_config {
            request.vm_config = files::read_text(path, MAX_VM_CONFIG_BYTES)?.to_string();
        }
        let progress = terminal.progress("waiting for the KMS");
        let answer: ExplainResponse = self.admin.call(terminal, "Explain", &request).await?;
        drop(progress);
        terminal.show(&answer, |page| show(page, &answer))?;
        Ok(match answer.verdict.as_str() {
            "allowed" => Exit::Done,
            "denied" => Exit::Refused,
            _ => Exit::Failed,
        })
    }
}

/// Evidence begins with a zero byte or a MessagePack map, never with a hexadecimal digit.
fn binary(bytes: Vec<u8>) -> Vec<u8> {
    let text = std::str::from_utf8(&bytes).ok();
    text.and_then(|text| input::decode(text).ok()).filter(|decoded| !decoded.is_empty()).unwrap_or(bytes)
}

fn show(page: &mut Page, answer: &ExplainResponse) {
    let (tone, verdict) = match answer.verdict.as_str() {
        "allowed" => (Tone::Good, "ALLOWED: it would get what it requests".to_owned()),
        "denied" => (Tone::Bad, format!("DENIED: {}", printable(&answer.code))),
        _ => (Tone::Doubtful, "UNKNOWN: a service that is needed does not respond".to_owned()),
    };
    page.line(page.toned(tone, &verdict));
    page.field("the caller is told", printable(&answer.reason));
    if !answer.relaxations.is_empty() {
        let relaxations: Vec<_> = answer.relaxations.iter().map(|label| printable(label)).collect();
        page.field("by relaxed rules", page.toned(Tone::Doubtful, &relaxations.join(", ")));
    }
    if let Some(denial) = &answer.denial {
        page.field("this refusal", denials::summary(denial));
    }
    page.line("");
    page.line(format_args!("Checks, in order (policy: {})", printable(&answer.policy)));
    for check in &answer.checks {
        line(page, check);
    }
    if let Some(identity) = &answer.identity {
        page.line("");
        page.line("Identity");
        denials::identity(page, identity);
    }
    if let Some(nearest) = &answer.nearest
        && !nearest.differences.is_empty()
    {
        page.line("");
        let (entry, reason) = (printable(&nearest.entry), printable(&nearest.reason));
        page.line(format_args!("Nearest in auth-config.json: {entry} ({reason})"));
        for difference in &nearest.differences {
            page.line(format_args!("  {}", printable(&difference.field)));
            page.line(format_args!("    listed    {}", printable(&difference.listed)));
            page.line(format_args!("    measured  {}", printable(&difference.measured)));
        }
    }
    remedies(page, answer);
}

fn line(page: &mut Page, check: &Check) {
    let (tone, word) = match check.result.as_str() {
        "pass" => (Tone::Good, "ok  "),
        "fail" => (Tone::Bad, "FAIL"),
        "skipped" => (Tone::Quiet, "-   "),
        _ => (Tone::Doubtful, "?   "),
    };
    let name = match check.rule.as_str() {
        "" => printable(&check.step),
        rule => format!("{}: {}", printable(&check.step), printable(rule)),
    };
    let word = page.toned(tone, word);
    let said: Vec<_> = match check.result.as_str() {
        "fail" => vec![printable(&check.code)],
        _ => [&check.actual, &check.detail].iter().filter(|t| !t.is_empty()).map(|t| printable(t)).collect(),
    };
    page.line(format_args!("  {word}  {name:<24} {}", said.join("; ")).to_string().trim_end());
    if check.result == "fail" {
        for (label, text) in [("expected", &check.expected), ("found   ", &check.actual)] {
            if !text.is_empty() {
                page.line(format_args!("          {label}  {}", printable(text)));
            }
        }
    }
}

fn remedies(page: &mut Page, answer: &ExplainResponse) {
    if answer.remedies.is_empty() {
        return;
    }
    page.line("");
    page.line("What would allow it");
    for remedy in &answer.remedies {
        page.line(format_args!("  * {}", printable(&remedy.sentence)));
        if !remedy.function.is_empty() {
            let contract = match remedy.contract.as_str() {
                "" => "<contract>".to_owned(),
                contract => printable(contract),
            };
            let (function, argument) = (printable(&remedy.function), printable(&remedy.argument));
            page.line(format_args!("      cast send {contract} '{function}' {argument}"));
        }
    }
    if !answer.allowlist_fragment.is_empty() {
        page.line("");
        page.line("To merge into auth-config.json (lists grow by these values, nothing is removed):");
        for line in answer.allowlist_fragment.lines() {
            page.line(printable(line));
        }
        page.line("");
        page.line("That does: kmsctl policy merge --into auth-config.json FILE, with this, or the answer with --json, in FILE");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_taken_binary_and_as_hexadecimal() {
        assert_eq!(binary(b" 0x00ff\n".to_vec()), [0, 0xff]);
        assert_eq!(binary(vec![0, 0x61, 0x62]), [0, 0x61, 0x62]);
        assert_eq!(binary(b"\x82not hex".to_vec()), b"\x82not hex");
    }
}

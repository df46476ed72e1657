//! `kms policy`: checks an allowlist before it is used, and makes signed bundles of it.

mod bundle;
mod sign;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use kms_attest::identity::DomainName;
use kms_policy::bundle::Bundle;
use kms_policy::review::{Difference, Finding, Review, Severity};
use kms_policy::settings::PinnedKeys;
use serde_json::json;

use crate::config::EmptyDevices;

/// How much of a file is read: one byte more than the largest allowlist, so that the review finds it too large.
const MAX_READ: u64 = (64 << 20) + 1;

/// What to do with an allowlist.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Show what is wrong with an auth-config.json, what it allows, and what it would change
    Check(Check),
    /// Show what a signed bundle says of itself, without verifying it
    Show(bundle::Show),
    /// Make a signed bundle of an auth-config.json, or add a signature to a bundle
    Sign(sign::Sign),
    /// Make a key that signs bundles
    Keygen(sign::Keygen),
}

impl Policy {
    pub(super) fn run(self, explicit: Option<&Path>) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(check) => check.run(explicit),
            Self::Show(show) => show.run(),
            Self::Sign(sign) => sign.run(),
            Self::Keygen(keygen) => keygen.run(),
        }
    }
}

/// The candidate and the form of the report.
#[derive(Debug, Args)]
#[command(
    about = "Say what is wrong with an auth-config.json or a signed bundle of one, what it allows, and what it would change",
    after_help = "Ends with status 1 if the file could not be used: it would deny everything. Warnings do not change \
                  the status."
)]
pub(super) struct Check {
    /// The candidate: an auth-config.json, or a signed bundle
    file: PathBuf,
    /// The file it would replace: shows what is newly allowed and newly denied
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// As with core.auth_api.allowlist.insecure_empty_devices_allow_any: an empty device list allows any
    /// device
    #[arg(long)]
    insecure_empty_devices_allow_any: bool,
    /// Obsolete: this is now the default
    #[arg(long = "strict-devices", hide = true)]
    _strict_devices: bool,
    /// Of a bundle: a verifier key that may sign it; repeat it for each. Without any, those of the configuration count
    #[arg(long = "signer", value_name = "KEY")]
    signers: Vec<String>,
    /// Of a bundle: a public key of minisign that may sign it, the line of minisign.pub that begins with RW; repeat it for each
    #[arg(long = "minisign-signer", value_name = "KEY")]
    minisign_signers: Vec<String>,
    /// Of a bundle, with --signer or --minisign-signer: this many of them must have signed it
    #[arg(long, default_value_t = 1)]
    threshold: u64,
    /// Of a bundle: the domain that it must be for
    #[arg(long, default_value = "default")]
    domain: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    fn run(self, explicit: Option<&Path>) -> anyhow::Result<ExitCode> {
        let empty_devices = match self.insecure_empty_devices_allow_any {
            true => EmptyDevices::AnyDevice,
            false => EmptyDevices::NoDevice,
        };
        let content = bundle::with_beside(&self.file, read(&self.file)?)?;
        let verified = match bundle::is_bundle(&content) {
            true => Some(self.verify(&content, explicit)?),
            false => None,
        };
        let policy = verified.as_ref().map_or(&*content, |bundle| bundle.policy().as_bytes());
        let review = Review::of(policy, empty_devices);
        let old = self.against.as_deref().map(bundle::policy_of).transpose()?;
        let old = old.map(|content| Review::of(&content, empty_devices));
        let difference = old.as_ref().map(|old| review.against(old));
        if self.json {
            let shown = json!({
                "usable": review.is_usable(),
                "findings": review.findings(),
                "unlisted_findings": review.unlisted(),
                "summary": review.summary(),
                "against_usable": old.as_ref().map(Review::is_usable),
                "difference": difference,
                "bundle": verified.as_ref().map(bundle::shown),
            });
            say!("{shown:#}");
        } else {
            if let Some(bundle) = &verified {
                bundle::print(bundle);
            }
            print(&review, verified.as_ref().map(|_| &*self.domain));
            if let (Some(old), Some(difference)) = (&old, &difference) {
                compare(old, difference);
            }
        }
        Ok(if review.is_usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Check {
    /// Verifies a bundle by the keys of the command line, or of the configuration.
    fn verify(&self, content: &[u8], explicit: Option<&Path>) -> anyhow::Result<Bundle> {
        let [signers, minisign] =
            [&self.signers, &self.minisign_signers].map(|it| it.iter().map(String::as_str));
        let keys = match self.signers.is_empty() && self.minisign_signers.is_empty() {
            true => bundle::configured(explicit)?,
            false => PinnedKeys::with_minisign(signers, minisign, self.threshold)
                .map_err(|problem| anyhow!("--signer: {problem}"))?,
        };
        Ok(Bundle::open(content, &keys, &self.domain)?)
    }
}

pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || {
        let mut content = Vec::new();
        fs::File::open(path)?.take(MAX_READ).read_to_end(&mut content)?;
        Ok::<_, std::io::Error>(content)
    };
    read().with_context(|| format!("{} cannot be read", path.display()))
}

/// Shows what is wrong with an allowlist, or with that in a bundle of a domain.
fn print(review: &Review, domain: Option<&str>) {
    // The policy of another domain is never asked about a KMS.
    let judges_kms = domain.is_none_or(|domain| domain == DomainName::DEFAULT.as_str());
    let matters = |finding: &&Finding| {
        judges_kms || finding.severity == Severity::Error || !finding.at.starts_with("kms.")
    };
    for finding in review.findings().iter().filter(matters) {
        let severity = match finding.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "warning",
        };
        match finding.at.as_str() {
            "" => say!("{severity:<9} the file {}", finding.message),
            at => say!("{severity:<9} {at} {}", finding.message),
        }
    }
    if review.unlisted() > 0 {
        say!("{:<9} and {} more", "", review.unlisted());
    }
    match review.summary() {
        Some(allows) => say!(
            "{:<9} {} apps with {} compose hashes, {} OS images, {} KMS measurements{}, {} TCB statuses, {} advisories",
            "allows",
            allows.apps,
            allows.compose_hashes,
            allows.os_images,
            allows.kms_measurements,
            match allows.kms_images {
                0 => String::new(),
                count => format!(", {count} KMS images"),
            },
            allows.tcb_statuses,
            allows.advisories
        ),
        None => say!("{:<9} nothing: everything would be denied", "allows"),
    }
}

fn compare(old: &Review, difference: &Difference) {
    if !old.is_usable() {
        say!("{:<9} the file to compare with cannot be used: it denies everything", "warning");
    }
    let Difference { newly_allowed, newly_denied } = difference;
    say!("{:<9} {} newly allowed, {} newly denied", "changes", newly_allowed.len(), newly_denied.len());
    for grant in newly_allowed {
        say!("+         {grant}");
    }
    for grant in newly_denied {
        say!("-         {grant}");
    }
}

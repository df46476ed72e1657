//! `kms policy check`: checks an allowlist before it is used.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use kms_policy::review::{Difference, Review, Severity};
use serde_json::json;

use crate::config::EmptyDevices;

/// How much of a file is read: one byte more than the largest allowlist, so that the review finds it too large.
const MAX_READ: u64 = (64 << 20) + 1;

/// What to do with an allowlist.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Show what is wrong with an auth-config.json, what it allows, and what it would change
    Check(Check),
}

impl Policy {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Check(check) = self;
        check.run()
    }
}

/// The candidate and the form of the report.
#[derive(Debug, Args)]
#[command(
    about = "Say what is wrong with an auth-config.json, what it allows, and what it would change",
    after_help = "Ends with status 1 if the file could not be used: it would deny everything. Warnings do not change \
                  the status."
)]
pub(super) struct Check {
    /// The candidate
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let empty_devices = match self.insecure_empty_devices_allow_any {
            true => EmptyDevices::AnyDevice,
            false => EmptyDevices::NoDevice,
        };
        let review = Review::of(&read(&self.file)?, empty_devices);
        let old = self.against.as_deref().map(read).transpose()?;
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
            });
            say!("{shown:#}");
        } else {
            print(&review);
            if let (Some(old), Some(difference)) = (&old, &difference) {
                compare(old, difference);
            }
        }
        Ok(if review.is_usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

fn print(review: &Review) {
    for finding in review.findings() {
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
            "{:<9} {} apps with {} compose hashes, {} OS images, {} KMS measurements, {} TCB statuses, {} advisories",
            "allows",
            allows.apps,
            allows.compose_hashes,
            allows.os_images,
            allows.kms_measurements,
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

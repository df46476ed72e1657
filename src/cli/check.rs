//! `kms check`: shows what `run` would do, with all findings at once, and changes nothing.

use std::path::Path;
use std::process::ExitCode;

use kms_policy::Policy;
use kms_policy::review::Review;

use super::policy;
use crate::app::Preflight;
use crate::clock::CLOCK_REMEDY;
use crate::config::{AuthApi, Config, EmptyDevices};
use crate::lifecycle::Prospect;
use crate::os_image;

/// Prints the effective settings and their consequences; status 1 if `run` would refuse to start, or would
/// release nothing.
pub(super) fn check(explicit: Option<&Path>) -> ExitCode {
    let (config, notices) = match Config::load(explicit) {
        Ok(loaded) => loaded,
        Err(error) => {
            say!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for file in &config.files {
        say!("read      {}", file.display());
    }
    for notice in &notices {
        say!("notice    {notice}");
    }
    for setting in Config::settings(explicit) {
        say!("set       {} = {}  (in {})", setting.key, setting.value, setting.file.display());
    }
    let core = &config.core;
    say!("files     keys in {}, audit log {}", core.cert_dir.display(), core.audit.file.display());
    say!("listen    {}:{} (main)", config.rpc.address, config.rpc.port);
    if core.admin.enabled {
        say!("listen    {}:{} (admin)", core.admin.address, core.admin.port);
    }
    for target in &core.notify {
        say!("notify    {} at {}", target.name, target.url);
    }
    let Preflight {
        problems,
        prospect,
        policy,
        slow_users,
        is_running,
        unattested,
        clock_behind,
        damaged_log,
        makes_owner,
    } = Preflight::of(&config);
    let mut found = Findings::default();
    if is_running {
        say!("running   a KMS has this audit log open: this is what it would do after a restart");
    }
    match (&prospect, unattested) {
        (Some(Prospect::Ready), Some(problem)) if core.attest_rpc_cert => {
            found.refuse(&format!("the TLS certificate needs evidence of this machine: {problem}"));
        }
        (_, Some(problem)) => found.useless(&format!("there is no evidence of this machine: {problem}")),
        (_, None) => {}
    }
    if let Some(behind) = clock_behind {
        found.useless(&format!("{behind}: its last audit record is newer. {CLOCK_REMEDY}"));
    }
    if damaged_log > 0 {
        found.warn(&format!(
            "the last {damaged_log} bytes of the audit file are no records: run would keep the file and go \
             on in a new one; kms audit verify tells"
        ));
    }
    if let Some(prospect) = prospect {
        keys(prospect, &config);
    }
    if let Some(policy) = policy {
        decides(&policy, &mut found);
    }
    match &core.auth_api {
        AuthApi::Allowlist { path, empty_devices } => allowlist(path, *empty_devices, &mut found),
        AuthApi::Webhook(_) | AuthApi::Ethereum(_) | AuthApi::Dev { .. } => {}
    }
    let image = &core.image;
    if image.verify && image.acpi_tables.as_ref().is_some_and(|program| !os_image::is_installed(program)) {
        found.warn(
            "core.image.acpi_tables is not installed: CVMs with legacy TDX attestation would get no keys",
        );
    }
    if makes_owner {
        say!(
            "notice    core.admin: no credential is configured; the first start makes a credential of an \
             owner and prints its token once"
        );
    }
    for (user, cost) in slow_users {
        found.warn(&format!(
            "core.admin.htpasswd_file: the hash of {user} has a cost of {cost}, which delays every login; 10 \
             to 12 are usual"
        ));
    }
    for relaxation in config.posture().relaxed() {
        say!("RELAXED   {}: {}", relaxation.code, relaxation.sentence);
    }
    for problem in problems {
        found.refuse(&format!("{:#}", anyhow::Error::from(problem)));
    }
    found.verdict()
}

/// The findings so far, for the summary and the exit status.
#[derive(Default)]
struct Findings {
    refusals: usize,
    /// `run` would start but release nothing.
    useless: usize,
    warnings: usize,
}

impl Findings {
    fn refuse(&mut self, text: &str) {
        say!("REFUSED   {text}");
        self.refusals += 1;
    }

    fn useless(&mut self, text: &str) {
        say!("USELESS   {text}");
        self.useless += 1;
    }

    fn warn(&mut self, text: &str) {
        say!("warning   {text}");
        self.warnings += 1;
    }

    fn verdict(&self) -> ExitCode {
        let warnings = match self.warnings {
            0 => String::new(),
            1 => ", with 1 warning".to_owned(),
            count => format!(", with {count} warnings"),
        };
        match (self.refusals, self.useless) {
            (0, 0) => {
                say!("run would start{warnings}");
                ExitCode::SUCCESS
            }
            (0, _) => {
                say!("run would come up and release nothing{warnings}");
                ExitCode::FAILURE
            }
            _ => {
                say!("run would refuse to start");
                ExitCode::FAILURE
            }
        }
    }
}

fn keys(prospect: Prospect, config: &Config) {
    let onboard = &config.core.onboard;
    match (prospect, &onboard.auto_bootstrap_domain) {
        (Prospect::Ready, _) => say!("keys      found, this KMS would serve them"),
        (Prospect::Onboarding, Some(domain)) => {
            say!("keys      none: new ones would be made at once for {domain}");
        }
        (Prospect::Onboarding, None) => {
            say!("keys      none: onboarding on {}:{}", onboard.address, onboard.port);
        }
    }
}

fn decides(policy: &Policy, found: &mut Findings) {
    say!("policy    {}", policy.kind());
    if let Some(error) = policy.last_error() {
        found.useless(&format!("the policy would deny everyone: {error}"));
    }
    if let Some(relaxation) = policy.relaxation() {
        say!("RELAXED   {}: {}", relaxation.code, relaxation.sentence);
    }
}

/// Prints the findings of `kms policy check`, except an unreadable file, which the policy has already
/// reported.
fn allowlist(path: &Path, empty_devices: EmptyDevices, found: &mut Findings) {
    say!("allowlist {}", path.display());
    let Ok(content) = policy::read(path) else { return };
    let review = Review::of(&content, empty_devices);
    for finding in review.findings() {
        let place = if finding.at.is_empty() { "the file" } else { finding.at.as_str() };
        found.warn(&format!("allowlist: {place} {}", finding.message));
    }
    if review.unlisted() > 0 {
        found.warn(&format!("allowlist: and {} more", review.unlisted()));
    }
}

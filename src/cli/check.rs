//! `kms check`: shows what `run` would do, with all findings at once, and changes nothing.

use std::path::Path;
use std::process::ExitCode;

use kms_policy::Policy;
use kms_policy::bundle::Bundled;
use kms_policy::review::Review;

use super::findings::{Findings, Level};
use super::policy;
use crate::app::Preflight;
use crate::clock::CLOCK_REMEDY;
use crate::config::{AuthApi, Config, EmptyDevices, Notice, Postgres, Profile, State, WhenStale};
use crate::lifecycle::Prospect;
use crate::os_image;
use crate::state::shared::DatabaseError;

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
    let found = walk(explicit, &config, &notices);
    found.print();
    verdict(&found)
}

/// Everything that shows without a change.
pub(super) fn walk(explicit: Option<&Path>, config: &Config, notices: &[Notice]) -> Findings {
    let mut found = Findings::default();
    for file in &config.files {
        found.fact("read", file.display().to_string());
    }
    for notice in notices {
        found.fact("notice", notice.to_string());
    }
    for setting in Config::settings(explicit) {
        found.fact("set", format!("{} = {}  (in {})", setting.key, setting.value, setting.file.display()));
    }
    let core = &config.core;
    found.fact("profile", config.profile.name());
    found.fact(
        "files",
        format!("keys in {}, audit log {}", core.cert_dir.display(), core.audit.file.display()),
    );
    found.fact("listen", format!("{}:{} (main)", config.rpc.address, config.rpc.port));
    if core.admin.enabled {
        found.fact("listen", format!("{}:{} (admin)", core.admin.address, core.admin.port));
    }
    for target in &core.notify {
        found.fact("notify", format!("{} at {}", target.name, target.url));
    }
    let Preflight {
        problems,
        prospect,
        policy,
        slow_users,
        is_running,
        unattested,
        no_issuer,
        state: shared,
        clock_behind,
        damaged_log,
        makes_owner,
        collateral,
        unsafe_settings,
    } = Preflight::of(config);
    if is_running {
        found.fact("running", "a KMS has this audit log open: this is what it would do after a restart");
    }
    match (&prospect, unattested) {
        (Some(Prospect::Ready), Some(problem)) if core.attest_rpc_cert => {
            found.refuse(format!("the TLS certificate needs evidence of this machine: {problem}"));
        }
        (_, Some(problem)) => found.useless(format!("there is no evidence of this machine: {problem}")),
        (_, None) => {}
    }
    if let Some(error) = no_issuer {
        found.warn(format!(
            "the issuer of core.admin.oidc gives no keys, so its users cannot sign in; others can: {error}"
        ));
    }
    if let State::Postgres(settings) = &core.state {
        state(settings, shared, &mut found);
    }
    if let Some(behind) = clock_behind {
        found.useless(format!("{behind}: its last audit record is newer. {CLOCK_REMEDY}"));
    }
    if damaged_log > 0 {
        found.warn(format!(
            "the last {damaged_log} bytes of the audit file are no records: run would keep the file and go \
             on in a new one; kms audit verify tells"
        ));
    }
    if let Some(kept) = collateral {
        super::collateral::findings(&kept, core.attestation.is_offline, &mut found);
    }
    if let Some(prospect) = prospect {
        keys(prospect, config, &mut found);
    }
    if let Some(policy) = policy {
        decides(&policy, &mut found);
    }
    match &core.auth_api {
        AuthApi::Allowlist { path, empty_devices } => allowlist(path, *empty_devices, &mut found),
        AuthApi::Bundle(bundle) => {
            let (signed, of) = (bundle.keys.threshold(), bundle.keys.names().count());
            found.fact("bundles", format!("signed by {signed} of {of} keys, from {}", bundle.source.kind()));
        }
        AuthApi::Webhook(_) | AuthApi::Ethereum(_) | AuthApi::Dev { .. } => {}
    }
    let image = &core.image;
    if image.verify && image.acpi_tables.as_ref().is_some_and(|program| !os_image::is_installed(program)) {
        found.warn(
            "core.image.acpi_tables is not installed: CVMs with legacy TDX attestation would get no keys",
        );
    }
    if makes_owner {
        found.fact(
            "notice",
            "core.admin: no credential is configured; the first start makes a credential of an owner and prints its \
             token once",
        );
    }
    for (user, cost) in slow_users {
        found.warn(format!(
            "core.admin.htpasswd_file: the hash of {user} has a cost of {cost}, which delays every login; 10 \
             to 12 are usual"
        ));
    }
    for relaxation in config.posture().relaxed() {
        found.fact("RELAXED", format!("{}: {}", relaxation.code.name(), relaxation.sentence));
    }
    for problem in problems {
        found.refuse(format!("{:#}", anyhow::Error::from(problem)));
    }
    if config.profile == Profile::Production {
        unsafe_settings.into_iter().for_each(|setting| found.unsafe_setting(Level::Refused, setting));
    }
    found
}

fn verdict(found: &Findings) -> ExitCode {
    let warnings = match found.count(Level::Warning) {
        0 => String::new(),
        1 => ", with 1 warning".to_owned(),
        count => format!(", with {count} warnings"),
    };
    match found.worst() {
        Level::Fact | Level::Advice | Level::Warning => {
            say!("run would start{warnings}");
            ExitCode::SUCCESS
        }
        Level::Useless => {
            say!("run would come up and release nothing{warnings}");
            ExitCode::FAILURE
        }
        Level::Refused => {
            say!("run would refuse to start");
            ExitCode::FAILURE
        }
    }
}

/// Whether the state of the fleet can be shared.
fn state(settings: &Postgres, examined: Option<Result<Option<&str>, DatabaseError>>, found: &mut Findings) {
    match (examined, settings.when_stale) {
        (None, _) => {
            found.warn("core.state: the database was not asked, since the check itself failed".to_owned())
        }
        (Some(Ok(None)), _) => found.fact("state", "the database of the shared state can be used"),
        (Some(Ok(Some(lacks))), _) => found.warn(format!("core.state: {lacks}")),
        (Some(Err(error)), when_stale) => {
            let remedy = error.remedy().map(|remedy| format!(". {remedy}")).unwrap_or_default();
            let text = format!("core.state: {}{remedy}", error.detailed());
            match when_stale {
                WhenStale::Refuse => found.useless(text),
                WhenStale::Warn => found.warn(text),
            }
        }
    }
}

fn keys(prospect: Prospect, config: &Config, found: &mut Findings) {
    let onboard = &config.core.onboard;
    match (prospect, &onboard.auto_bootstrap_domain) {
        (Prospect::Ready, _) => found.fact("keys", "found, this KMS would serve them"),
        (Prospect::Onboarding, Some(domain)) => {
            found.fact("keys", format!("none: new ones would be made at once for {domain}"));
        }
        (Prospect::Onboarding, None) => {
            found.fact("keys", format!("none: onboarding on {}:{}", onboard.address, onboard.port));
        }
    }
}

fn decides(policy: &Policy, found: &mut Findings) {
    found.fact("policy", policy.kind());
    let is_fetched =
        |bundled: &Bundled| bundled.bundle().is_none() && bundled.settings().source.kind() == "server";
    if policy.bundled().is_some_and(is_fetched) {
        found.warn(
            "no signed bundle is kept yet: a start asks its source, and denies everyone until that gives one",
        );
    } else if let Some(error) = policy.last_error() {
        found.useless(format!("the policy would deny everyone: {error}"));
    }
    if let Some(relaxation) = policy.relaxation() {
        found.fact("RELAXED", format!("{}: {}", relaxation.code.name(), relaxation.sentence));
    }
}

/// Prints the findings of `kms policy check`, except an unreadable file, which the policy has already
/// reported.
fn allowlist(path: &Path, empty_devices: EmptyDevices, found: &mut Findings) {
    found.fact("allowlist", path.display().to_string());
    let Ok(content) = policy::read(path) else { return };
    let review = Review::of(&content, empty_devices);
    for finding in review.findings() {
        let place = if finding.at.is_empty() { "the file" } else { finding.at.as_str() };
        found.warn(format!("allowlist: {place} {}", finding.message));
    }
    if review.unlisted() > 0 {
        found.warn(format!("allowlist: and {} more", review.unlisted()));
    }
}

//! `kms check`: what `run` would do, all findings at once, nothing changed.

use std::{path::Path, process::ExitCode};

use crate::{app::Preflight, config::Config, lifecycle::Prospect, os_image, policy::Policy};

/// Prints the effective configuration's consequences; status 1 if `run` would refuse.
pub(super) fn check(explicit: Option<&Path>) -> ExitCode {
    let (config, notices) = match Config::load(explicit) {
        Ok(loaded) => loaded,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for file in &config.files {
        println!("read      {}", file.display());
    }
    for notice in &notices {
        println!("notice    {notice}");
    }
    println!("listen    {}:{} (main)", config.rpc.address, config.rpc.port);
    let admin = &config.core.admin;
    if admin.enabled {
        println!("listen    {}:{} (admin)", admin.address, admin.port);
    }
    let Preflight { problems, prospect, policy, slow_users } = Preflight::of(&config);
    if let Some(prospect) = prospect {
        keys(prospect, &config);
    }
    if let Some(policy) = policy {
        decides(&policy);
    }
    let image = &config.core.image;
    if image.verify && image.acpi_tables.as_ref().is_some_and(|program| !os_image::is_installed(program)) {
        println!(
            "warning   core.image.acpi_tables is not installed: CVMs with legacy TDX attestation would have no keys"
        );
    }
    for (user, cost) in slow_users {
        println!(
            "warning   core.admin.htpasswd_file: the hash of {user} has a cost of {cost}, which makes everybody wait who logs in; 10 to 12 are usual"
        );
    }
    for relaxation in config.posture().relaxed() {
        println!("RELAXED   {}: {}", relaxation.code, relaxation.sentence);
    }
    let refused = !problems.is_empty();
    for problem in problems {
        println!("REFUSED   {:#}", anyhow::Error::from(problem));
    }
    println!("{}", if refused { "run would refuse to start" } else { "run would start" });
    if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn keys(prospect: Prospect, config: &Config) {
    let onboard = &config.core.onboard;
    match (prospect, &onboard.auto_bootstrap_domain) {
        (Prospect::Ready, _) => println!("keys      found, this KMS would serve them"),
        (Prospect::Onboarding, Some(domain)) => {
            println!("keys      none: new ones would be made at once for {domain}");
        }
        (Prospect::Onboarding, None) => {
            println!("keys      none: onboarding on {}:{}", onboard.address, onboard.port);
        }
    }
}

fn decides(policy: &Policy) {
    println!("policy    {}", policy.kind());
    if let Some(error) = policy.last_error() {
        println!("warning   the policy would deny everyone: {error}");
    }
    if let Some(relaxation) = policy.relaxation() {
        println!("RELAXED   {}: {}", relaxation.code, relaxation.sentence);
    }
}

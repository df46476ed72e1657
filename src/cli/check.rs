//! `kms check`: what `run` would do, all findings at once, nothing changed.

use std::{path::Path, process::ExitCode};

use crate::{
    config::{AuthApi, Config},
    policy::Policy,
    store::{KeyDirectory, Permissions, State},
};

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
    let refused = !keys(&config);
    policy(&config.core.auth_api);
    if config.core.image.verify {
        println!(
            "warning   core.image.verify is true, and this version cannot verify OS images: no keys will be released"
        );
    }
    for relaxation in config.posture().relaxed() {
        println!("RELAXED   {}: {}", relaxation.code, relaxation.sentence);
    }
    println!("{}", if refused { "run would refuse to start" } else { "run would start" });
    if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What the key directory holds; false if `run` would refuse it.
fn keys(config: &Config) -> bool {
    let core = &config.core;
    let permissions = match core.insecure_world_readable_keys {
        true => Permissions::InsecureAllowLoose,
        false => Permissions::OwnerOnly,
    };
    match KeyDirectory::inspect(&core.cert_dir, permissions) {
        Ok(State::Complete(_)) => {
            println!("keys      found, this KMS would serve them");
            true
        }
        Ok(State::Empty) => match (&core.onboard.auto_bootstrap_domain, core.onboard.enabled) {
            (_, false) => {
                println!("REFUSED   there are no keys, and core.onboard.enabled is false");
                false
            }
            (Some(domain), true) => {
                println!("keys      none: new ones would be made at once for {domain}");
                true
            }
            (None, true) => {
                let onboard = &core.onboard;
                println!("keys      none: onboarding on {}:{}", onboard.address, onboard.port);
                true
            }
        },
        Ok(State::Broken { reason, .. }) => {
            println!("REFUSED   the key directory is incomplete: {reason}");
            false
        }
        Err(error) => {
            println!("REFUSED   {error}");
            false
        }
    }
}

fn policy(config: &AuthApi) {
    match Policy::from_config(config) {
        Ok(policy) => {
            println!("policy    {}", policy.kind());
            if let Some(error) = policy.last_error() {
                println!("warning   the policy would deny everyone: {error}");
            }
            if let Some(relaxation) = policy.relaxation() {
                println!("RELAXED   {}: {}", relaxation.code, relaxation.sentence);
            }
        }
        Err(error) => println!("REFUSED   {error}"),
    }
}

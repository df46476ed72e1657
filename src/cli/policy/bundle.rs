//! Signed bundles on the command line: what they say, and by which keys they are verified.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;
use kms_policy::bundle::source::read_file;
use kms_policy::bundle::{
    Bundle, BundleError, FIRST_LINE, Header, UnverifiedBundle, is_sigstore, is_unsigned,
};
use kms_policy::settings::PinnedKeys;
use serde_json::{Value, json};

use super::read;
use crate::clock::rfc3339;
use crate::config::{AuthApi, Config};

/// A bundle to show.
#[derive(Debug, Args)]
#[command(after_help = "It is not verified: anyone could have written it. kms policy check does that.")]
pub(crate) struct Show {
    /// The bundle
    file: PathBuf,
    /// Print the auth-config.json in it, and nothing else
    #[arg(long)]
    policy: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "policy")]
    json: bool,
}

impl Show {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let bundle = UnverifiedBundle::parse(&with_beside(&self.file, read(&self.file)?)?)?;
        if self.policy {
            say!("{}", bundle.policy().trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        let signers: Vec<String> = bundle.claimed_signers().collect();
        if self.json {
            let mut shown = header(bundle.header());
            shown["digest"] = bundle.digest().to_string().into();
            shown["verified"] = false.into();
            shown["claimed_signers"] = signers.into();
            say!("{shown:#}");
        } else {
            print_header(bundle.header());
            say!("{:<9} {}", "digest", bundle.digest());
            say!("{:<9} {} (not verified)", "signed by", signers.join(", "));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether the content of a file is meant as a bundle.
pub(super) fn is_bundle(content: &[u8]) -> bool {
    content.starts_with(FIRST_LINE.as_bytes()) || is_sigstore(content)
}

/// The content of a file; if it is the text of a bundle, with the signature of minisign in the file beside it.
pub(super) fn with_beside(path: &Path, content: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    match content.starts_with(FIRST_LINE.as_bytes()) && is_unsigned(&content) {
        true => read_file(path, true).map_err(|_| BundleError::Unsigned.into()),
        false => Ok(content),
    }
}

/// The allowlist in a file, which may be in a bundle. It is compared, and does not decide, so nothing is verified.
pub(super) fn policy_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    let content = read(path)?;
    match is_bundle(&content) {
        true => {
            let bundle = UnverifiedBundle::parse(&with_beside(path, content)?)?;
            Ok(bundle.policy().as_bytes().to_vec())
        }
        false => Ok(content),
    }
}

/// The keys of the configuration.
pub(super) fn configured(explicit: Option<&Path>) -> anyhow::Result<PinnedKeys> {
    let (config, _) = Config::load(explicit)?;
    match config.core.auth_api {
        AuthApi::Bundle(bundle) => Ok(bundle.keys),
        AuthApi::Webhook(_) | AuthApi::Allowlist { .. } | AuthApi::Ethereum(_) | AuthApi::Dev { .. } => {
            Err(anyhow!(
                "the configuration pins no keys of signers: name them with --signer, or a configuration with -c"
            ))
        }
    }
}

/// A verified bundle as JSON.
pub(super) fn shown(bundle: &Bundle) -> Value {
    let mut shown = header(bundle.header());
    shown["digest"] = bundle.digest().to_string().into();
    shown["verified"] = true.into();
    shown["signers"] = bundle.signers().into();
    shown
}

pub(super) fn print(bundle: &Bundle) {
    print_header(bundle.header());
    say!("{:<9} {}", "digest", bundle.digest());
    say!("{:<9} {}", "signed by", bundle.signers().join(", "));
}

fn header(header: &Header) -> Value {
    json!({
        "name": header.name(),
        "domain": header.domain(),
        "serial": header.serial(),
        "not_before": rfc3339(header.not_before()),
        "expires": rfc3339(header.expires()),
        "previous": header.previous().map(|digest| digest.to_string()),
    })
}

fn print_header(header: &Header) {
    say!("{:<9} {} of the domain {}, serial {}", "bundle", header.name(), header.domain(), header.serial());
    say!("{:<9} from {} to {}", "valid", rfc3339(header.not_before()), rfc3339(header.expires()));
    if let Some(previous) = header.previous() {
        say!("{:<9} {previous}", "after");
    }
}

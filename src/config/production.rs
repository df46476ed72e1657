//! What `profile = "production"` refuses, and `kms doctor` advises against: every finding with its remedy.

mod files;
mod strength;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;

use super::{Config, Onboard, Posture, Profile};
pub(super) use values::{Values, Variables, recorded};

/// A setting that is unsafe where keys matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafeSetting {
    /// A stable code for programs: `plain_http`.
    pub code: &'static str,
    /// The key, the environment variable, or the file.
    pub subject: String,
    /// What is unsafe; no secret, and of a URL the origin only.
    pub problem: String,
    /// What to change.
    pub remedy: String,
}

impl fmt::Display for UnsafeSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}", self.subject, self.problem, self.remedy)
    }
}

/// All unsafe settings of a configuration whose profile permits none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafeConfig(pub Vec<UnsafeSetting>);

impl fmt::Display for UnsafeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("profile = \"production\" does not permit these settings")?;
        self.0.iter().try_for_each(|setting| write!(f, "\n  {setting}"))
    }
}

impl std::error::Error for UnsafeConfig {}

impl Config {
    /// Refuses the configuration if its profile permits no unsafe setting and there is one. Reads the modes of files, and
    /// files with secrets.
    ///
    /// # Errors
    /// [`UnsafeConfig`].
    pub fn permitted(&self) -> Result<(), UnsafeConfig> {
        match self.profile {
            Profile::Standard => Ok(()),
            Profile::Production => match self.unsafe_settings() {
                found if found.is_empty() => Ok(()),
                found => Err(UnsafeConfig(found)),
            },
        }
    }

    /// Every unsafe setting, whatever the profile.
    pub fn unsafe_settings(&self) -> Vec<UnsafeSetting> {
        let mut found = relaxed(&self.posture());
        for shown in self.values.found() {
            if !found.iter().any(|known| known.subject == shown.subject) {
                found.push(shown.clone());
            }
        }
        found.extend(onboarding(&self.core.onboard));
        found.extend(self.values.read_secrets());
        found.extend(files::readable_by_others(self, &self.values));
        found
    }
}

fn relaxed(posture: &Posture) -> Vec<UnsafeSetting> {
    let relaxed = posture.relaxed().iter().map(|relaxation| UnsafeSetting {
        code: relaxation.code,
        subject: subject_of(relaxation.code).to_owned(),
        problem: relaxation.sentence.clone().into_owned(),
        remedy: remedy_of(relaxation.code).to_owned(),
    });
    // Their URLs are found one by one.
    let is_found =
        |code| ["webhook_unencrypted", "chain_unencrypted", "notifications_unencrypted"].contains(&code);
    relaxed.filter(|found| !is_found(found.code)).collect()
}

/// The key of a relaxation.
fn subject_of(code: &str) -> &str {
    match code {
        "no_tee" => "core.insecure_no_tee",
        "dev_auth" => "core.auth_api.type",
        "domain_dev_auth" => "domains",
        "rpc_cert_not_attested" => "core.attest_rpc_cert",
        "self_authorization_off" => "core.enforce_self_authorization",
        "os_image_not_verified" => "core.image.verify",
        "empty_devices_allow_any" => "core.auth_api.allowlist.insecure_empty_devices_allow_any",
        "external_trust_anchors" => "core.attestation.root_ca.tdx",
        "admin_without_credentials" => "core.admin.insecure_no_auth",
        "admin_unencrypted" => "core.admin.address",
        "oidc_plain_http" => "core.admin.oidc.issuer",
        "world_readable_keys" => "core.insecure_world_readable_keys",
        "chain_not_final" => "core.auth_api.ethereum.block",
        "tcb_grace" => "core.tcb.grace",
        "tcb_advisories" => "core.tcb.advisories",
        "tcb_models" => "core.tcb.fmspcs",
        other => other,
    }
}

fn remedy_of(code: &str) -> &'static str {
    match code {
        "no_tee" => "Run it in a confidential VM, and remove the key",
        "dev_auth" => "Set it to \"allowlist\", \"webhook\" or \"ethereum\"",
        "domain_dev_auth" => "Set auth_api.type of each domain to \"allowlist\", \"webhook\" or \"ethereum\"",
        "rpc_cert_not_attested" | "self_authorization_off" | "os_image_not_verified" => "Set it to true",
        "external_trust_anchors" => "Remove it: the vendor's root is built in",
        "admin_without_credentials" => {
            "Remove it: without other credentials the first start creates an owner and prints its token once"
        }
        "admin_unencrypted" => {
            "Name files in core.admin.tls, with create_if_missing = true, or set it to \"127.0.0.1\""
        }
        "oidc_plain_http" => "Set it to the issuer's https URL",
        "chain_not_final" => "Set it to \"finalized\" or \"safe\"",
        "tcb_grace" | "tcb_advisories" | "tcb_models" => "Update the platforms, and remove it",
        _ => "Remove it: the default is safe",
    }
}

fn onboarding(onboard: &Onboard) -> Option<UnsafeSetting> {
    // An automatic bootstrap opens no onboarding listener.
    let is_open = onboard.enabled
        && onboard.auto_bootstrap_domain.is_none()
        && onboard.auth_token.is_none()
        && !onboard.address.to_canonical().is_loopback();
    is_open.then(|| UnsafeSetting {
        code: "onboarding_without_token",
        subject: "core.onboard.auth_token".to_owned(),
        problem: "while there are no keys, everybody who reaches this KMS can make its root keys or choose their source"
            .to_owned(),
        remedy: format!(
            "Set it to {}, set core.onboard.address to \"127.0.0.1\", or set core.onboard.enabled to false once there \
             are keys",
            strength::ADVICE
        ),
    })
}

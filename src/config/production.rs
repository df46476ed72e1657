//! What `profile = "production"` refuses, and `kms doctor` advises against: every finding with its remedy.

mod files;
mod strength;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;

use kms_policy::RelaxedKey;

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
    let relaxed = posture.relaxed().iter().filter_map(|relaxation| {
        // URLs are found one by one.
        let RelaxedKey { key, remedy } = relaxation.code.relaxed_key()?;
        Some(UnsafeSetting {
            code: relaxation.code.name(),
            subject: key.to_owned(),
            problem: relaxation.sentence.clone().into_owned(),
            remedy: remedy.to_owned(),
        })
    });
    relaxed.collect()
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

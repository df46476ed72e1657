//! Reload: configuration files, policy and certificates are read or made again.

use std::net::IpAddr;
use std::sync::Arc;

use kms_policy::Policy;
use schemars::JsonSchema;
use serde::Serialize;

use super::actions::Reissue;
use super::readiness::policy_problem;
use super::settings::SettingsService;
use crate::audit::{Audit, Event};
use crate::control::Author;
use crate::error::Result;

/// Reloads what can be reloaded.
#[derive(Debug)]
pub struct ReloadService {
    settings: Arc<SettingsService>,
    policy: Arc<Policy>,
    certificates: Arc<dyn Reissue>,
    audit: Arc<Audit>,
}

/// The cause of a reload.
#[derive(Debug, Clone)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// An operator.
    Operator(Author),
}

/// What a reload has done.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reloaded {
    reloaded: Vec<Part>,
    /// Settings with another value in the files, which a restart puts into force.
    restart_required: Vec<String>,
}

/// One part.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Part {
    /// `settings`, `policy` or `certificate`.
    name: &'static str,
    /// Whether something is in force now that was not before.
    changed: bool,
    /// What was done, or why not.
    message: String,
}

impl ReloadService {
    /// Reloads these parts.
    pub fn new(
        settings: Arc<SettingsService>,
        policy: Arc<Policy>,
        certificates: Arc<dyn Reissue>,
        audit: Arc<Audit>,
    ) -> Self {
        Self { settings, policy, certificates, audit }
    }

    /// Reloads everything. If the files are invalid, nothing is changed.
    ///
    /// # Errors
    /// `invalid_configuration`.
    pub async fn reload(&self, trigger: Trigger) -> Result<Reloaded> {
        let reading = self.settings.read_again().await?;
        let settings = Part {
            name: "settings",
            changed: !reading.changed.is_empty(),
            message: match (reading.has_files, reading.changed.as_slice()) {
                (false, _) => "the configuration of this process is in no file".to_owned(),
                (true, []) => "the files were read; no setting that can change has changed".to_owned(),
                (true, changed) => format!("in force now: {}", changed.join(", ")),
            },
        };
        let policy = self.reload_policy().await;
        let certificate = match self.certificates.reissue().await {
            Ok(()) => ("new connections get a new certificate".to_owned(), true),
            Err(problem) => (problem, false),
        };
        let certificate = Part { name: "certificate", changed: certificate.1, message: certificate.0 };
        let (by, remote): (_, Option<IpAddr>) = match trigger {
            Trigger::Signal => ("SIGHUP".to_owned(), None),
            Trigger::Operator(author) => (author.by, Some(author.remote)),
        };
        let restart_required = reading.restart_required;
        self.audit.note(Event::Reloaded {
            changed: reading.changed,
            restart_required: restart_required.clone(),
            by,
            remote,
        });
        Ok(Reloaded { reloaded: vec![settings, policy, certificate], restart_required })
    }

    async fn reload_policy(&self) -> Part {
        let before = self.policy.in_force().digest;
        let asked = self.policy.info().await.err().map(|error| error.to_string());
        let changed = self.policy.in_force().digest != before;
        let message = match (asked.or_else(|| policy_problem(&self.policy)), changed) {
            (Some(problem), _) => problem,
            (None, true) => "other rules decide now".to_owned(),
            (None, false) => "the same rules decide".to_owned(),
        };
        Part { name: "policy", changed, message }
    }
}

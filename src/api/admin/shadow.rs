//! `StartShadow`, `ShadowReport`, `StopShadow`: evaluate an allowlist on live requests before it decides.

use std::sync::Arc;

use kms_policy::Subject;
use sha2::{Digest as _, Sha256};

use super::{AdminService, shown};
use crate::admission::Settled;
use crate::api::Caller;
use crate::audit::Event;
use crate::config::EmptyDevices;
use crate::control::{Author, Change, Report};
use crate::error::{Error, Result};
use crate::proto::{ShadowChange, ShadowReportResponse, StartShadowRequest, StartShadowResponse};

const MAX_NAME: usize = 100;

impl AdminService {
    /// `Admin.StartShadow`.
    ///
    /// # Errors
    /// A text that is not an allowlist, or a name that is too long; nothing changes then.
    pub async fn start_shadow(
        &self,
        caller: &Caller,
        request: StartShadowRequest,
    ) -> Result<StartShadowResponse> {
        let StartShadowRequest { auth_config_json, name, strict_devices } = request;
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!("name must be one line of at most {MAX_NAME} bytes")));
        }
        let empty_devices = match strict_devices {
            None => self.empty_devices,
            Some(true) => EmptyDevices::NoDevice,
            Some(false) => EmptyDevices::AnyDevice,
        };
        let (shadow, called) = (Arc::clone(&self.kms.shadow), name.clone());
        // Parsing a large file blocks for a while.
        let started = tokio::task::spawn_blocking(move || {
            let sha256 = hex::encode(Sha256::digest(auth_config_json.as_bytes()));
            shadow.start(called, auth_config_json.as_bytes(), empty_devices).map(|started| (started, sha256))
        });
        let started = started.await.map_err(|error| Error::internal("the parser ended in a panic", error))?;
        let ((rules, before), sha256) = started.map_err(|error| Error::invalid(error.to_string()))?;
        let author = caller.author();
        tracing::info!(name, rules, by = author.by, "shadow policy started");
        self.recorded(Event::ShadowStarted { name, sha256, by: author.by, remote: author.remote }).await;
        let own = self.judged_own().await;
        Ok(StartShadowResponse {
            rules,
            replaced: before.is_some(),
            allows_this_kms: own.map(|decision| decision.is_allowed()),
        })
    }

    /// `Admin.ShadowReport`.
    pub async fn shadow_report(&self, _: &Caller, (): ()) -> Result<ShadowReportResponse> {
        let own = self.judged_own().await;
        Ok(self.kms.shadow.report().map_or_else(ShadowReportResponse::default, |report| {
            ShadowReportResponse { running: true, ..response(report, own) }
        }))
    }

    /// `Admin.StopShadow`.
    pub async fn stop_shadow(&self, caller: &Caller, (): ()) -> Result<ShadowReportResponse> {
        let own = self.judged_own().await;
        let Some(report) = self.kms.shadow.stop() else { return Ok(ShadowReportResponse::default()) };
        self.record_end(caller.author(), &report).await;
        Ok(response(report, own))
    }

    /// Stops the candidate with this digest, which has become the policy in force.
    pub(in crate::api) async fn stop_shadow_if(&self, author: Author, sha256: &[u8; 32]) {
        if let Some(report) = self.kms.shadow.stop_if(sha256) {
            self.record_end(author, &report).await;
        }
    }

    async fn record_end(&self, author: Author, report: &Report) {
        self.recorded(Event::ShadowStopped {
            name: report.name.clone(),
            newly_allowed: report.newly_allowed,
            newly_denied: report.newly_denied,
            by: author.by,
            remote: author.remote,
        })
        .await;
    }

    /// Whether the candidate would allow this KMS: one that does not would stop every release.
    pub(in crate::api) async fn judged_own(&self) -> Option<Settled> {
        let self_authorization = &self.foundation.self_authorization;
        let own = self_authorization.told_identity()?;
        let decision = self.kms.shadow.judge(Subject::Kms(&own))?;
        Some(self_authorization.settled(decision).await)
    }
}

fn response(report: Report, own: Option<Settled>) -> ShadowReportResponse {
    let (allows, because) = match own {
        None => (None, String::new()),
        Some(Settled::Allowed) => (Some(true), String::new()),
        Some(Settled::Denied(denial)) => (Some(false), denial.reason),
    };
    let Report { allowed_by_both, denied_by_both, newly_allowed, newly_denied, .. } = report;
    ShadowReportResponse {
        running: false,
        name: report.name,
        rules: report.rules,
        since: report.since,
        decisions: allowed_by_both + denied_by_both + newly_allowed + newly_denied,
        allowed_by_both,
        denied_by_both,
        newly_allowed,
        newly_denied,
        without_answer: report.without_answer,
        changes: report.changes.into_iter().map(change).collect(),
        omitted: report.omitted,
        allows_this_kms: allows,
        denies_this_kms_because: because,
    }
}

fn change(change: Change) -> ShadowChange {
    ShadowChange {
        effect: change.effect.name().to_owned(),
        subject: change.subject.name().to_owned(),
        code: change.denial.code.name().to_owned(),
        reason: change.denial.reason,
        expected: change.denial.expected.unwrap_or_default(),
        actual: change.denial.actual.unwrap_or_default(),
        identity: Some(shown(change.identity)),
        count: change.count,
        first: change.first,
        last: change.last,
    }
}

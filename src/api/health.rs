//! The health of this KMS, as monitoring reads it.

use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Serialize;

use super::readiness::{Readiness, Reason};
use crate::clock::{rfc3339, unix, unix_now};
use crate::operator::DomainScope;

/// One run of the process.
#[derive(Debug, Clone)]
pub struct Boot {
    /// 32 hexadecimal digits, different after each start.
    pub id: String,
    /// When the process started.
    pub started: SystemTime,
}

/// Reports the health of one phase.
#[derive(Debug)]
pub struct HealthService {
    readiness: Arc<Readiness>,
    boot: Boot,
}

/// The amount of detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail<'a> {
    /// For anyone: no detail that may name hosts or files.
    Public,
    /// For operators: also the details of the domains in their scope.
    Operator(&'a DomainScope),
}

/// The body of `/health` and `/api/v1/health`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    /// Always `cvm-kms`.
    service: &'static str,
    status: Status,
    /// The time of this response, RFC 3339 in UTC.
    timestamp: String,
    /// When the process started, RFC 3339 in UTC.
    #[serde(rename = "startedAt")]
    started_at: String,
    /// Different after each start of the process.
    #[serde(rename = "bootId")]
    boot_id: String,
    /// The version of the KMS.
    version: &'static str,
    mode: Mode,
    /// What degrades the service or makes it unavailable.
    reasons: Vec<HealthReason>,
}

/// Whether keys can be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// Keys are released.
    Ok,
    /// Keys are released, but an operator should act.
    Degraded,
    /// Not ready: new requests should go to another KMS.
    Unavailable,
}

/// The phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// There are no keys that could be served.
    Onboarding,
    /// Keys are served.
    Serving,
}

/// One reason.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HealthReason {
    /// Its stable name, as in `/readyz`.
    code: &'static str,
    /// A sentence about it.
    message: String,
}

impl HealthService {
    /// The health that `readiness` reports, in this run of the process.
    pub fn new(readiness: Arc<Readiness>, boot: Boot) -> Self {
        Self { readiness, boot }
    }

    /// What it is computed from.
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    /// The run of the process.
    pub fn boot(&self) -> &Boot {
        &self.boot
    }

    /// The health now, from memory and without waiting.
    pub fn health(&self, detail: Detail<'_>) -> Health {
        let report = self.readiness.report();
        let reasons: Vec<_> = report.reasons().iter().map(|reason| shown(reason, detail)).collect();
        let status = match (report.is_ready(), reasons.is_empty()) {
            (true, true) => Status::Ok,
            (true, false) => Status::Degraded,
            (false, _) => Status::Unavailable,
        };
        Health {
            service: "cvm-kms",
            status,
            timestamp: rfc3339(unix_now()),
            started_at: rfc3339(unix(self.boot.started)),
            boot_id: self.boot.id.clone(),
            version: env!("CVM_KMS_VERSION"),
            mode: if self.readiness.is_onboarding() { Mode::Onboarding } else { Mode::Serving },
            reasons,
        }
    }
}

fn shown(reason: &Reason, detail: Detail<'_>) -> HealthReason {
    let text = reason.cause.text();
    let detail = match detail {
        Detail::Operator(scope) => reason.detail_for(scope),
        Detail::Public => String::new(),
    };
    let message = if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") };
    HealthReason { code: reason.cause.name(), message }
}

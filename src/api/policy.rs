//! The policy as operators see and change it: what is in force, a check of a candidate, and its activation.

mod bundles;
mod check;
mod placing;

use std::path::PathBuf;
use std::sync::Arc;

use kms_attest::identity::DomainName;
use kms_attest::small_file::small_file;
use kms_policy::Policy;
use kms_wire::bundles::ShownBundle;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use self::bundles::shown;
pub use self::bundles::{BundleRequest, BundleService, FetchRequest};
pub use self::check::{CheckRequest, Checked, Problem};
pub use self::placing::Placed;
use super::Caller;
use super::admin::AdminService;
use super::kms::KmsService;
use super::readiness::policy_problem;
use crate::admission::Foundation;
use crate::clock::{rfc3339, unix};
use crate::config::{AuthApi, Core, EmptyDevices};
use crate::control::CandidateText;
use crate::error::{Code, Error, Result};
use crate::operator::DomainScope;

/// The largest document that is shown, in bytes: thousands of apps. As JSON values it takes several times as much memory.
const MAX_SHOWN: usize = 2 << 20;

/// What is said of the policy of a domain that has none of its own.
const SHARED: &str = "the policy of the KMS decides in this domain";

/// Shows and changes the policy.
#[derive(Debug)]
pub struct PolicyService {
    foundation: Arc<Foundation>,
    kms: Arc<KmsService>,
    admin: Arc<AdminService>,
    /// The allowlist's file; `None` if something else decides.
    file: Option<PathBuf>,
    /// What an empty device list means.
    empty_devices: EmptyDevices,
    /// One file at a time is put into its place.
    turn: Mutex<()>,
}

/// The policy in force.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PolicyState {
    /// `allowlist`, `webhook`, `ethereum` or `dev`.
    kind: &'static str,
    /// What identifies the rules in the records of releases, hex: SHA-256 of the allowlist, or of the key that signs a
    /// webhook's decisions.
    sha256: Option<String>,
    /// When an allowlist was first read with this content, RFC 3339 in UTC.
    loaded_at: Option<String>,
    /// Where the rules are: `file`, `bundle`, `webhook`, `chain` or `configuration`.
    source: &'static str,
    /// Whether an allowlist can be uploaded.
    editable: bool,
    /// Why not, or why the policy cannot decide at the moment.
    message: Option<String>,
    /// The allowlist; null for another kind, if it is invalid or larger than 2 MiB, and for a credential of one domain.
    document: Option<Value>,
    /// The signed bundle that has the rules, if bundles have them.
    bundle: Option<ShownBundle>,
    /// The candidate that is evaluated on live requests; null for a credential of one domain.
    shadow: Option<ShadowState>,
    /// Whether the rules relax something, such as an empty device list that allows any device.
    relaxed: bool,
}

/// A candidate allowlist, and what it would have changed so far.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ShadowState {
    name: String,
    /// SHA-256 of its text, hex: what activation names.
    sha256: String,
    /// RFC 3339 in UTC.
    started_at: String,
    /// Requests that both have judged.
    seen: u64,
    /// Requests that it denies and the policy in force allows.
    would_deny: u64,
    /// Requests that it allows and the policy in force denies.
    would_allow: u64,
    /// Whether it allows this KMS itself; null if that is not known. One that does not would stop every release.
    allows_this_kms: Option<bool>,
    document: Option<Value>,
}

/// The body of `POST /api/v1/policy/activate`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivateRequest {
    /// SHA-256 of the candidate in shadow, hex, as it was reviewed.
    sha256: String,
}

impl PolicyService {
    /// The policy of `[core]`.
    pub fn new(core: &Core, kms: Arc<KmsService>, admin: Arc<AdminService>) -> Self {
        let file = match &core.auth_api {
            AuthApi::Allowlist { path, .. } => Some(path.clone()),
            AuthApi::Bundle(_) | AuthApi::Webhook(_) | AuthApi::Ethereum(_) | AuthApi::Dev { .. } => None,
        };
        Self {
            foundation: Arc::clone(&kms.foundation),
            kms,
            admin,
            file,
            empty_devices: core.auth_api.empty_devices(),
            turn: Mutex::default(),
        }
    }

    /// What is in force now for `scope`, and the candidate.
    pub async fn state(&self, scope: &DomainScope) -> PolicyState {
        match scope.only() {
            Some(domain) => self.state_in(domain),
            None => self.state_of_kms().await,
        }
    }

    /// What decides in one domain, without what it says of others.
    fn state_in(&self, domain: &DomainName) -> PolicyState {
        let policy = self.foundation.policy_of(domain);
        let in_force = policy.in_force();
        let is_own = self.foundation.has_policy(domain);
        let shared = || (!is_own && !domain.is_default()).then(|| SHARED.to_owned());
        let bundle = policy.bundled().and_then(|bundled| bundled.bundle());
        PolicyState {
            kind: policy.kind(),
            sha256: in_force.digest.map(hex::encode),
            loaded_at: in_force.since.map(|since| rfc3339(unix(since))),
            source: source_of(policy),
            editable: false,
            message: policy_problem(policy).filter(|_| is_own).or_else(shared),
            document: None,
            bundle: bundle.filter(|_| is_own || domain.is_default()).map(|it| shown(&it.bundle)),
            shadow: None,
            relaxed: policy.is_dev() || policy.relaxation().is_some(),
        }
    }

    async fn state_of_kms(&self) -> PolicyState {
        let policy = &self.foundation.policy;
        if self.file.is_some() {
            // Reads a file that has changed. Other kinds would ask their backend.
            let _ = policy.info().await;
        }
        let source = source_of(policy);
        let refusal = match source {
            "file" => None,
            "bundle" => Some("signed bundles have the rules; push one with kmsctl policy push"),
            "webhook" => Some("the authorization backend has the rules; change them there"),
            "chain" => Some("a contract has the rules; change them there"),
            _ => Some("core.auth_api.type = \"dev\" has no rules"),
        };
        let in_force = policy.in_force();
        PolicyState {
            kind: policy.kind(),
            sha256: in_force.digest.map(hex::encode),
            loaded_at: in_force.since.map(|since| rfc3339(unix(since))),
            source,
            editable: self.file.is_some(),
            message: policy_problem(policy).or(refusal.map(str::to_owned)),
            bundle: policy.bundled().and_then(|bundled| bundled.bundle()).map(|it| shown(&it.bundle)),
            document: self.document().await,
            shadow: self.shadow().await,
            relaxed: policy.is_dev() || policy.relaxation().is_some(),
        }
    }

    async fn shadow(&self) -> Option<ShadowState> {
        let shadow = &self.kms.shadow;
        let (report, text) = (shadow.report()?, shadow.text()?);
        let own = self.admin.judged_own().await;
        Some(ShadowState {
            name: report.name,
            sha256: hex::encode(text.sha256),
            started_at: rfc3339(report.since),
            seen: report.allowed_by_both + report.denied_by_both + report.newly_allowed + report.newly_denied,
            would_deny: report.newly_denied,
            would_allow: report.newly_allowed,
            allows_this_kms: own.map(|decision| decision.is_allowed()),
            document: document(&text.text),
        })
    }

    /// The allowlist's file, if it is there and can be shown whole. It is read and parsed on a thread of its own.
    async fn document(&self) -> Option<Value> {
        if let Some(bundled) = self.foundation.policy.bundled() {
            let in_force = bundled.bundle()?;
            let read = move || document(in_force.bundle.policy().as_bytes());
            return tokio::task::spawn_blocking(read).await.ok().flatten();
        }
        let path = self.file.clone()?;
        let read = move || small_file(&path, MAX_SHOWN as u64).ok().and_then(|content| document(&content));
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// The candidate in shadow becomes the policy in force.
    ///
    /// # Errors
    /// There is no candidate, it has another digest, or it was evaluated with another meaning of empty device lists;
    /// as [`PolicyService::replace`].
    pub async fn activate(self: Arc<Self>, caller: &Caller, request: ActivateRequest) -> Result<Placed> {
        let conflict = |code, text: &str| Err(Error::new(Code::Conflict, text).because(code));
        let Some(CandidateText { text, sha256, empty_devices }) = self.kms.shadow.text() else {
            return conflict("no_candidate", "no candidate is in shadow; start one first");
        };
        if hex::encode(sha256) != request.sha256.to_ascii_lowercase() {
            let text = "the candidate in shadow has changed: review it, and activate it by its own sha256";
            return conflict("candidate_changed", text);
        }
        if empty_devices != self.empty_devices {
            let text = "the candidate was evaluated with another meaning of empty device lists (strict_devices) \
                        than the configuration has; start it again without strict_devices";
            return conflict("candidate_differs", text);
        }
        let placed = Arc::clone(&self).replace(caller, text.to_vec()).await?;
        self.admin.stop_shadow_if(caller.author(), &sha256).await;
        Ok(placed)
    }
}

/// Where the rules of a policy are.
fn source_of(policy: &Policy) -> &'static str {
    match policy {
        Policy::Allowlist(_) => "file",
        Policy::Bundled(_) => "bundle",
        Policy::Webhook(_) => "webhook",
        Policy::Ethereum(_) => "chain",
        Policy::AllowAll(_) => "configuration",
    }
}

/// A text as JSON, unless it is too large to be shown whole.
fn document(content: &[u8]) -> Option<Value> {
    (content.len() <= MAX_SHOWN).then(|| kms_attest::json::from_utf8(content).ok())?
}

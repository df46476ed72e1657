//! Domains as operators see them.

use kms_attest::identity::AppId;
use schemars::JsonSchema;
use serde::Serialize;

use super::DomainService;
use crate::clock::rfc3339;
use crate::config::DomainRules;
use crate::control::{ByOperator, Domain, DomainOrigin};

/// The domains of this KMS.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DomainList {
    /// By name, the default one first.
    pub(super) domains: Vec<DomainShown>,
}

/// A domain. Times are RFC 3339.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DomainShown {
    name: String,
    /// `configuration` or `run_time`.
    source: &'static str,
    /// When it was made at run time.
    created_at: Option<String>,
    created_by: Option<String>,
    /// Since when it is archived, so that nothing is released in it; null if it is not.
    archived_at: Option<String>,
    archived_by: Option<String>,
    /// What holds in it. What is absent is as for the whole KMS.
    rules: DomainRules,
    /// Whether images for development are refused.
    refuses_dev_images: bool,
    /// Whether it has a policy of its own; otherwise that of the KMS decides.
    own_policy: bool,
    /// What decides: `allowlist`, `webhook`, `ethereum` or `dev`.
    policy_kind: &'static str,
    /// What identifies its rules in the records of releases, hex; null for a kind without one, and before they were read.
    policy_sha256: Option<String>,
    /// How many apps it names. All that no domain names are in the default one.
    apps: usize,
}

/// A domain with its apps.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DomainDetail {
    #[serde(flatten)]
    pub(super) domain: DomainShown,
    /// The apps that it names, by id.
    #[serde(rename = "members")]
    pub(super) apps: Vec<MemberShown>,
}

/// An app that a domain names.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MemberShown {
    /// Hexadecimal.
    app_id: String,
    /// `configuration` or `run_time`.
    source: &'static str,
    /// When an operator put it there; RFC 3339.
    since: Option<String>,
    by: Option<String>,
}

impl DomainService {
    pub(super) fn shown(&self, domain: &Domain) -> DomainShown {
        let Domain { name, rules, origin, archived } = domain;
        let (source, made) = of_origin(origin);
        let policy = self.foundation.policy_of(name);
        DomainShown {
            name: name.to_string(),
            source,
            created_at: made.map(|made| rfc3339(made.since)),
            created_by: made.map(|made| made.by.clone()),
            archived_at: archived.as_ref().map(|archived| rfc3339(archived.since)),
            archived_by: archived.as_ref().map(|archived| archived.by.clone()),
            rules: rules.clone(),
            refuses_dev_images: rules.refuses_dev_images(name),
            own_policy: self.foundation.has_policy(name),
            policy_kind: policy.kind(),
            policy_sha256: policy.in_force().digest.map(hex::encode),
            apps: self.foundation.domains.members(name).len(),
        }
    }
}

impl MemberShown {
    pub(super) fn of((app, origin): (AppId, DomainOrigin)) -> Self {
        let (source, made) = of_origin(&origin);
        Self {
            app_id: hex::encode(app),
            source,
            since: made.map(|made| rfc3339(made.since)),
            by: made.map(|made| made.by.clone()),
        }
    }
}

fn of_origin(origin: &DomainOrigin) -> (&'static str, Option<&ByOperator>) {
    match origin {
        DomainOrigin::Configuration => ("configuration", None),
        DomainOrigin::RunTime(made) => ("run_time", Some(made)),
    }
}

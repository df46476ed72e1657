//! Whom an event is of: a verified identity and how it was proved; and, of a caller that was stopped, where and why.

use std::net::IpAddr;

use kms_attest::identity::{DomainName, Identity};
use serde::Serialize;

use crate::keys::epoch::KeyEpochs;

/// The role of a KMS in records.
pub const ROLE_OF_KMS: &str = "kms";

/// The subject of an event: a verified identity in hex, and the address that it connected from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    app_id: String,
    instance_id: String,
    compose_hash: String,
    device_id: String,
    os_image_hash: String,
    mr_aggregated: String,
    tee_variant: String,
    tcb_status: String,
    advisory_ids: Vec<String>,
    remote: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    relaxations: Vec<String>,
    #[serde(flatten)]
    basis: Option<Basis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spki_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_sha256: Option<String>,
    /// The epochs of the keys, `ROOT.APP`, unless both are 0. One field, because a receipt has little space.
    #[serde(skip_serializing_if = "Option::is_none")]
    epochs: Option<String>,
    /// The domain of the app, unless it is the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// `true` if the caller proved by fresh evidence that it is this guest now.
    #[serde(skip_serializing_if = "Option::is_none")]
    fresh: Option<bool>,
    /// Only of a refusal, because a receipt has no space for it; `mr_aggregated` covers the same registers.
    #[serde(skip_serializing_if = "Option::is_none")]
    mr_system: Option<String>,
    /// Only of a refusal; for a release, the last `started` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'static str>,
    /// `kms` of a KMS that asked for root keys, which is in no domain. Only of a refusal, and of a release that was withheld.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
}

/// How a caller proved which guest it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By fresh evidence, in its session.
    Fresh,
    /// By the evidence in its certificate or certificate request alone.
    Certificate,
}

/// The basis of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Basis {
    /// SHA-256 of the evidence in the certificate or certificate request, hex. Not of fresh evidence, which nobody can verify
    /// after its session, because a receipt has no space for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_sha256: Option<String>,
    /// The guest's stage when the evidence was made: `boot` or `running`.
    pub stage: &'static str,
    /// The rule by which keys of an app are released at this stage: `releaseStage boot` of the policy, or
    /// `core.release_stage any`; `None` for what is released at every stage, and for the latter in other domains than the
    /// default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_rule: Option<&'static str>,
}

impl Subject {
    /// The identity that connected from `remote`.
    pub fn new(identity: &Identity, remote: IpAddr) -> Self {
        Self {
            app_id: hex::encode(identity.app_id),
            instance_id: hex::encode(identity.instance_bytes()),
            compose_hash: hex::encode(identity.compose_hash),
            device_id: hex::encode(identity.device_id),
            os_image_hash: hex::encode(identity.os_image_bytes()),
            mr_aggregated: hex::encode(identity.mr_aggregated),
            tee_variant: identity.tee_variant.to_owned(),
            tcb_status: identity.tcb_status.to_string(),
            advisory_ids: identity.advisory_ids.clone(),
            remote,
            by: None,
            relaxations: Vec::new(),
            basis: None,
            spki_sha256: None,
            policy_sha256: None,
            epochs: None,
            domain: None,
            fresh: None,
            mr_system: None,
            policy: None,
            role: None,
        }
    }

    /// The same, with the operator whose credentials were also presented: `token`, `user <name>` or `anyone`.
    #[must_use]
    pub fn by(self, operator: Option<String>) -> Self {
        Self { by: operator, ..self }
    }

    /// The same, with the evidence that was presented.
    #[must_use]
    pub fn showing(self, basis: Basis) -> Self {
        Self { basis: Some(basis), ..self }
    }

    /// The same, with SHA-256 of the SubjectPublicKeyInfo of the caller's key: that of its TLS certificate, or of its
    /// certificate request.
    #[must_use]
    pub fn holding(self, spki_sha256: Option<[u8; 32]>) -> Self {
        Self { spki_sha256: spki_sha256.map(hex::encode), ..self }
    }

    /// The same, with the digest of the rules that decided: SHA-256 of an allowlist's bytes, of a webhook's decision
    /// key, or of chain, contract and block; `None` if nothing identifies them.
    #[must_use]
    pub fn by_rules(self, digest: Option<[u8; 32]>) -> Self {
        Self { policy_sha256: digest.map(hex::encode), ..self }
    }

    /// The same, with the epochs of the keys that are released. Of 0 and 0 nothing is said, as before there were others.
    #[must_use]
    pub fn of_epochs(self, epochs: KeyEpochs) -> Self {
        let KeyEpochs { root, app } = epochs;
        Self { epochs: (!epochs.is_first()).then(|| format!("{root}.{app}")), ..self }
    }

    /// The same, in this domain. Of the default one nothing is said, as before there were others. A receipt has space for the
    /// name of another one, or for a rule of the configuration about stages, but not for both.
    #[must_use]
    pub fn in_domain(mut self, domain: &DomainName) -> Self {
        self.domain = domain.said().map(str::to_owned);
        if let (Some(_), Some(basis)) = (&self.domain, &mut self.basis) {
            basis.stage_rule = basis.stage_rule.filter(|rule| !rule.starts_with("core."));
        }
        self
    }

    /// The same, of a caller that proved by fresh evidence that it is this guest now, or did not. Of one that did not nothing
    /// is said, as before there was such evidence.
    #[must_use]
    pub fn proved(self, fresh: Proof) -> Self {
        Self { fresh: (fresh == Proof::Fresh).then_some(true), ..self }
    }

    /// The same, with what only refusals say: `mr_system`, and the kind of the policy that refused.
    #[must_use]
    pub fn refused(self, identity: &Identity, policy: Option<&'static str>) -> Self {
        Self { mr_system: Some(hex::encode(identity.mr_system)), policy, ..self }
    }

    /// The same, of a KMS that asked for root keys.
    #[must_use]
    pub fn of_kms(self) -> Self {
        Self { role: Some(ROLE_OF_KMS), ..self }
    }

    /// The same, for an identity that policy was given with changes, because of these rules.
    #[must_use]
    pub fn relaxed(self, relaxations: &[String]) -> Self {
        Self { relaxations: relaxations.to_vec(), ..self }
    }
}

/// Where a caller was stopped, and what would have allowed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// The step of admission.
    pub step: &'static str,
    /// The expected value, of bounded length.
    pub expected: Option<String>,
    /// The actual value.
    pub actual: Option<String>,
    /// The remedy.
    pub remedy: Option<String>,
    /// The id of this refusal in the response.
    pub denial_id: String,
    /// The id of the request in logs; a caller's own begins with `caller:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// SHA-256 of the evidence, hex; `None` without readable evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_sha256: Option<String>,
    /// The rule that refused the guest's stage, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_rule: Option<&'static str>,
}

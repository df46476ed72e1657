//! What the services of both phases share: it attests, verifies, decides, stops and records.

use std::collections::BTreeMap;
use std::sync::Arc;

use kms_attest::attester::Attester;
use kms_attest::identity::{AppId, DomainName};
use kms_attest::verify::Verifier;
use kms_policy::remedy::Remedy;
use kms_policy::{DenialCode, Policy, Role, Subject};
use sha2::{Digest as _, Sha256};

use super::{ImageCheck, SelfAuthorizer, TcbTolerance};
use crate::audit::Audit;
use crate::control::{AppEpochs, Domains, Drain, Freezes, Joins};
use crate::metrics::Metrics;
use crate::os_image::ImageCache;
use crate::state::Choices;

/// What the services of both phases share. Nothing in it can make a permit: only [`Admission`](super::Admission) can.
#[derive(Debug)]
pub struct Foundation {
    /// Our own evidence; `Attester::None` only without a TEE.
    pub attester: Arc<Attester>,
    /// Verifies evidence, ours and that of others.
    pub verifier: Arc<Verifier>,
    /// Decides who is allowed, and says how a denial could be healed.
    pub policy: Arc<Policy>,
    /// The policies of domains that have one of their own.
    pub domain_policies: BTreeMap<DomainName, Arc<Policy>>,
    /// What policy is told of Intel's verdict.
    pub tolerance: Arc<TcbTolerance>,
    /// Whether registers are compared with OS images.
    pub image: ImageCheck,
    /// The cache of OS images and measurements.
    pub images: ImageCache,
    /// Whether this KMS may serve or hold keys at all.
    pub self_authorization: Arc<SelfAuthorizer>,
    /// What operators have stopped.
    pub freezes: Arc<Freezes>,
    /// The domains, and which apps are in them.
    pub domains: Arc<Domains>,
    /// The epochs that operators chose for apps.
    pub app_epochs: Arc<AppEpochs>,
    /// The invitations of replicas.
    pub joins: Arc<Joins>,
    /// Whether load balancers are told to send requests elsewhere.
    pub drain: Arc<Drain>,
    /// Where releases, denials and changes are recorded.
    pub audit: Arc<Audit>,
    /// Where outcomes are counted.
    pub metrics: Arc<Metrics>,
}

impl Foundation {
    /// Whether a domain has a policy of its own.
    pub fn has_policy(&self, domain: &DomainName) -> bool {
        self.domain_policies.contains_key(domain)
    }

    /// The policy that decides in a domain: its own, or that of the KMS.
    pub fn policy_of(&self, domain: &DomainName) -> &Arc<Policy> {
        self.domain_policies.get(domain).unwrap_or(&self.policy)
    }

    /// What would allow `subject` after a denial of `policy` with `code`; `None` if no addition would.
    pub fn remedy(&self, policy: &Policy, code: DenialCode, subject: Subject<'_>) -> Option<Remedy> {
        match self.image {
            ImageCheck::Required(_) => policy.remedy_by_image(code, subject),
            ImageCheck::Waived => policy.remedy(code, subject),
        }
    }

    /// What another KMS has to know, or to have in its configuration, to give apps the same keys.
    pub fn choices(&self) -> Choices {
        let Self { app_epochs, domains, .. } = self;
        Choices { domains: domains.handed(), domains_sha256: domains.digest(), ..app_epochs.choices() }
    }

    /// A digest of them; without domains that of the epochs chosen for apps.
    pub fn choices_digest(&self) -> [u8; 32] {
        let epochs = self.app_epochs.digest();
        match self.domains.handed_digest() {
            None => epochs,
            Some(domains) => Sha256::digest([epochs, domains].concat()).into(),
        }
    }

    /// The domain of a caller in this role, and the policy that decides about it.
    pub fn place_of(&self, role: Option<Role>, app: &AppId) -> (DomainName, &Arc<Policy>) {
        let domain = match role {
            Some(Role::Kms) => DomainName::DEFAULT,
            Some(Role::App | Role::Certificate) | None => self.domains.of(app).name.clone(),
        };
        let policy = self.policy_of(&domain);
        (domain, policy)
    }
}

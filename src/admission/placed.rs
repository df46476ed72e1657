//! Which domain a caller is in: decided once for a request, from the measured app id.

use std::sync::Arc;

use kms_attest::identity::{DomainName, Identity, InstanceId};
use kms_policy::Role;

use super::ChosenEpochs;
use crate::control::{Domain, Domains};
use crate::keys::epoch::AppEpoch;

/// A caller's place: its domain, and the instance whose keys it gets there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    role: Role,
    domain: Arc<Domain>,
    /// The instance that has an app key and an app CA of its own.
    instance: Option<InstanceId>,
}

/// Why a domain refuses a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDenial {
    /// The stable code.
    pub code: DomainDenialCode,
    /// For the caller.
    pub reason: String,
    /// For the operator: what would be allowed. Bounded.
    pub expected: Option<String>,
    /// For the operator: what was found.
    pub actual: Option<String>,
    /// The domain of the caller.
    pub domain: DomainName,
}

/// The cause of a denial by a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DomainDenialCode {
    /// The domain is archived.
    Archived,
    /// Each instance has keys of its own there, and the caller has no instance id.
    NoInstance,
}

impl DomainDenialCode {
    /// The stable name: `domain_archived`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Archived => "domain_archived",
            Self::NoInstance => "instance_id_required",
        }
    }
}

impl Placed {
    /// The place of a caller. A KMS is in the default domain, whatever its app id: it receives the root keys of all.
    pub(super) fn of(domains: &Domains, role: Role, identity: &Identity) -> Self {
        let domain = match role {
            Role::App | Role::Certificate => domains.of(&identity.app_id),
            Role::Kms => domains.default_domain(),
        };
        let instance = identity.instance_id.filter(|_| domain.rules.instance_scoped && role != Role::Kms);
        Self { role, domain, instance }
    }

    /// The domain.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// The instance that has an app key and an app CA of its own; `None` where all instances share them.
    pub fn instance(&self) -> Option<&InstanceId> {
        self.instance.as_ref()
    }

    /// Whether a caller with this identity would still get the same place now, and its domain nothing else. For a KMS, which is
    /// in no domain that can change, always.
    pub fn is_still_in(&self, domains: &Domains, identity: &Identity) -> bool {
        match self.role {
            Role::Kms => true,
            Role::App | Role::Certificate => domains.of(&identity.app_id) == self.domain,
        }
    }

    /// The epochs of its apps, unless the policy or an operator says it for one.
    pub(super) fn epochs(&self) -> Option<ChosenEpochs> {
        usual_epochs(&self.domain)
    }

    /// Checks what the domain requires of the caller.
    ///
    /// # Errors
    /// [`DomainDenial`].
    pub(super) fn admits(&self) -> Result<(), DomainDenial> {
        match self.role {
            Role::Kms => return Ok(()),
            Role::App | Role::Certificate => {}
        }
        not_archived(&self.domain)?;
        if self.domain.rules.instance_scoped && self.instance.is_none() {
            let reason = format!(
                "each instance has keys of its own in the domain {}, and this one has no instance id",
                self.domain.name
            );
            return Err(denial(&self.domain, DomainDenialCode::NoInstance, reason));
        }
        Ok(())
    }
}

/// The epochs of the apps in a domain, if it says any.
pub(super) fn usual_epochs(domain: &Domain) -> Option<ChosenEpochs> {
    let root = domain.rules.default_epoch?.0;
    Some(ChosenEpochs { root, app: AppEpoch::FIRST })
}

/// Checks that something is released in a domain.
///
/// # Errors
/// [`DomainDenial`].
pub(super) fn not_archived(domain: &Domain) -> Result<(), DomainDenial> {
    match &domain.archived {
        None => Ok(()),
        Some(_) => {
            let reason = format!("the domain {} is archived", domain.name);
            Err(denial(domain, DomainDenialCode::Archived, reason))
        }
    }
}

fn denial(domain: &Domain, code: DomainDenialCode, reason: String) -> DomainDenial {
    DomainDenial { code, reason, expected: None, actual: None, domain: domain.name.clone() }
}

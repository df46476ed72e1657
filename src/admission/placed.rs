//! Which domain a caller is in: decided once for a request, from the measured app id.

use std::collections::BTreeSet;
use std::sync::Arc;

use kms_attest::identity::{BootInfo, DomainName, Identity, InstanceId};
use kms_attest::measurement::RuntimeEvent;
use kms_policy::Role;

use super::refusal::Step;
use super::{ChosenEpochs, sealed};
use crate::control::{Domain, Domains};
use crate::keys::epoch::AppEpoch;
use crate::os_image::ImageKind;

/// The longest text for operators.
const MAX_SHOWN: usize = 512;

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
    /// The request names another domain than the one that the app is in.
    Mismatch,
    /// The domain is archived.
    Archived,
    /// Each instance has keys of its own there, and the caller has no instance id.
    NoInstance,
    /// Somebody may be able to log in to the guest.
    NotSealed,
    /// The OS image is for development, or it is not known that it is not.
    DevImage,
    /// The domain does not list the TCB status of the platform.
    TcbStatus,
    /// The domain does not list the machine.
    Device,
    /// The domain does not list the OS image.
    OsImage,
}

impl DomainDenialCode {
    /// The stable name: `domain_archived`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mismatch => "domain_mismatch",
            Self::Archived => "domain_archived",
            Self::NoInstance => "instance_id_required",
            Self::NotSealed => "not_sealed",
            Self::DevImage => "dev_image_not_allowed",
            Self::TcbStatus => "domain_tcb_status_not_allowed",
            Self::Device => "domain_device_not_allowed",
            Self::OsImage => "domain_os_image_not_allowed",
        }
    }

    /// What would allow the request.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Mismatch => {
                "name the domain that the app is in, or none; the list of domains shows the apps of each"
            }
            Self::Archived => {
                "restore the domain of the app, or move the app to another one, where it gets other keys"
            }
            Self::NoInstance => {
                "run the app with an instance id, or in a domain without instance_scoped, where it gets other keys"
            }
            Self::NotSealed => {
                "request keys before system-ready, in a guest that adds no runtime events of its own; or run the app in a domain \
                 that is not sealed, where it gets other keys"
            }
            Self::DevImage => {
                "boot a release image with legacy attestation, and let core.image.verify be true; or set allow_dev_images in the \
                 domain, whose apps can then be read by those who can log in to such an image"
            }
            Self::TcbStatus => {
                "update the machine's firmware, or add its status to tcb_statuses of the domain"
            }
            Self::Device => "run the app on a listed machine, or add this one to devices of the domain",
            Self::OsImage => "boot a listed image, or add this one to os_images of the domain",
        }
    }

    /// The step that finds it.
    pub fn step(self) -> Step {
        match self {
            Self::DevImage => Step::OsImage,
            Self::Mismatch
            | Self::Archived
            | Self::NoInstance
            | Self::NotSealed
            | Self::TcbStatus
            | Self::Device
            | Self::OsImage => Step::Domain,
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

    /// Checks what the domain requires of a caller with this identity and these events, whose request names the domain `asked`.
    ///
    /// # Errors
    /// [`DomainDenial`].
    pub(super) fn admits(
        &self,
        asked: Option<&DomainName>,
        identity: &Identity,
        events: &[RuntimeEvent],
    ) -> Result<(), DomainDenial> {
        use DomainDenialCode as Code;
        let Domain { name, rules, .. } = &*self.domain;
        match self.role {
            Role::Kms => return Ok(()),
            Role::App | Role::Certificate => {}
        }
        expect_asked(&self.domain, asked)?;
        not_archived(&self.domain)?;
        if rules.instance_scoped && self.instance.is_none() {
            let reason = format!(
                "each instance has keys of its own in the domain {name}, and this one has no instance id"
            );
            return Err(denial(name, Code::NoInstance, reason));
        }
        if let Some(event) = sealed::opened_by(events).filter(|_| rules.sealed) {
            let reason = format!("the domain {name} is for sealed guests, and this one may have been opened");
            let actual = Some(format!("the event {event:?}").chars().take(MAX_SHOWN).collect());
            let expected = Some("no runtime events but those of the OS while it boots".to_owned());
            return Err(DomainDenial { expected, actual, ..denial(name, Code::NotSealed, reason) });
        }
        within_lists(
            &self.domain,
            identity.tcb_status.to_string(),
            identity.device_id.to_string(),
            hex::encode(identity.os_image_bytes()),
        )
    }

    /// Whether images for development are refused, so that the kind of the image must be known.
    pub(super) fn refuses_dev_images(&self) -> bool {
        self.role != Role::Kms && self.domain.rules.refuses_dev_images(&self.domain.name)
    }

    /// Checks the kind of the image that a guest has booted.
    ///
    /// # Errors
    /// [`DomainDenial`].
    pub(super) fn admits_image(&self, kind: ImageKind) -> Result<(), DomainDenial> {
        let name = &self.domain.name;
        if !self.refuses_dev_images() {
            return Ok(());
        }
        let (reason, actual) = match kind {
            ImageKind::Release => return Ok(()),
            ImageKind::Development => {
                (format!("os images for development are not allowed in the domain {name}"), "is_dev")
            }
            ImageKind::Unknown => (
                format!(
                    "it is not known whether the os image is for development, which the domain {name} refuses"
                ),
                "unknown",
            ),
        };
        let (expected, actual) =
            (Some("an image that says is_dev false".to_owned()), Some(actual.to_owned()));
        Err(DomainDenial { expected, actual, ..denial(name, DomainDenialCode::DevImage, reason) })
    }
}

/// Checks what the domain of an app requires of a guest of which only this is known, from the record of its last release: whether
/// it is sealed and what its image is for are not in it.
///
/// # Errors
/// [`DomainDenial`].
pub fn would_admit(domain: &Domain, guest: &BootInfo) -> Result<(), DomainDenial> {
    not_archived(domain)?;
    within_lists(
        domain,
        guest.tcb_status.clone(),
        hex::encode(&guest.device_id),
        hex::encode(&guest.os_image_hash),
    )
}

/// Checks TCB status, machine and OS image against the lists of a domain, those that it has.
///
/// # Errors
/// [`DomainDenial`].
fn within_lists(
    domain: &Domain,
    tcb_status: String,
    device: String,
    os_image: String,
) -> Result<(), DomainDenial> {
    use DomainDenialCode as Code;
    fn listed<T: ToString>(list: &BTreeSet<T>) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }
    let Domain { name, rules, .. } = domain;
    for (code, what, list, found) in [
        (Code::TcbStatus, "the tcb status", listed(&rules.tcb_statuses), tcb_status),
        (Code::Device, "the device", listed(&rules.devices), device),
        (Code::OsImage, "the os image", listed(&rules.os_images), os_image),
    ] {
        if list.is_empty() || list.contains(&found) {
            continue;
        }
        let reason = format!("{what} is not allowed in the domain {name}");
        let expected = Some(list.join(", ").chars().take(MAX_SHOWN).collect());
        return Err(DomainDenial { expected, actual: Some(found), ..denial(name, code, reason) });
    }
    Ok(())
}

/// Checks that a request names no other domain than the one that the app is in.
///
/// # Errors
/// [`DomainDenial`].
pub(super) fn expect_asked(domain: &Domain, asked: Option<&DomainName>) -> Result<(), DomainDenial> {
    match asked.filter(|asked| **asked != domain.name) {
        None => Ok(()),
        Some(asked) => {
            let reason = format!("the request names the domain {asked}, and the app is in {}", domain.name);
            let (expected, actual) = (Some(domain.name.to_string()), Some(asked.to_string()));
            Err(DomainDenial { expected, actual, ..denial(&domain.name, DomainDenialCode::Mismatch, reason) })
        }
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
            Err(denial(&domain.name, DomainDenialCode::Archived, reason))
        }
    }
}

fn denial(domain: &DomainName, code: DomainDenialCode, reason: String) -> DomainDenial {
    DomainDenial { code, reason, expected: None, actual: None, domain: domain.clone() }
}

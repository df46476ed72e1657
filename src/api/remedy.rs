//! What an operator can do about a refusal: the same in explanations, in the list of denials and in records.

use kms_attest::identity::BootInfo;
use kms_policy::remedy::Remedy;
use kms_policy::{DenialCode, Policy, Role, Subject};
use serde_json::Value;

use crate::admission::{Foundation, Refusal, RefusalCode, SelfDenialCode};

/// The sentence about a refusal of a caller in this role, in whose domain `policy` decides.
pub(super) fn sentence(
    foundation: &Foundation,
    policy: &Policy,
    refusal: &Refusal,
    role: Option<Role>,
) -> Option<String> {
    let fault = refusal.fault()?;
    let of_policy = match (refusal.denial(), fault.identity, role) {
        (Some(denial), Some(identity), Some(role)) => {
            let told = BootInfo::from(identity);
            foundation.remedy(policy, denial.code, role.subject(&told))
        }
        _ => refusal.of_self().and_then(|code| of_self(foundation, code)),
    };
    of_policy.map(|remedy| remedy.sentence).or_else(|| hint(refusal, fault.code))
}

/// What would allow this KMS after a denial of its own policy with `code`; `None` if its identity is not known.
pub(super) fn of_self(foundation: &Foundation, code: DenialCode) -> Option<Remedy> {
    let own = foundation.self_authorization.told_identity()?;
    let remedy = foundation.remedy(&foundation.policy, code, Subject::Kms(&own))?;
    // What would allow apps too is not added by copying it.
    let is_of_kms = |fragment: &Value| {
        fragment.as_object().is_some_and(|fragment| fragment.keys().all(|key| key == "kms"))
    };
    Some(Remedy {
        sentence: format!("allow this KMS in its own policy: {}", remedy.sentence),
        fragment: remedy.fragment.filter(is_of_kms),
        ..remedy
    })
}

/// What to do where no addition to a policy is known that helps.
pub(super) fn hint(refusal: &Refusal, code: RefusalCode) -> Option<String> {
    if let Refusal::Frozen { frozen, .. } = refusal {
        let scope = frozen.scope;
        let value =
            if scope.value().is_empty() { String::new() } else { format!(" {}", hex::encode(scope.value())) };
        let end = match frozen.expires_at {
            None => String::new(),
            Some(end) => format!(", or wait until it ends at Unix time {end}"),
        };
        return Some(format!("kmsctl unfreeze {}{value}{end}", scope.name().replace('_', "-")));
    }
    if let Refusal::Fresh { fault, .. } = refusal {
        return Some(fault.remedy().to_owned());
    }
    let hint = match code {
        RefusalCode::NoAttestation => {
            "connect with an RA-TLS client certificate that carries evidence, and let no proxy terminate TLS"
        }
        RefusalCode::EvidenceNotBound => "make a new certificate: this evidence is bound to another key",
        RefusalCode::TdDebug => "start the VM without the debug attribute",
        RefusalCode::TdAttributesNotAllowed => "start the VM with the usual TD attributes",
        RefusalCode::TdxModuleNotAllowed => "run Intel's TDX module on the host",
        RefusalCode::ServiceTdBound => "start the VM without a service TD",
        RefusalCode::PlatformNotSupported => {
            "run on Intel TDX: other platforms are not verified by this version"
        }
        RefusalCode::VmConfigMismatch => {
            "send the vm_config that the guest was started with: the request's and the attestation's copy must be equal"
        }
        RefusalCode::Domain(code) => code.remedy(),
        RefusalCode::Denied(code) => return of_denial(code).map(str::to_owned),
        RefusalCode::OsImageNotVerified => {
            "boot the OS image that the VM configuration names, on a machine as the configuration describes it"
        }
        RefusalCode::SelfDenied(SelfDenialCode::AllowlistUnusable) => MEND_THE_ALLOWLIST,
        RefusalCode::SelfDenied(SelfDenialCode::EvidenceRefused) => {
            "repair the platform of this KMS: its own evidence does not verify"
        }
        RefusalCode::SelfDenied(SelfDenialCode::NotAllowed) => {
            "allow this KMS in its own policy: `kmsctl verify --attestation URL --json` shows its measurement, OS image and device"
        }
        RefusalCode::EvidenceMalformed
        | RefusalCode::EventNameNotAllowed
        | RefusalCode::EventLogMismatch
        | RefusalCode::EventPreimageMismatch
        | RefusalCode::ReportDataMismatch
        | RefusalCode::QuoteMalformed
        | RefusalCode::QuoteNotGenuine
        | RefusalCode::CollateralNotFound
        | RefusalCode::TcbLevelNotListed
        | RefusalCode::TcbStatusUnknown
        | RefusalCode::TcbRevoked
        | RefusalCode::IdentityMalformed
        | RefusalCode::FreshEvidenceRequired
        | RefusalCode::FreshEvidenceNotPossible
        | RefusalCode::ChallengeUnknown
        | RefusalCode::ChallengeExpired
        | RefusalCode::FreshEvidenceNotBound
        | RefusalCode::FreshEvidenceMismatch
        | RefusalCode::Frozen
        | RefusalCode::PolicyUnavailable
        | RefusalCode::OwnEvidenceUnavailable
        | RefusalCode::CollateralUnavailable
        | RefusalCode::Clock
        | RefusalCode::StateStale
        | RefusalCode::AuditLogUnavailable => return None,
    };
    Some(hint.to_owned())
}

const MEND_THE_ALLOWLIST: &str = "correct the allowlist: until it can be read, everything is denied; `kms policy check` shows the \
     fault; of signed bundles, push and activate one that is valid now";

/// The same for a denial that no added entry of the policy can avoid.
fn of_denial(code: DenialCode) -> Option<&'static str> {
    match code {
        DenialCode::GuestHasBooted => Some(
            "request keys while the guest boots, before system-ready; or release them to the app at any time: \
             releaseStage \"any\" in its entry of the allowlist or in the webhook's answer, or core.release_stage",
        ),
        DenialCode::EpochTooNew => Some(
            "ask for the epochs of the app or older ones, or none; or give the app newer ones: rootEpoch and appEpoch in its \
             entry of the allowlist or in the webhook's answer, or `kmsctl epoch follow`",
        ),
        DenialCode::EpochNotReadable => Some(
            "add these epochs to readableEpochs of the app in its entry of the allowlist or in the webhook's answer; without \
             that key all older epochs can be read",
        ),
        DenialCode::EpochNotActive => {
            Some("wait until the root epoch is active, or activate it: `kmsctl epoch activate`")
        }
        DenialCode::EpochRetired | DenialCode::EpochDestroyed => Some(
            "give the app a newer root epoch: rootEpoch \"current\" in its entry of the allowlist or in the webhook's answer, \
             or `kmsctl epoch follow`; what is encrypted with keys of this epoch cannot be read any more",
        ),
        DenialCode::EpochUnknown => Some(
            "name a root epoch that this KMS has, as GetMeta lists them; a replica gets new ones with `kmsctl epoch fetch`",
        ),
        DenialCode::AllowlistUnusable => Some(MEND_THE_ALLOWLIST),
        DenialCode::TcbStatus
        | DenialCode::Advisory
        | DenialCode::OsImage
        | DenialCode::KmsMeasurement
        | DenialCode::Device
        | DenialCode::AppNotRegistered
        | DenialCode::ComposeHash
        | DenialCode::AppNotDeployed
        | DenialCode::InvalidRequest
        | DenialCode::Backend => None,
    }
}

//! The list of checks while it is built, and the verdict at its end.

use kms_policy::DenialCode;

use crate::admission::{Refusal, RefusalCode, SelfDenialCode, Step};
use crate::api::refusal::detail;
use crate::proto::Check;

/// Whether the evidence could be compared with a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyBinding {
    /// The key of a certificate or of a certificate request.
    Checked,
    /// Evidence alone was sent.
    Unknown,
}

/// The steps before evidence has an identity.
const OF_EVIDENCE: [Step; 9] = [
    Step::Evidence,
    Step::Platform,
    Step::KeyBinding,
    Step::EventLog,
    Step::ReportData,
    Step::Collateral,
    Step::Quote,
    Step::TdAttributes,
    Step::TcbStatus,
];

/// The steps after that.
const OF_IDENTITY: [Step; 5] = [Step::Identity, Step::Frozen, Step::Policy, Step::Stage, Step::OsImage];

pub(super) struct Failure {
    pub(super) code: RefusalCode,
    /// What to do, unless the policy knows.
    pub(super) remedy: Option<String>,
    /// What the caller is told.
    reason: String,
}

/// What the checks add up to.
pub(super) struct Verdict {
    pub(super) word: &'static str,
    pub(super) code: &'static str,
    pub(super) reason: String,
}

#[derive(Default)]
pub(super) struct Checklist {
    checks: Vec<Check>,
    failures: Vec<Failure>,
    /// What the caller is told when a service does not respond, and after how many failures.
    unanswered: Option<(String, usize)>,
}

impl Checklist {
    /// A check that holds.
    pub(super) fn pass(&mut self, step: Step, actual: impl Into<String>, detail: impl Into<String>) {
        self.push(step, "pass", Check { actual: actual.into(), detail: detail.into(), ..Check::default() });
    }

    /// A check that was not made.
    pub(super) fn skip(&mut self, step: Step, detail: impl Into<String>) {
        self.push(step, "skipped", Check { detail: detail.into(), ..Check::default() });
    }

    /// A check that fails, or whose service does not respond.
    pub(super) fn refuse(&mut self, step: Step, refusal: &Refusal) {
        self.refuse_by(step, "", refusal);
    }

    /// Like [`Checklist::refuse`], by a rule of the policy.
    pub(super) fn refuse_by(&mut self, step: Step, rule: &'static str, refusal: &Refusal) {
        let reason = refusal.to_string();
        let Some(found) = refusal.fault() else {
            self.unanswered.get_or_insert((reason, self.failures.len()));
            let check = Check { rule: rule.to_owned(), detail: detail(refusal), ..Check::default() };
            self.push(step, "unknown", check);
            return;
        };
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let said = match refusal.stage_rule() {
            Some(rule) => format!("{reason} ({})", rule.name()),
            None => reason.clone(),
        };
        let check = Check {
            rule: rule.to_owned(),
            code: found.code.name().to_owned(),
            expected: text(found.expected),
            actual: text(found.actual),
            detail: said,
            ..Check::default()
        };
        self.failures.push(Failure { code: found.code, remedy: hint(refusal, found.code), reason });
        self.push(step, "fail", check);
    }

    /// A rule of an allowlist that holds, with what it judged.
    pub(super) fn pass_rule(&mut self, rule: &str, actual: String) {
        self.push(Step::Policy, "pass", Check { rule: rule.to_owned(), actual, ..Check::default() });
    }

    /// A rule of an allowlist that has nothing to compare with.
    pub(super) fn skip_rule(&mut self, rule: &str, why: &str) {
        let check = Check { rule: rule.to_owned(), detail: why.to_owned(), ..Check::default() };
        self.push(Step::Policy, "skipped", check);
    }

    /// Evidence that was refused: the steps before the failed one hold, the later ones were not made.
    pub(super) fn evidence_refused(&mut self, refusal: &Refusal, binding: KeyBinding) {
        let failed = refusal.fault().map_or(Step::Collateral, |fault| fault.step);
        for step in OF_EVIDENCE {
            if step < failed {
                match (step, binding) {
                    (Step::KeyBinding, KeyBinding::Unknown) => self.skip(step, NO_KEY),
                    _ => self.pass(step, "", ""),
                }
            } else if step == failed {
                self.refuse(step, refusal);
            } else {
                self.skip(step, "an earlier check failed");
            }
        }
    }

    /// The steps that need an identity, when there is none.
    pub(super) fn no_identity(&mut self, frozen: Option<&Refusal>) {
        for step in OF_IDENTITY {
            match (step, frozen) {
                (Step::Frozen, Some(refusal)) => self.refuse(step, refusal),
                _ => self.skip(step, "the identity is unknown"),
            }
        }
    }

    /// Everything that failed, in order.
    pub(super) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    pub(super) fn verdict(&self) -> Verdict {
        match (self.failures.first(), &self.unanswered) {
            // A live request ends here too.
            (_, Some((reason, 0))) => Verdict { word: "unknown", code: "", reason: reason.clone() },
            (Some(failure), _) => {
                Verdict { word: "denied", code: failure.code.name(), reason: failure.reason.clone() }
            }
            (None, Some((reason, _))) => Verdict { word: "unknown", code: "", reason: reason.clone() },
            (None, None) => Verdict { word: "allowed", code: "", reason: String::new() },
        }
    }

    pub(super) fn into_checks(self) -> Vec<Check> {
        self.checks
    }

    fn push(&mut self, step: Step, result: &str, check: Check) {
        self.checks.push(Check { step: step.name().to_owned(), result: result.to_owned(), ..check });
    }
}

/// Why evidence without a key is not compared with one.
pub(super) const NO_KEY: &str = "evidence was sent without the key that it must be bound to";

/// What to do where no change of the policy helps.
fn hint(refusal: &Refusal, code: RefusalCode) -> Option<String> {
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
            "allow this KMS in its own policy: `kmsctl verify` shows its measurement, OS image and device"
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

#[cfg(test)]
mod tests {
    use kms_policy::PolicyError;

    use super::*;

    #[test]
    fn the_first_step_that_does_not_hold_is_the_verdict_as_in_a_live_request() {
        let unknown = || Refusal::PolicyUnavailable(PolicyError::Unavailable { detail: "gone".to_owned() });
        for (steps, word, code) in [
            ("", "allowed", ""),
            ("..", "allowed", ""),
            (".?", "unknown", ""),
            (".!", "denied", "no_attestation"),
            ("!?", "denied", "no_attestation"),
            ("?!", "unknown", ""),
            (".?.!", "unknown", ""),
            ("!!?", "denied", "no_attestation"),
            ("??!", "unknown", ""),
        ] {
            let mut list = Checklist::default();
            for step in steps.chars() {
                match step {
                    '!' => list.refuse(Step::Evidence, &Refusal::NoAttestation),
                    '?' => list.refuse(Step::Policy, &unknown()),
                    _ => list.pass(Step::Platform, "", ""),
                }
            }
            let verdict = list.verdict();
            assert_eq!((verdict.word, verdict.code), (word, code), "{steps}");
        }
    }
}

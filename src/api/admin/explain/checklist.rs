//! The list of checks as it grows, and what it comes to.

use crate::{
    admission::{Refusal, Step},
    api::refusal::detail,
    policy::{
        ALLOWLIST_UNUSABLE,
        examine::{Outcome, RuleOutcome},
    },
    proto::Check,
};

/// Whether a key was there to compare the evidence with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyBinding {
    /// The key of a certificate or of a certificate request.
    Checked,
    /// Evidence alone was sent.
    Unknown,
}

/// The steps that evidence passes before anybody is asked about it.
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

/// The steps after it.
const OF_IDENTITY: [Step; 5] = [Step::Identity, Step::Frozen, Step::Policy, Step::Stage, Step::OsImage];

/// A check that failed.
pub(super) struct Failure {
    pub(super) code: &'static str,
    /// What to do, where that is not the policy's to say.
    pub(super) remedy: Option<String>,
    /// What a caller is told.
    reason: String,
}

/// What the checks come to.
pub(super) struct Verdict {
    pub(super) word: &'static str,
    pub(super) code: &'static str,
    pub(super) reason: String,
}

/// Checks in their order.
#[derive(Default)]
pub(super) struct Checklist {
    checks: Vec<Check>,
    failures: Vec<Failure>,
    /// What a caller is told when something does not answer, and after how many failures.
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

    /// A check that refuses, or that nobody answers.
    pub(super) fn refuse(&mut self, step: Step, refusal: &Refusal) {
        self.refuse_by(step, "", refusal);
    }

    /// As [`Checklist::refuse`], by a rule of the policy.
    pub(super) fn refuse_by(&mut self, step: Step, rule: &'static str, refusal: &Refusal) {
        let reason = refusal.to_string();
        let Some(finding) = refusal.finding() else {
            self.unanswered.get_or_insert((reason, self.failures.len()));
            let check = Check { rule: rule.to_owned(), detail: detail(refusal), ..Check::default() };
            self.push(step, "unknown", check);
            return;
        };
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        let said = match refusal {
            Refusal::AfterBoot { rule, .. } => format!("{reason} ({})", rule.name()),
            _ => reason.clone(),
        };
        let check = Check {
            rule: rule.to_owned(),
            code: finding.code.to_owned(),
            expected: text(finding.expected),
            actual: text(finding.actual),
            detail: said,
            ..Check::default()
        };
        self.failures.push(Failure { code: finding.code, remedy: hint(refusal, finding.code), reason });
        self.push(step, "fail", check);
    }

    /// A rule of an allowlist that holds or has nothing to compare with.
    pub(super) fn rule(&mut self, rule: &RuleOutcome) {
        let (result, actual, detail) = match &rule.outcome {
            Outcome::Holds(measured) => ("pass", measured.clone(), ""),
            Outcome::Skipped(why) => ("skipped", String::new(), *why),
            Outcome::Fails(denial) => ("fail", String::new(), denial.code),
        };
        let check =
            Check { rule: rule.rule.to_owned(), actual, detail: detail.to_owned(), ..Check::default() };
        self.push(Step::Policy, result, check);
    }

    /// Evidence that verification has refused: what comes before that step holds, what comes after was not looked at.
    pub(super) fn evidence_refused(&mut self, refusal: &Refusal, binding: KeyBinding) {
        let failed = refusal.finding().map_or(Step::Collateral, |finding| finding.step);
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
                _ => self.skip(step, "it is not known who it is"),
            }
        }
    }

    /// Everything that failed, in order.
    pub(super) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    pub(super) fn verdict(&self) -> Verdict {
        match (self.failures.first(), &self.unanswered) {
            // As in a live request, which goes no further.
            (_, Some((reason, 0))) => Verdict { word: "unknown", code: "", reason: reason.clone() },
            (Some(failure), _) => {
                Verdict { word: "denied", code: failure.code, reason: failure.reason.clone() }
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

/// Why evidence alone is not compared with a key.
pub(super) const NO_KEY: &str = "evidence was sent without the key that it must vouch for";

/// What to do about what is not the policy's to allow.
fn hint(refusal: &Refusal, code: &str) -> Option<String> {
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
    let hint = match code {
        "no_attestation" => {
            "connect with an RA-TLS client certificate that carries evidence, and let no proxy terminate TLS"
        }
        "evidence_not_bound" => "make a new certificate: this evidence vouches for another key",
        "td_debug" => "start the VM without the debug attribute",
        "td_attributes_not_allowed" => "start the VM with the usual TD attributes",
        "tdx_module_not_allowed" => "run Intel's TDX module on the host",
        "service_td_bound" => "start the VM without a service TD",
        "platform_not_supported" => "run on Intel TDX: other platforms are not verified by this version",
        "vm_config_mismatch" => {
            "send the vm_config that the guest was started with: the request's and the attestation's copy must be equal"
        }
        "guest_has_booted" => {
            "ask while the guest boots, before system-ready; or let the app have its keys at any time: releaseStage \"any\" \
             in its entry of the allowlist or in the webhook's answer, or core.release_stage"
        }
        "os_image_not_verified" => {
            "boot the OS image that the VM configuration names, on a machine as the configuration describes it"
        }
        ALLOWLIST_UNUSABLE => {
            "mend the allowlist: until it can be read, everything is denied; `kms policy check` names the fault"
        }
        "own_evidence_refused" => "mend the platform of this KMS: its own evidence does not verify",
        "kms_not_allowed" => {
            "allow this KMS in its own policy: `kmsctl verify` shows its measurement, OS image and device"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyError;

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

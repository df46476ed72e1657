//! The list of checks while it is built, and the verdict at its end.

use kms_policy::DenialCode;

use crate::admission::{Refusal, RefusalCode, Step};
use crate::api::refusal::detail;
use crate::api::remedy::hint;
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
    /// The code of the policy, where it denies this KMS itself.
    pub(super) of_self: Option<DenialCode>,
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
        self.failures.push(Failure {
            code: found.code,
            of_self: refusal.of_self(),
            remedy: hint(refusal, found.code),
            reason,
        });
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
                match binding {
                    KeyBinding::Unknown if step == Step::KeyBinding => self.skip(step, NO_KEY),
                    KeyBinding::Unknown | KeyBinding::Checked => self.pass(step, "", ""),
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
            match frozen {
                Some(refusal) if step == Step::Frozen => self.refuse(step, refusal),
                Some(_) | None => self.skip(step, "the identity is unknown"),
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

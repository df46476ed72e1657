//! A refusal on its way out: counted, recorded, kept for operators, and told to the caller as far as it may know.

use kms_attest::{csr::Csr, ra_tls};

use super::{Caller, Method, kms::Parts};
use crate::{
    admission::{
        Finding, Refusal, Role, Step,
        denials::{Concerns, Novelty, Refused, Shown},
    },
    audit::{AuditError, Event, Subject, Why},
    clock::CLOCK_REMEDY,
    error::{Code, DenialReference, Error},
};

/// Somebody who asks for something that is released.
pub(super) struct Attempt<'a> {
    pub(super) parts: &'a Parts,
    pub(super) method: Method,
    /// What the caller asks to be; `None` where the method gives everybody the same.
    pub(super) role: Option<Role>,
    pub(super) caller: &'a Caller,
    pub(super) vm_config: &'a str,
    /// The certificate request with its evidence; `None` where the client certificate has it.
    pub(super) csr: Option<&'a Csr>,
}

impl Attempt<'_> {
    /// Turns a refusal into the error that the caller gets. What is a denial can be looked up afterwards, and so can an
    /// outage because of which everybody is refused.
    pub(super) fn refuse(&self, refusal: Refusal) -> Error {
        let Some(finding) = refusal.finding() else { return self.outage(refusal) };
        let reason = refusal.to_string();
        let remedy = finding.identity.zip(self.role).and_then(|(identity, role)| {
            self.parts.policy.remedy(finding.code, role.subject(identity)).map(|remedy| remedy.sentence)
        });
        self.parts.metrics.denied(finding.code);
        let concerns = match &refusal {
            Refusal::SelfDenial(_) => Concerns::Everyone,
            _ => Concerns::Caller,
        };
        let (id, novelty) = self.parts.denials.record(Refused {
            method: self.method.row().name,
            remote: self.caller.remote(),
            role: self.role,
            concerns,
            finding: finding.clone(),
            reason: &reason,
            remedy: remedy.clone(),
            shown: self.shown(),
            vm_config: self.vm_config,
        });
        // The peer's words alone, where they are the peer's.
        let words = match &refusal {
            Refusal::Denied { denial, .. } => denial.reason.clone(),
            Refusal::OsImage { error, .. } => error.to_string(),
            _ => reason,
        };
        let relaxations = match &refusal {
            Refusal::Denied { relaxations, .. }
            | Refusal::AfterBoot { relaxations, .. }
            | Refusal::OsImage { relaxations, .. } => relaxations.labels(),
            _ => &[],
        };
        let (code, id) = (finding.code, id.to_string());
        let why = Why {
            step: finding.step.name(),
            expected: finding.expected.map(str::to_owned),
            actual: finding.actual.map(str::to_owned),
            remedy,
            denial_id: id.clone(),
            evidence_sha256: None,
            stage_rule: match &refusal {
                Refusal::AfterBoot { rule, .. } => Some(rule.name()),
                _ => None,
            },
        };
        self.audit(&finding, words, relaxations, why, novelty);
        refused(refusal).denied_as(DenialReference { code, id })
    }

    /// Nothing is known about the caller: it is listed for operators, but neither counted nor recorded as a denial.
    fn outage(&self, refusal: Refusal) -> Error {
        let Some(finding) = refusal.outage() else { return refused(refusal) };
        let id = self.listed(finding.clone(), &refusal.to_string());
        let code = finding.code;
        refused(refusal).denied_as(DenialReference { code, id })
    }

    /// A release that the audit log does not take. Nothing is wrong with the caller.
    pub(super) fn unrecorded(&self, error: AuditError) -> Error {
        let text = "the release cannot be recorded, so nothing is released";
        let code = "audit_log_unavailable";
        let cause = error.to_string();
        let (expected, identity) = (None, None);
        let finding = Finding { step: Step::AuditLog, code, expected, actual: Some(&cause), identity };
        let id = self.listed(finding, text);
        Error::unavailable(text, error).denied_as(DenialReference { code, id })
    }

    /// The id under which an outage is kept for operators.
    fn listed(&self, finding: Finding<'_>, reason: &str) -> String {
        let (id, _) = self.parts.denials.record(Refused {
            method: self.method.row().name,
            remote: self.caller.remote(),
            role: self.role,
            concerns: Concerns::Everyone,
            finding,
            reason,
            remedy: None,
            shown: self.shown(),
            vm_config: self.vm_config,
        });
        id.to_string()
    }

    fn shown(&self) -> Shown {
        match (self.csr, self.caller.peer().certificate()) {
            (Some(csr), _) => Shown::Evidence { evidence: csr.evidence.encode(), spki: csr.spki.clone() },
            (None, Some(certificate)) => Shown::Certificate(certificate.to_vec()),
            (None, None) => Shown::Nothing,
        }
    }

    /// What names the evidence that was shown, where there is some and it can be read.
    fn digest(&self) -> Option<String> {
        let digest = match (self.csr, self.caller.peer().certificate()) {
            (Some(csr), _) => csr.evidence.digest(),
            (None, Some(certificate)) => ra_tls::evidence_in(certificate).ok()??.digest(),
            (None, None) => return None,
        };
        Some(hex::encode(digest))
    }

    fn audit(
        &self,
        finding: &Finding<'_>,
        reason: String,
        relaxations: &[String],
        mut why: Why,
        novelty: Novelty,
    ) {
        if finding.identity.is_none() && novelty != Novelty::New {
            return;
        }
        why.evidence_sha256 = self.digest();
        let (audit, remote) = (&self.parts.audit, self.caller.remote());
        let code = finding.code.to_owned();
        match finding.identity {
            Some(identity) => {
                let subject = Subject::new(identity, remote).relaxed(relaxations).by(self.caller.operator());
                audit.note(Event::Denied { subject, code, reason, why });
            }
            // Anyone can cause these: only what is news comes here.
            None => audit.note_of_strangers(Event::Refused { remote, code, reason, why }),
        }
    }
}

/// What a caller is told of a refusal.
fn refused(refusal: Refusal) -> Error {
    let code = match &refusal {
        Refusal::NoAttestation | Refusal::BadEvidence(_) | Refusal::BadRequest(_) => Code::Unauthenticated,
        Refusal::BadIdentity(_) => Code::InvalidRequest,
        Refusal::OsImage { error, .. } if error.is_unavailable() => Code::Unavailable,
        Refusal::ConfigMismatch { .. }
        | Refusal::Frozen { .. }
        | Refusal::Denied { .. }
        | Refusal::AfterBoot { .. }
        | Refusal::OsImage { .. }
        | Refusal::SelfDenial(_) => Code::Denied,
        Refusal::CollateralUnavailable(_)
        | Refusal::ClockBehind(_)
        | Refusal::PolicyUnavailable(_)
        | Refusal::SelfAuthorizationUnknown { .. } => Code::Unavailable,
    };
    Error::new(code, refusal.to_string()).caused_by(detail(&refusal))
}

/// What only the log says of a refusal: what was expected and found, or why something did not answer.
pub(super) fn detail(refusal: &Refusal) -> String {
    match refusal {
        Refusal::PolicyUnavailable(error) => error.detail().to_owned(),
        Refusal::SelfAuthorizationUnknown { detail, .. } => detail.clone(),
        Refusal::CollateralUnavailable(error) => error.to_string(),
        Refusal::ClockBehind(behind) => format!("{behind}. {CLOCK_REMEDY}"),
        Refusal::OsImage { error, .. } => error.to_string(),
        other => match other.finding() {
            Some(finding) => shown(&finding),
            None => other.to_string(),
        },
    }
}

fn shown(finding: &Finding<'_>) -> String {
    let or_nothing = |value: Option<&str>| value.unwrap_or("nothing").to_owned();
    match (finding.expected, finding.actual) {
        (None, None) => finding.code.to_owned(),
        (expected, actual) => {
            format!("{}, expected {}, found {}", finding.code, or_nothing(expected), or_nothing(actual))
        }
    }
}

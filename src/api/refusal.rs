//! How a refusal leaves: counted, recorded, kept for operators, and reported to the caller as far as it may
//! know.

use kms_attest::csr::Csr;
use kms_attest::identity::{DomainName, Identity};
use kms_policy::Role;
use sha2::{Digest as _, Sha256};

use super::{Caller, Method, remedy};
use crate::admission::{
    AskedEpochs, AskedFresh, Foundation, Refusal, RefusalCode, RefusalDetail, SelfRefusal, StageRule, Step,
};
use crate::audit::{AuditError, Event, Proof, Subject, Why};
use crate::clock::CLOCK_REMEDY;
use crate::control::{Concerns, Denials, FreshEvidence, Novelty, RefusedRequest, Shown};
use crate::error::{Code, DenialReference, Error};
use crate::request;

/// A request for something that is only released with permission.
pub(super) struct Attempt<'a> {
    pub(super) foundation: &'a Foundation,
    pub(super) denials: &'a Denials,
    pub(super) method: Method,
    /// The role that the caller claims; `None` where every caller gets the same.
    pub(super) role: Option<Role>,
    pub(super) caller: &'a Caller,
    pub(super) vm_config: &'a str,
    /// The epochs that the request names.
    pub(super) epochs: AskedEpochs,
    /// The fresh evidence that it brings.
    pub(super) fresh: Option<AskedFresh<'a>>,
    /// The domain that the request names.
    pub(super) domain: Option<&'a DomainName>,
    /// The certificate request with its evidence; `None` where the evidence is in the client certificate.
    pub(super) csr: Option<&'a Csr>,
}

impl Attempt<'_> {
    /// Turns a refusal into the caller's error. Denials are kept for operators, and so are outages because of
    /// which everyone is refused.
    pub(super) fn refuse(&self, refusal: Refusal) -> Error {
        let Some(detail) = refusal.fault() else { return self.outage(refusal) };
        let reason = refusal.to_string();
        let remedy = self.remedy(&refusal);
        let place = detail.identity.and_then(|identity| self.place(identity));
        let fresh = self.fresh(&refusal);
        let metrics = &self.foundation.metrics;
        metrics.denied(detail.code.name());
        if let Some(place) = &place {
            metrics.denied_in(place.as_str(), detail.code.name());
        }
        let (id, novelty) = self.denials.record(RefusedRequest {
            method: self.method.row().name,
            remote: self.caller.remote(),
            role: self.role,
            concerns: concerns(&refusal),
            step: detail.step.name(),
            code: detail.code.name(),
            expected: detail.expected,
            actual: detail.actual,
            identity: detail.identity,
            reason: &reason,
            remedy: remedy.clone(),
            shown: self.shown(),
            vm_config: self.vm_config,
            epochs: self.epochs.fields(),
            fresh,
            fresh_evidence: self.fresh_evidence(),
            domain: self.domain.cloned(),
            place,
        });
        let (code, id) = (detail.code.name(), id.to_string());
        let why = Why {
            step: detail.step.name(),
            expected: detail.expected.map(str::to_owned),
            actual: detail.actual.map(str::to_owned),
            remedy,
            denial_id: id.clone(),
            request_id: request::logged_id(),
            evidence_sha256: None,
            stage_rule: refusal.stage_rule().map(StageRule::name),
        };
        self.audit(&refusal, &detail, fresh, why, novelty);
        refused(refusal).denied_as(DenialReference { code, id })
    }

    /// What has become of the fresh evidence of a request that was refused because of this.
    fn fresh(&self, refusal: &Refusal) -> FreshEvidence {
        let step = refusal.fault().or_else(|| refusal.outage()).map(|detail| detail.step);
        match (self.fresh, step) {
            (None, _) => FreshEvidence::Absent,
            (Some(_), Some(Step::Session)) => FreshEvidence::Refused,
            (Some(_), _) if refusal.is_after_session() => FreshEvidence::Verified,
            (Some(_), _) => FreshEvidence::NotJudged,
        }
    }

    fn fresh_evidence(&self) -> Option<Vec<u8>> {
        self.fresh.map(|fresh| fresh.evidence.to_vec())
    }

    /// The domain that the caller is in: a KMS is in none.
    fn place(&self, identity: &Identity) -> Option<DomainName> {
        let (domain, _) = self.foundation.place_of(self.role, &identity.app_id);
        Some(domain).filter(|_| self.role != Some(Role::Kms))
    }

    /// What would allow the request.
    fn remedy(&self, refusal: &Refusal) -> Option<String> {
        let foundation = self.foundation;
        let policy = match refusal.fault()?.identity {
            Some(identity) => foundation.place_of(self.role, &identity.app_id).1,
            None => &foundation.policy,
        };
        remedy::sentence(foundation, policy, refusal, self.role)
    }

    /// An outage says nothing about the caller: it is listed for operators, but not counted or recorded as a
    /// denial.
    fn outage(&self, refusal: Refusal) -> Error {
        let Some(detail) = refusal.outage() else { return refused(refusal) };
        let id = self.listed(detail.clone(), &refusal.to_string(), self.fresh(&refusal));
        let code = detail.code.name();
        refused(refusal).denied_as(DenialReference { code, id })
    }

    /// The error for a release that could not be recorded, which is not the caller's fault.
    pub(super) fn unrecorded(&self, error: AuditError) -> Error {
        let text = "the release cannot be recorded, so nothing is released";
        let code = RefusalCode::AuditLogUnavailable;
        let cause = error.to_string();
        let (expected, identity) = (None, None);
        let detail = RefusalDetail { step: Step::AuditLog, code, expected, actual: Some(&cause), identity };
        let fresh = self.fresh.map_or(FreshEvidence::Absent, |_| FreshEvidence::Verified);
        let id = self.listed(detail, text, fresh);
        Error::unavailable(text, error).denied_as(DenialReference { code: code.name(), id })
    }

    /// Keeps an outage for operators, and returns its id.
    fn listed(&self, detail: RefusalDetail<'_>, reason: &str, fresh: FreshEvidence) -> String {
        let (id, _) = self.denials.record(RefusedRequest {
            method: self.method.row().name,
            remote: self.caller.remote(),
            role: self.role,
            concerns: Concerns::Everyone,
            step: detail.step.name(),
            code: detail.code.name(),
            expected: detail.expected,
            actual: detail.actual,
            identity: detail.identity,
            reason,
            remedy: None,
            shown: self.shown(),
            vm_config: self.vm_config,
            epochs: self.epochs.fields(),
            fresh,
            fresh_evidence: self.fresh_evidence(),
            domain: self.domain.cloned(),
            place: detail.identity.and_then(|identity| self.place(identity)),
        });
        id.to_string()
    }

    fn shown(&self) -> Shown {
        match (self.csr, self.caller.peer().certificate()) {
            (Some(csr), _) => Shown::Evidence { evidence: csr.evidence.encode(), spki: csr.spki.clone() },
            (None, Some(certificate)) => Shown::Certificate(certificate.der().to_vec()),
            (None, None) => Shown::Nothing,
        }
    }

    /// The hash of the evidence, if the request has any that can be read.
    fn digest(&self) -> Option<String> {
        let digest = match (self.csr, self.caller.peer().certificate()) {
            (Some(csr), _) => csr.evidence.digest(),
            (None, Some(certificate)) => certificate.evidence().ok()??.digest(),
            (None, None) => return None,
        };
        Some(hex::encode(digest))
    }

    /// SHA-256 of the public key of the certificate request or else of the client certificate.
    fn spki_sha256(&self) -> Option<[u8; 32]> {
        let spki = self.csr.map(|csr| &csr.spki[..]).or_else(|| self.caller.peer().spki())?;
        Some(Sha256::digest(spki).into())
    }

    fn audit(
        &self,
        refusal: &Refusal,
        detail: &RefusalDetail<'_>,
        fresh: FreshEvidence,
        mut why: Why,
        novelty: Novelty,
    ) {
        if detail.identity.is_none() && novelty != Novelty::New {
            return;
        }
        why.evidence_sha256 = self.digest();
        let (audit, remote) = (&self.foundation.audit, self.caller.remote());
        let (code, reason) = (detail.code.name().to_owned(), refusal.words());
        match detail.identity {
            Some(identity) => {
                let by = refusal.decided_by();
                let proof = match fresh {
                    FreshEvidence::Verified => Proof::Fresh,
                    FreshEvidence::Absent | FreshEvidence::NotJudged | FreshEvidence::Refused => {
                        Proof::Certificate
                    }
                };
                let subject = Subject::new(identity, remote);
                let subject = match self.place(identity) {
                    Some(domain) => subject.in_domain(&domain),
                    None => subject.of_kms(),
                };
                let subject = subject
                    .relaxed(refusal.relaxations())
                    .by(self.caller.operator())
                    .holding(self.spki_sha256())
                    .by_rules(by.and_then(|by| by.digest))
                    .proved(proof)
                    .refused(identity, by.map(|by| by.policy));
                audit.note(Event::Denied { subject, code, reason, why });
            }
            // Anyone can cause these, so the audit log gets only new ones.
            None => audit.note_of_strangers(Event::Refused { remote, code, reason, why }),
        }
    }
}

fn refused(refusal: Refusal) -> Error {
    let code = match &refusal {
        Refusal::NoAttestation | Refusal::BadEvidence(_) | Refusal::BadRequest(_) => Code::Unauthenticated,
        Refusal::Unidentified(_) => Code::InvalidRequest,
        Refusal::OsImage { error, .. } if error.is_unavailable() => Code::Unavailable,
        Refusal::ConfigMismatch { .. }
        | Refusal::Domain { .. }
        | Refusal::Fresh { .. }
        | Refusal::Frozen { .. }
        | Refusal::Denied { .. }
        | Refusal::AfterBoot { .. }
        | Refusal::Epochs { .. }
        | Refusal::OsImage { .. }
        | Refusal::SelfAuthorization(SelfRefusal::Denied(_)) => Code::Denied,
        Refusal::CollateralUnavailable(_)
        | Refusal::ClockBehind(_)
        | Refusal::PolicyUnavailable(_)
        | Refusal::StateStale(_)
        | Refusal::SelfAuthorization(SelfRefusal::Unknown { .. }) => Code::Unavailable,
    };
    Error::new(code, refusal.to_string()).caused_by(detail(&refusal))
}

/// What a refusal is about: this caller, or everyone.
fn concerns(refusal: &Refusal) -> Concerns {
    match refusal {
        Refusal::SelfAuthorization(_)
        | Refusal::CollateralUnavailable(_)
        | Refusal::ClockBehind(_)
        | Refusal::StateStale(_)
        | Refusal::PolicyUnavailable(_) => Concerns::Everyone,
        Refusal::NoAttestation
        | Refusal::BadEvidence(_)
        | Refusal::BadRequest(_)
        | Refusal::Unidentified(_)
        | Refusal::ConfigMismatch { .. }
        | Refusal::Domain { .. }
        | Refusal::Fresh { .. }
        | Refusal::Frozen { .. }
        | Refusal::Denied { .. }
        | Refusal::AfterBoot { .. }
        | Refusal::Epochs { .. }
        | Refusal::OsImage { .. } => Concerns::Caller,
    }
}

/// Details for the log only: what was expected and found, or why a service did not respond.
pub(super) fn detail(refusal: &Refusal) -> String {
    match refusal {
        Refusal::PolicyUnavailable(error) => error.detail().to_owned(),
        Refusal::StateStale(stale) => stale.to_string(),
        Refusal::SelfAuthorization(SelfRefusal::Unknown { detail, .. }) => detail.clone(),
        Refusal::CollateralUnavailable(error) => error.to_string(),
        Refusal::ClockBehind(behind) => format!("{behind}. {CLOCK_REMEDY}"),
        Refusal::OsImage { error, .. } => error.to_string(),
        Refusal::NoAttestation
        | Refusal::BadEvidence(_)
        | Refusal::BadRequest(_)
        | Refusal::Unidentified(_)
        | Refusal::ConfigMismatch { .. }
        | Refusal::Domain { .. }
        | Refusal::Fresh { .. }
        | Refusal::Frozen { .. }
        | Refusal::Denied { .. }
        | Refusal::AfterBoot { .. }
        | Refusal::Epochs { .. }
        | Refusal::SelfAuthorization(SelfRefusal::Denied(_)) => {
            refusal.fault().map_or_else(|| refusal.to_string(), |detail| shown(&detail))
        }
    }
}

fn shown(detail: &RefusalDetail<'_>) -> String {
    let code = detail.code.name();
    let or_nothing = |value: Option<&str>| value.unwrap_or("nothing").to_owned();
    match (detail.expected, detail.actual) {
        (None, None) => code.to_owned(),
        (expected, actual) => {
            format!("{code}, expected {}, found {}", or_nothing(expected), or_nothing(actual))
        }
    }
}

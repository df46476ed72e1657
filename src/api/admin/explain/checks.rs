//! The first checks of an explanation: the evidence, verified as in a live request, and what that
//! established.

use kms_attest::evidence::{Evidence, Wire};
use kms_attest::ra_tls;
use kms_attest::verify::{Binding, Verified};
use kms_policy::Role;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::checklist::{Checklist, KeyBinding, NO_KEY};
use super::observer::Explanation;
use super::{AdminService, Found, Question};
use crate::admission::{Asked, Carrier, EvidenceRefusal, FreshFault, Freshness, Refusal, Step};
use crate::control::{FreshEvidence, Shown};

impl Question {
    pub(super) fn binding(&self) -> KeyBinding {
        match &self.shown {
            Shown::Evidence { spki, .. } if spki.is_empty() => KeyBinding::Unknown,
            Shown::Evidence { .. } | Shown::Certificate(_) | Shown::Nothing => KeyBinding::Checked,
        }
    }
}

impl AdminService {
    /// The evidence, verified as in a live request.
    pub(super) async fn verified(&self, question: &Question) -> Result<Verified, Refusal> {
        let carrier = match question.role {
            Role::App | Role::Kms => Carrier::ClientCertificate,
            Role::Certificate => Carrier::CertificateRequest,
        };
        let malformed = |error: kms_attest::evidence::EvidenceError| {
            Refusal::bad(carrier, EvidenceRefusal::malformed(&error))
        };
        let of_certificate = |error: ra_tls::RaTlsError| Refusal::bad(carrier, (&error).into());
        let (evidence, spki) = match &question.shown {
            Shown::Nothing => return Err(Refusal::NoAttestation),
            Shown::Evidence { evidence, spki } => {
                (Evidence::decode(evidence).map_err(malformed)?, spki.clone())
            }
            Shown::Certificate(certificate) => {
                let evidence = ra_tls::evidence_in(certificate).map_err(of_certificate)?;
                let spki = ra_tls::spki_of(certificate).map_err(of_certificate)?;
                (evidence.ok_or(Refusal::NoAttestation)?, spki)
            }
        };
        let binding = match spki.is_empty() {
            true => Binding::SelfReported,
            false => Binding::PublicKey(&spki),
        };
        let outcome = self.foundation.verifier.verify(&evidence, binding).await;
        outcome.map_err(|error| Refusal::unverified(carrier, error))
    }

    /// The fresh evidence of a refused request, verified as in the request, except that its session is over: what only the session
    /// shows is as it was found then.
    ///
    /// # Errors
    /// [`Refusal::CollateralUnavailable`], [`Refusal::ClockBehind`].
    async fn freshness(&self, question: &Question) -> Result<Freshness, Refusal> {
        let Some(denial) = &question.denial else { return Ok(Freshness::Unknown) };
        let brought = denial.fresh_evidence.as_deref().filter(|_| denial.fresh != FreshEvidence::Absent);
        let Some(evidence) = brought else { return Ok(Freshness::Absent) };
        if let Some(fault) = FreshFault::of_session(denial.code) {
            return Ok(Freshness::Refused(fault));
        }
        let refused = |bad| Ok(Freshness::Refused(FreshFault::Evidence(Box::new(bad))));
        let evidence = match Evidence::decode(evidence) {
            Ok(evidence) => evidence,
            Err(error) => return refused(EvidenceRefusal::malformed(&error)),
        };
        match self.foundation.verifier.verify(&evidence, Binding::SelfReported).await {
            Ok(verified) if denial.fresh == FreshEvidence::NotJudged => {
                Ok(Freshness::Unbound(Box::new(verified)))
            }
            Ok(verified) => Ok(Freshness::Verified(Box::new(verified))),
            Err(error) => match Refusal::unverified(Carrier::ClientCertificate, error) {
                Refusal::BadEvidence(bad) => refused(bad),
                outage => Err(outage),
            },
        }
    }

    /// Reports a freeze of everything where the identity is unknown.
    pub(super) fn unjudged(&self, list: &mut Checklist) {
        let frozen = self.foundation.freezes.of_kms();
        let refusal = frozen.map(|frozen| Refusal::Frozen { frozen, identity: None });
        list.no_identity(refusal.as_ref());
    }

    /// Everything after verification.
    pub(super) async fn judge(
        &self,
        list: &mut Checklist,
        question: &Question,
        verified: &Verified,
    ) -> Found {
        evidence_held(list, verified, question.binding());
        let freshness = self.freshness(question).await.unwrap_or_else(|refusal| {
            // A live request ends here.
            list.refuse(Step::Session, &refusal);
            Freshness::Unknown
        });
        let mut explanation = Explanation::new(list, freshness.latest(verified).stage());
        let (epochs, domain) = (question.epochs, question.domain.as_ref());
        let asked = Asked { vm_config: &question.vm_config, epochs, domain, fresh: None };
        self.explainer.explain(verified, question.role, asked, freshness, &mut explanation).await;
        explanation.found()
    }
}

/// Adds the checks that verification has passed.
fn evidence_held(list: &mut Checklist, verified: &Verified, binding: KeyBinding) {
    let evidence = verified.evidence();
    let wire = match evidence.wire {
        Wire::V0 => "V0",
        Wire::V1 => "V1",
    };
    list.pass(Step::Evidence, wire, "");
    list.pass(Step::Platform, evidence.platform.tee_variant(), "");
    match binding {
        KeyBinding::Checked => list.pass(Step::KeyBinding, "", "it is bound to the key"),
        KeyBinding::Unknown => list.skip(Step::KeyBinding, NO_KEY),
    }
    let events = evidence.stack.runtime_events.len();
    list.pass(Step::EventLog, format!("{events} events"), "they replay to RTMR3");
    list.pass(Step::ReportData, "", "it is in the signed quote");
    let expires = i64::try_from(verified.collateral_expires()).ok();
    let until = expires
        .and_then(|expires| OffsetDateTime::from_unix_timestamp(expires).ok())
        .and_then(|expires| expires.format(&Rfc3339).ok())
        .unwrap_or_default();
    list.pass(
        Step::Collateral,
        format!("fmspc {}", hex::encode(verified.fmspc())),
        format!("valid until {until}"),
    );
    list.pass(Step::Quote, "", "signed by genuine hardware that is not revoked");
    list.pass(Step::TdAttributes, format!("{:#018x}", verified.td().td_attributes), "");
    let advisories = verified.advisory_ids().join(", ");
    let status = match advisories.is_empty() {
        true => verified.tcb_status().to_owned(),
        false => format!("{}; {advisories}", verified.tcb_status()),
    };
    list.pass(Step::TcbStatus, status, "the policy judges it");
}

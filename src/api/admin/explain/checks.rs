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
use crate::admission::{Asked, Carrier, EvidenceRefusal, Refusal, Step};
use crate::control::Shown;

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
        let mut explanation = Explanation::new(list, verified.stage());
        let (epochs, domain) = (question.epochs, question.domain.as_ref());
        let asked = Asked { vm_config: &question.vm_config, epochs, domain, fresh: None };
        self.explainer.explain(verified, question.role, asked, question.freshness(), &mut explanation).await;
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

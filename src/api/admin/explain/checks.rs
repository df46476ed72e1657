//! The checks of an explanation: the same calls as for a live request, in the same order, with nothing at their end.

use std::time::Duration;

use kms_attest::{
    evidence::{Evidence, Wire},
    identity::BootInfo,
    measurement::Stage,
    ra_tls,
    verify::{Binding, Verified},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    AdminService, Found, Question,
    checklist::{Checklist, KeyBinding, NO_KEY},
};
use crate::{
    admission::{
        Carrier, EvidenceRefusal, ImageCheck, Refusal, Relaxations, Role, StageRule, StageVerdict, Step,
        Tolerated, denials::Shown, identified,
    },
    policy::{
        Decision, Denial, DenialCode, PolicyError,
        examine::{Examination, Outcome, RuleOutcome},
    },
};

/// How long an explanation waits for an OS image; the download goes on without it.
const IMAGE_TIME: Duration = Duration::from_secs(20);

impl Question {
    pub(super) fn binding(&self) -> KeyBinding {
        match &self.shown {
            Shown::Evidence { spki, .. } if spki.is_empty() => KeyBinding::Unknown,
            _ => KeyBinding::Checked,
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

    /// What a freeze of everything says when it is not known who asks.
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
        let identity = identified(verified, question.role, &question.vm_config);
        let identity = match identity {
            Ok(identified) => identified.boot_info,
            Err(refusal) => {
                list.refuse(Step::Identity, &refusal);
                for step in [Step::Frozen, Step::Policy, Step::Stage, Step::OsImage] {
                    list.skip(step, "it is not known who it is");
                }
                return Found::default();
            }
        };
        list.pass(Step::Identity, format!("app {}", hex::encode(&identity.app_id)), "");
        match self.foundation.freezes.check(&identity) {
            Ok(_) => list.pass(Step::Frozen, "", "not frozen"),
            Err(frozen) => {
                let identity = Some(Box::new(identity.clone()));
                list.refuse(Step::Frozen, &Refusal::Frozen { frozen, identity });
            }
        }
        let Tolerated { shown, relaxations } = self.foundation.tolerance.apply(verified.verdict(), &identity);
        let examination = self.foundation.policy.examine(question.role.subject(&shown)).await;
        let Examination { decision, rules, nearest, release_stage } = examination;
        let rule = StageRule::of(release_stage, self.release_stage);
        let by_policy = policy(list, decision, &rules, &identity);
        drop(shown);
        stage(list, rule, question.role, verified.stage(), &identity);
        self.image(list, question, verified, by_policy, &identity).await;
        let relaxations = relaxations.labels().to_vec();
        Found { identity: Some(identity), nearest, relaxations }
    }

    async fn image(
        &self,
        list: &mut Checklist,
        question: &Question,
        verified: &Verified,
        by_policy: ImageRefused,
        identity: &BootInfo,
    ) {
        let images = match &self.kms.image {
            ImageCheck::Waived => return list.skip(Step::OsImage, "core.image.verify is false"),
            ImageCheck::Required(_) if by_policy == ImageRefused::Yes => {
                return list.skip(Step::OsImage, "the policy does not allow the image, so it is not fetched");
            }
            ImageCheck::Required(images) => images,
        };
        match tokio::time::timeout(IMAGE_TIME, images.verify(verified, &question.vm_config)).await {
            Ok(Ok(())) => {
                list.pass(
                    Step::OsImage,
                    hex::encode(&identity.os_image_hash),
                    "the registers are the image's",
                );
            }
            Ok(Err(error)) => {
                let (identity, relaxations) = (Box::new(identity.clone()), Relaxations::default());
                list.refuse(Step::OsImage, &Refusal::OsImage { error, identity, relaxations });
            }
            Err(_) => list.skip(Step::OsImage, "it is still being fetched or measured: ask again in a while"),
        }
    }
}

/// Whether keys are released at this stage of the guest, and by which rule.
fn stage(list: &mut Checklist, rule: StageRule, role: Role, stage: Stage, identity: &BootInfo) {
    match rule.judge(role, stage) {
        StageVerdict::Released(Some(rule)) => {
            let detail = format!("keys are released at this stage of the guest ({})", rule.name());
            list.pass(Step::Stage, stage.name(), detail);
        }
        StageVerdict::Released(None) => {
            list.pass(Step::Stage, stage.name(), "released at every stage of a guest");
        }
        StageVerdict::TooLate(rule) => {
            let (identity, relaxations) = (Box::new(identity.clone()), Relaxations::default());
            let refusal = Refusal::AfterBoot { rule, identity, relaxations };
            list.refuse(Step::Stage, &refusal);
        }
    }
}

/// What verification found to be right.
fn evidence_held(list: &mut Checklist, verified: &Verified, binding: KeyBinding) {
    let evidence = verified.evidence();
    let wire = match evidence.wire {
        Wire::V0 => "V0",
        Wire::V1 => "V1",
    };
    list.pass(Step::Evidence, wire, "");
    list.pass(Step::Platform, evidence.platform.tee_variant(), "");
    match binding {
        KeyBinding::Checked => list.pass(Step::KeyBinding, "", "it vouches for the key"),
        KeyBinding::Unknown => list.skip(Step::KeyBinding, NO_KEY),
    }
    let events = evidence.stack.runtime_events.len();
    list.pass(Step::EventLog, format!("{events} events"), "they replay to RTMR3");
    list.pass(Step::ReportData, "", "the quote vouches for it");
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

/// Whether the policy has anything against the OS image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ImageRefused {
    Yes,
    No,
}

fn policy(
    list: &mut Checklist,
    decision: Result<Decision, PolicyError>,
    rules: &[RuleOutcome],
    identity: &BootInfo,
) -> ImageRefused {
    let mut by_policy = ImageRefused::No;
    let mut refuse = |list: &mut Checklist, rule: &'static str, denial: Denial| {
        if denial.code == DenialCode::OsImage {
            by_policy = ImageRefused::Yes;
        }
        let (identity, relaxations) = (Box::new(identity.clone()), Relaxations::default());
        list.refuse_by(Step::Policy, rule, &Refusal::Denied { denial, identity, relaxations });
    };
    // The decision itself, where no rule has it: a backend's, or that of a file that cannot be read.
    match decision {
        Ok(Decision::Denied(denial)) => {
            if !rules.iter().any(|rule| rule.is_failure_of(denial.code)) {
                refuse(list, "", denial);
            }
        }
        Ok(Decision::Allowed { .. }) if rules.is_empty() => {
            list.pass(Step::Policy, "", "the policy allows it");
        }
        Ok(Decision::Allowed { .. }) => {}
        Err(error) => list.refuse(Step::Policy, &Refusal::PolicyUnavailable(error)),
    }
    for rule in rules {
        match &rule.outcome {
            Outcome::Fails(denial) => refuse(list, rule.rule, denial.clone()),
            Outcome::Holds(_) | Outcome::Skipped(_) => list.rule(rule),
        }
    }
    by_policy
}

//! Observes the walk of admission for an explanation: each step becomes a check in the list.

use std::time::Duration;

use kms_attest::identity::Identity;
use kms_attest::measurement::Stage;
use kms_policy::examination::Examination;
use kms_policy::rule::{Outcome, RuleOutcome};
use kms_policy::{Decision, Denial, DenialCode, Policy, Subject};

use super::Found;
use super::checklist::Checklist;
use crate::admission::{Observer, Passed, Placed, Proved, Refusal, Relaxations, Step, Until, dotted};
use crate::os_image::OsImageError;

/// How long an explanation waits for an OS image; the download continues without it.
const IMAGE_TIME: Duration = Duration::from_secs(20);

/// Adds each step to a list of checks.
pub(super) struct Explanation<'a> {
    list: &'a mut Checklist,
    stage: Stage,
    found: Found,
    /// Every rule of an allowlist, with the value it judged.
    rules: Vec<(RuleOutcome, String)>,
    /// Whether the policy objects to the OS image.
    image: ByPolicy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ByPolicy {
    NotDenied,
    Denied,
}

impl<'a> Explanation<'a> {
    /// For evidence of a guest at this stage.
    pub(super) fn new(list: &'a mut Checklist, stage: Stage) -> Self {
        Self { list, stage, found: Found::default(), rules: Vec::new(), image: ByPolicy::NotDenied }
    }

    pub(super) fn found(self) -> Found {
        self.found
    }

    fn deny(&mut self, rule: &'static str, denial: Denial, identity: &Identity) {
        if denial.code == DenialCode::OsImage {
            self.image = ByPolicy::Denied;
        }
        let (identity, relaxations) = (Box::new(identity.clone()), Relaxations::default());
        self.list.refuse_by(Step::Policy, rule, &Refusal::Denied { denial, identity, relaxations, by: None });
    }

    fn rules(&mut self, identity: &Identity) {
        for (outcome, measured) in std::mem::take(&mut self.rules) {
            let rule = outcome.rule.name();
            match outcome.outcome {
                Outcome::Holds | Outcome::HoldsIfImage(..) => self.list.pass_rule(rule, measured),
                Outcome::Skipped(why) => self.list.skip_rule(rule, why),
                Outcome::Fails(denial) => self.deny(rule, denial, identity),
            }
        }
    }
}

impl Observer for Explanation<'_> {
    const UNTIL: Until = Until::Done;

    async fn policy(
        &mut self,
        policy: &Policy,
        _: &Placed,
        subject: Subject<'_>,
        _: &(dyn Fn(&Decision) -> Option<Denial> + Send + Sync),
    ) -> Examination {
        let mut examined = policy.examine(subject).await;
        let told = subject.boot_info();
        let rules = std::mem::take(&mut examined.rules).into_iter();
        self.rules = rules.map(|outcome| (outcome.clone(), outcome.rule.measured(told))).collect();
        self.found.nearest = examined.nearest.take();
        examined
    }

    async fn image<T: Send>(
        &mut self,
        comparison: impl Future<Output = Result<T, OsImageError>> + Send,
    ) -> Option<Result<T, OsImageError>> {
        if self.image == ByPolicy::Denied {
            self.list.skip(Step::OsImage, "the policy does not allow the image, so it is not fetched");
            return None;
        }
        let compared = tokio::time::timeout(IMAGE_TIME, comparison).await;
        if compared.is_err() {
            self.list.skip(Step::OsImage, "it is still being fetched or measured: try again later");
        }
        compared.ok()
    }

    fn tolerated(&mut self, relaxations: &Relaxations) {
        self.found.relaxations = relaxations.labels().to_vec();
    }

    fn passed(&mut self, passed: Passed<'_>) {
        match passed {
            Passed::Identity(identity) => {
                self.list.pass(Step::Identity, format!("app {}", hex::encode(identity.app_id)), "");
                self.found.identity = Some(identity.clone());
            }
            // Not listed for the many apps of the default domain.
            Passed::Domain(placed) => {
                if let Some(name) = placed.domain().name.said() {
                    self.list.pass(Step::Domain, name, "the domain of the app admits it");
                }
            }
            Passed::Session(proved, later) => {
                if let Some(later) = later {
                    self.found.identity = Some(later.clone());
                }
                match proved {
                    Proved::Fresh => self.list.pass(
                        Step::Session,
                        "",
                        "fresh evidence was verified in the session of the request, and is what the later steps judge",
                    ),
                    Proved::Unknown => self.list.skip(
                        Step::Session,
                        "whether fresh evidence was made in the session of the request is not known here",
                    ),
                    // Not listed where nothing is required.
                    Proved::Certificate => {}
                }
            }
            Passed::NotFrozen => self.list.pass(Step::Frozen, "", "not frozen"),
            Passed::Policy if self.rules.is_empty() => {
                self.list.pass(Step::Policy, "", "the policy allows it");
            }
            Passed::Policy => {
                if let Some(identity) = self.found.identity.clone() {
                    self.rules(&identity);
                }
            }
            Passed::Stage(Some(rule)) => {
                let detail = format!("keys are released at this stage of the guest ({})", rule.name());
                self.list.pass(Step::Stage, self.stage.name(), detail);
            }
            Passed::Stage(None) => {
                self.list.pass(Step::Stage, self.stage.name(), "released at every stage of a guest");
            }
            // Not listed for the many apps whose keys were never changed.
            Passed::Epochs(granted) => {
                if let Some(used) = granted.said() {
                    self.list.pass(Step::Epochs, dotted(used), "there are keys of these epochs for the app");
                }
            }
            Passed::OsImage(identity) => {
                let image = hex::encode(identity.os_image_bytes());
                self.list.pass(Step::OsImage, image, "the registers are the image's");
            }
            Passed::OsImageWaived => self.list.skip(Step::OsImage, "core.image.verify is false"),
        }
    }

    fn refused(&mut self, step: Step, refusal: &Refusal) {
        match refusal {
            Refusal::Denied { denial, identity, .. } => {
                // An entry that depends on the OS image does not hold where no image is compared.
                for (rule, _) in &mut self.rules {
                    if rule.rule.code() == denial.code && matches!(rule.outcome, Outcome::HoldsIfImage(..)) {
                        rule.outcome = Outcome::Fails(denial.clone());
                    }
                }
                // The decision itself, if no rule stands for it: a backend's, or that of an unreadable file.
                if !self.rules.iter().any(|(rule, _)| rule.is_failure_of(denial.code)) {
                    self.deny("", denial.clone(), identity);
                }
                self.rules(identity);
            }
            Refusal::NoAttestation
            | Refusal::BadEvidence(_)
            | Refusal::BadRequest(_)
            | Refusal::CollateralUnavailable(_)
            | Refusal::ClockBehind(_)
            | Refusal::Unidentified(_)
            | Refusal::ConfigMismatch { .. }
            | Refusal::Domain { .. }
            | Refusal::Fresh { .. }
            | Refusal::Frozen { .. }
            | Refusal::StateStale(_)
            | Refusal::AfterBoot { .. }
            | Refusal::Epochs { .. }
            | Refusal::PolicyUnavailable(_)
            | Refusal::OsImage { .. }
            | Refusal::SelfAuthorization(_) => self.list.refuse(step, refusal),
        }
        if step == Step::Identity {
            for step in [Step::Frozen, Step::Policy, Step::Stage, Step::OsImage] {
                self.list.skip(step, "the identity is unknown");
            }
        }
    }
}

//! Looks on at a live request: tells the candidate allowlist and the metrics what policy decided.

use kms_policy::examination::Examination;
use kms_policy::{Decision, Denial, Policy, Subject};

use super::walk::{Observer, Passed, Until, Walk};
use super::{Placed, Proved, Refusal, Relaxations, Step, asked};
use crate::metrics::RequestStage;
use crate::os_image::OsImageError;

/// The observer whose walk can lead to a permit: it ends with the first refusal.
pub(super) struct Live<'a> {
    pub(super) walk: &'a Walk,
}

impl Observer for Live<'_> {
    const UNTIL: Until = Until::Refused;

    async fn policy(
        &mut self,
        policy: &Policy,
        placed: &Placed,
        subject: Subject<'_>,
        denial: &(dyn Fn(&Decision) -> Option<Denial> + Send + Sync),
    ) -> Examination {
        let Walk { foundation, shadow, .. } = self.walk;
        let ruling = {
            let _measured = foundation.metrics.stage(RequestStage::Policy);
            asked(&foundation.metrics, policy, policy.rule_on(subject)).await
        };
        let decision = ruling.as_ref().map(|ruling| &ruling.decision);
        // A candidate is one for core.auth_api, which does not decide in domains with a policy of their own.
        if !foundation.has_policy(&placed.domain().name) {
            shadow.observe(subject, decision.ok(), denial);
        }
        if let (Some(bundled), Ok(active)) = (policy.bundled(), decision) {
            bundled.observe(subject, active, |decision| denial(decision).is_none());
        }
        let answer = match decision {
            // Whether the image is the right one shows later, as for a caller that is allowed.
            Ok(Decision::Allowed { .. } | Decision::IfImage(_)) => "allowed",
            Ok(Decision::Denied(_)) => "denied",
            Err(_) => "unavailable",
        };
        foundation.metrics.policy_answer(answer);
        foundation.metrics.policy_answer_in(placed.domain().name.as_str(), answer);
        Examination::of(ruling)
    }

    async fn image<T: Send>(
        &mut self,
        comparison: impl Future<Output = Result<T, OsImageError>> + Send,
    ) -> Option<Result<T, OsImageError>> {
        let _measured = self.walk.foundation.metrics.stage(RequestStage::OsImage);
        Some(comparison.await)
    }

    fn tolerated(&mut self, _: &Relaxations) {}

    fn passed(&mut self, passed: Passed<'_>) {
        let Passed::Session(proved, _) = passed else { return };
        self.walk.foundation.metrics.fresh_evidence(match proved {
            Proved::Fresh => "fresh",
            Proved::Certificate | Proved::Unknown => "absent",
        });
    }

    fn refused(&mut self, step: Step, _: &Refusal) {
        if step == Step::Session {
            self.walk.foundation.metrics.fresh_evidence("refused");
        }
    }
}

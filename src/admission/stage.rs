//! At which stages of a guest keys are released, and which rule says so.

use kms_attest::measurement::Stage;
use kms_policy::Role;

use crate::config::ReleaseStage;

/// The rule that decides about the stage of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageRule {
    /// `releaseStage` of the app, in its entry of the allowlist or in the webhook's answer.
    Policy(ReleaseStage),
    /// `core.release_stage`, because the policy says nothing of the app.
    Configured(ReleaseStage),
}

impl StageRule {
    /// The stage in force for an app of which the policy says this.
    pub fn of(by_policy: Option<ReleaseStage>, configured: ReleaseStage) -> Self {
        by_policy.map_or(Self::Configured(configured), Self::Policy)
    }

    fn limit(self) -> ReleaseStage {
        match self {
            Self::Policy(limit) | Self::Configured(limit) => limit,
        }
    }

    /// Its name in records and explanations: `releaseStage boot`, `core.release_stage any`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy(ReleaseStage::Boot) => "releaseStage boot",
            Self::Policy(ReleaseStage::Any) => "releaseStage any",
            Self::Configured(ReleaseStage::Boot) => "core.release_stage boot",
            Self::Configured(ReleaseStage::Any) => "core.release_stage any",
        }
    }

    /// Whether keys go to a guest of this stage. Certificates and root keys are for guests that have booted: no rule
    /// decides about those.
    pub fn judge(self, role: Role, stage: Stage) -> StageVerdict {
        match (role, stage, self.limit()) {
            (Role::Kms | Role::Certificate, Stage::Boot | Stage::Running, _) => StageVerdict::Released(None),
            (Role::App, Stage::Running, ReleaseStage::Boot) => StageVerdict::TooLate(self),
            (Role::App, Stage::Boot, ReleaseStage::Boot) | (Role::App, _, ReleaseStage::Any) => {
                StageVerdict::Released(Some(self))
            }
        }
    }
}

/// Whether keys go to a guest of some stage, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageVerdict {
    /// They do; by no rule if it is not keys of an app that are asked for.
    Released(Option<StageRule>),
    /// They are released only while a guest boots, and this one has booted.
    TooLate(StageRule),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policys_word_counts_before_the_configured_one() {
        use ReleaseStage::{Any, Boot};
        for (by_policy, configured, name, too_late) in [
            (None, Any, "core.release_stage any", false),
            (None, Boot, "core.release_stage boot", true),
            (Some(Any), Any, "releaseStage any", false),
            (Some(Any), Boot, "releaseStage any", false),
            (Some(Boot), Any, "releaseStage boot", true),
            (Some(Boot), Boot, "releaseStage boot", true),
        ] {
            let rule = StageRule::of(by_policy, configured);
            assert_eq!(rule.name(), name);
            let late =
                if too_late { StageVerdict::TooLate(rule) } else { StageVerdict::Released(Some(rule)) };
            assert_eq!(rule.judge(Role::App, Stage::Running), late, "{name}");
            assert_eq!(rule.judge(Role::App, Stage::Boot), StageVerdict::Released(Some(rule)), "{name}");
            for role in [Role::Kms, Role::Certificate] {
                for stage in [Stage::Boot, Stage::Running] {
                    assert_eq!(rule.judge(role, stage), StageVerdict::Released(None), "{name}");
                }
            }
        }
    }
}

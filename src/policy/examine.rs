//! A decision with everything behind it: every rule instead of the first that fails, and the entry that comes nearest.

use super::{Decision, Denial, Policy, PolicyError, Subject};
use crate::config::ReleaseStage;

/// How one rule judges a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleOutcome {
    /// The rule's stable name: `compose_hash`.
    pub rule: &'static str,
    /// What it found.
    pub outcome: Outcome,
}

impl RuleOutcome {
    /// Whether it fails with this code.
    pub fn is_failure_of(&self, code: &str) -> bool {
        matches!(&self.outcome, Outcome::Fails(denial) if denial.code == code)
    }
}

/// Whether a rule holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It does; with what was measured.
    Holds(String),
    /// It does not.
    Fails(Denial),
    /// There is nothing to compare with, because an earlier rule failed.
    Skipped(&'static str),
}

/// The entry of an allow-list that comes nearest to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// Where it stands: `apps."00…"`, or `kms`.
    pub entry: String,
    /// Why it is the nearest.
    pub reason: &'static str,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// A field in which an entry differs from a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The entry's key.
    pub field: &'static str,
    /// What the entry says, bounded.
    pub listed: String,
    /// What was measured.
    pub measured: String,
}

/// What a policy thinks of a caller.
#[derive(Debug)]
pub struct Examination {
    /// The decision, by the same way as for a live request.
    pub decision: Result<Decision, PolicyError>,
    /// Every rule in its order; empty where only the back end knows them.
    pub rules: Vec<RuleOutcome>,
    /// `None` with other policies than an allow-list, and where nothing is near.
    pub nearest: Option<Nearest>,
    /// At which stages the policy wants the keys of the app released, where that is known: with an allow-list, of an app
    /// that is denied too.
    pub release_stage: Option<ReleaseStage>,
}

impl Policy {
    /// Decides as for a live request, and looks at every rule besides.
    pub async fn examine(&self, subject: Subject<'_>) -> Examination {
        if let Self::Allowlist(policy) = self {
            return policy.examine(subject).await;
        }
        let decision = self.decide(subject).await;
        let release_stage = match &decision {
            Ok(Decision::Allowed { release_stage, .. }) => *release_stage,
            Ok(Decision::Denied(_)) | Err(_) => None,
        };
        Examination { decision, rules: Vec::new(), nearest: None, release_stage }
    }
}

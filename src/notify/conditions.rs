//! The conditions that hold, each reported once at its start and once at its end, however often it is
//! checked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::notification::State;
use crate::event_type::Condition;

/// How long a condition must hold before it is reported, so that a passing one is not.
const RAISE_AFTER: Duration = Duration::from_secs(5);
/// How long it must not hold before its end is reported, so that one that comes and goes is reported once.
const RESOLVE_AFTER: Duration = Duration::from_secs(60);

/// The state of each condition.
#[derive(Debug, Default)]
pub(super) struct Conditions(BTreeMap<Condition, Known>);

#[derive(Debug, Default)]
struct Known {
    is_raised: bool,
    /// Since when its state differs from the reported one.
    differs_since: Option<Instant>,
    /// The last sentence about it.
    sentence: Option<String>,
    /// Since when another sentence holds than the reported one.
    other_since: Option<Instant>,
    /// The sentence that was reported, or that held first after a restart.
    told: Option<String>,
}

/// A change to report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) state: State,
    pub(super) sentence: String,
}

impl Conditions {
    /// The state after these were reported.
    pub(super) fn raised(conditions: impl IntoIterator<Item = Condition>) -> Self {
        let known = |condition| (condition, Known { is_raised: true, ..Known::default() });
        Self(conditions.into_iter().map(known).collect())
    }

    /// The conditions that were reported and have not ended.
    pub(super) fn all_raised(&self) -> BTreeSet<Condition> {
        self.0.iter().filter(|(_, known)| known.is_raised).map(|(condition, _)| *condition).collect()
    }

    /// Says that a condition holds, without waiting whether it lasts.
    pub(super) fn raise(&mut self, condition: Condition, sentence: String) -> Option<Change> {
        let known = self.0.entry(condition).or_default();
        let is_news = !std::mem::replace(&mut known.is_raised, true);
        (known.sentence, known.differs_since) = (Some(sentence.clone()), None);
        known.told = Some(sentence.clone());
        is_news.then_some(Change { state: State::Raised, sentence })
    }

    /// Reports whether a condition holds now: `Some` with a sentence about it.
    pub(super) fn look(
        &mut self,
        condition: Condition,
        sentence: Option<String>,
        now: Instant,
    ) -> Option<Change> {
        let known = self.0.entry(condition).or_default();
        let holds = sentence.is_some();
        if holds {
            known.sentence = sentence;
        }
        let is_other = holds && known.is_raised && names_domains(condition) && {
            let told = known.told.get_or_insert_with(|| known.sentence.clone().unwrap_or_default());
            Some(&*told) != known.sentence.as_ref()
        };
        if holds == known.is_raised {
            known.differs_since = None;
            if !is_other {
                known.other_since = None;
                return None;
            }
            let since = *known.other_since.get_or_insert(now);
            if now.saturating_duration_since(since) < RESOLVE_AFTER {
                return None;
            }
            (known.other_since, known.told) = (None, known.sentence.clone());
            let sentence = known.sentence.clone()?;
            return Some(Change { state: State::Raised, sentence });
        }
        known.other_since = None;
        let since = *known.differs_since.get_or_insert(now);
        let (raise_after, resolve_after) = pauses(condition);
        let pause = if known.is_raised { resolve_after } else { raise_after };
        if now.saturating_duration_since(since) < pause {
            return None;
        }
        (known.is_raised, known.differs_since) = (holds, None);
        known.told = known.sentence.clone().filter(|_| holds);
        let said = known.sentence.clone().unwrap_or_else(|| about(condition).to_owned());
        Some(match holds {
            true => Change { state: State::Raised, sentence: said },
            false => Change { state: State::Resolved, sentence: format!("over: {said}") },
        })
    }
}

/// Whether its sentence names domains, so that another sentence is notified while the condition holds.
fn names_domains(condition: Condition) -> bool {
    matches!(condition, Condition::DomainPolicyUnavailable | Condition::PolicyFork | Condition::PolicyExpires)
}

/// A storm is already counted over time, and a contradiction does not end by itself.
fn pauses(condition: Condition) -> (Duration, Duration) {
    match condition {
        Condition::DenialStorm => (Duration::ZERO, Duration::ZERO),
        Condition::LedgerContradicted => (Duration::ZERO, RESOLVE_AFTER),
        Condition::AuditLogUnavailable
        | Condition::DiskNearlyFull
        | Condition::WitnessesLost
        | Condition::Clock
        | Condition::PolicyUnavailable
        | Condition::AllowlistUnusable
        | Condition::KmsNotAllowed
        | Condition::OwnEvidenceUnavailable
        | Condition::OwnEvidenceRefused
        | Condition::CollateralUnavailable
        | Condition::CollateralNotRefreshed
        | Condition::CollateralExpires
        | Condition::PlatformOutdatedSoon
        | Condition::PolicyExpires
        | Condition::PolicyFork
        | Condition::StateStale
        | Condition::StateNotFresh
        | Condition::StateRolledBack
        | Condition::FleetRoots
        | Condition::FleetDomains
        | Condition::FleetPolicies
        | Condition::FleetLedger
        | Condition::FleetCloned
        | Condition::FleetClock
        | Condition::RolloutPaused
        | Condition::PolicyHeld
        | Condition::DomainPolicyUnavailable
        | Condition::EpochsLost
        | Condition::Recovery => (RAISE_AFTER, RESOLVE_AFTER),
    }
}

/// A past condition, which this process has not seen itself.
fn about(condition: Condition) -> &'static str {
    match condition {
        Condition::AuditLogUnavailable => "the audit log could not be written",
        Condition::LedgerContradicted => "the audit log was not the one that was signed",
        Condition::DiskNearlyFull => "little disk space was left for the audit log",
        Condition::WitnessesLost => "too few witnesses cosigned the audit log",
        Condition::DenialStorm => "many requests were refused",
        Condition::Clock => "the clock was behind what is known to be past",
        Condition::PolicyUnavailable => "the authorization backend did not answer",
        Condition::AllowlistUnusable => "the allowlist was missing or invalid",
        Condition::KmsNotAllowed => "the policy did not allow this KMS",
        Condition::OwnEvidenceUnavailable => "the attester of this KMS gave no usable evidence",
        Condition::OwnEvidenceRefused => "the evidence of this KMS did not verify",
        Condition::CollateralUnavailable => "there was no valid collateral",
        Condition::CollateralNotRefreshed => "collateral could not be refreshed",
        Condition::CollateralExpires => "collateral was about to expire",
        Condition::PlatformOutdatedSoon => "platforms were about to be out of date",
        Condition::PolicyExpires => "the policy bundle in force was about to expire, or had expired",
        Condition::PolicyHeld => "a new policy bundle waited for an operator",
        Condition::PolicyFork => "two policy bundles contradicted each other",
        Condition::StateStale => "this node did not know what was changed on others, and released nothing",
        Condition::StateNotFresh => "this node did not know what was changed on others",
        Condition::StateRolledBack => "the shared state was not as it had been",
        Condition::FleetRoots => "nodes of the fleet had different root keys",
        Condition::FleetDomains => "nodes of the fleet had different domains",
        Condition::FleetPolicies => "nodes of the fleet decided by different policies",
        Condition::FleetLedger => "the audit log of a node was not the one that it had been",
        Condition::FleetCloned => "two nodes of the fleet had one id",
        Condition::FleetClock => "the clocks of nodes of the fleet differed",
        Condition::RolloutPaused => "a rollout had paused because a node failed",
        Condition::DomainPolicyUnavailable => "the policy of a domain could not decide",
        Condition::EpochsLost => "the key directory was older than the audit log",
        Condition::Recovery => "the recovery of the root keys needed an owner",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Condition = Condition::AuditLogUnavailable;

    #[test]
    fn a_condition_is_told_once_when_it_begins_and_once_when_it_ends() {
        let mut conditions = Conditions::default();
        let begin = Instant::now();
        let mut told = Vec::new();
        // Full from second 10 on, with a moment of relief, and fine from second 100 on.
        for second in 0..300 {
            let holds = (10..100).contains(&second) && second != 50;
            let sentence = holds.then(|| "full".to_owned());
            let change = conditions.look(DISK, sentence, begin + Duration::from_secs(second));
            told.extend(change.map(|change| (second, change.state)));
        }
        assert_eq!(told, [(15, State::Raised), (160, State::Resolved)]);
    }

    #[test]
    fn a_further_domain_is_told_while_the_condition_holds() {
        let mut conditions = Conditions::default();
        let begin = Instant::now();
        let mut told = Vec::new();
        // The second domain comes and goes at first, then it stays for a while.
        for second in 0..400 {
            let sentence = match second {
                30 | 150..250 => "domains a, b",
                10..300 => "domain a",
                _ => "",
            };
            let sentence = Some(sentence.to_owned()).filter(|sentence| !sentence.is_empty());
            let now = begin + Duration::from_secs(second);
            let change = conditions.look(Condition::DomainPolicyUnavailable, sentence, now);
            told.extend(change.map(|Change { state, sentence }| (second, state, sentence)));
        }
        let [raised, of_both] = ["domain a", "domains a, b"].map(str::to_owned);
        assert_eq!(
            told,
            [
                (15, State::Raised, raised),
                (210, State::Raised, of_both),
                (360, State::Resolved, "over: domain a".to_owned())
            ]
        );
        // Others are told once, whatever their sentences say.
        for second in 0..200 {
            let sentence = Some(format!("{second} minutes"));
            let change = conditions.look(DISK, sentence, begin + Duration::from_secs(second));
            assert_eq!(change.is_some(), second == 5, "{second}");
        }
        // After a restart the sentence that holds first was told before.
        let mut conditions = Conditions::raised([Condition::PolicyFork]);
        for (second, sentence) in [(0, "domain a"), (100, "domain a"), (101, "domain b"), (161, "domain b")] {
            let now = begin + Duration::from_secs(second);
            let change = conditions.look(Condition::PolicyFork, Some(sentence.to_owned()), now);
            assert_eq!(change.is_some(), second == 161, "{second}");
        }
    }

    #[test]
    fn what_passes_at_once_is_not_told_and_a_fork_is_told_at_once() {
        let mut conditions = Conditions::default();
        let begin = Instant::now();
        for second in 0..20 {
            let sentence = (second % 4 != 0).then(|| "slow".to_owned());
            assert_eq!(conditions.look(DISK, sentence, begin + Duration::from_secs(second)), None);
        }
        let raised = conditions.raise(DISK, "full".to_owned());
        assert_eq!(raised, Some(Change { state: State::Raised, sentence: "full".to_owned() }));
        assert_eq!(conditions.raise(DISK, "full".to_owned()), None, "it is known");
        let fork = conditions.look(Condition::LedgerContradicted, Some("fork".to_owned()), begin);
        assert_eq!(fork, Some(Change { state: State::Raised, sentence: "fork".to_owned() }));
    }

    #[test]
    fn what_was_told_before_a_restart_is_not_told_again_but_its_end_is() {
        let mut conditions = Conditions::raised([DISK]);
        let begin = Instant::now();
        assert_eq!(conditions.look(DISK, Some("full".to_owned()), begin + RAISE_AFTER), None);
        assert_eq!(conditions.look(DISK, None, begin + RAISE_AFTER), None);
        let change = conditions.look(DISK, None, begin + RAISE_AFTER + RESOLVE_AFTER);
        assert_eq!(change.map(|change| change.state), Some(State::Resolved));
        assert!(conditions.all_raised().is_empty());
    }
}

//! A rollout as operators and drivers see it.

use kms_wire::rollout::{Next, NodeProgress, RolloutShown, RolloutView};

use crate::clock::rfc3339;
use crate::control::{Facts, NodeFact};
use crate::state::rollout::{Rollout, RolloutHook, RolloutNode, RolloutState, RolloutStep};

fn without(shared: bool, problem: Option<String>) -> RolloutView {
    RolloutView { shared, rollout: None, problem, warnings: Vec::new(), next: Next::End }
}

pub(super) fn of_files() -> RolloutView {
    without(false, Some("core.state is \"files\": this node shares nothing with others".to_owned()))
}

pub(super) fn none() -> RolloutView {
    without(true, None)
}

pub(super) fn unreadable(problem: &str) -> RolloutView {
    without(true, Some(format!("the rollout cannot be read here, ask a newer node: {problem}")))
}

pub(super) fn view(
    rollout: &Rollout,
    facts: &Facts,
    is_driven: bool,
    refused: Option<String>,
) -> RolloutView {
    let next = next(rollout, refused.is_some());
    RolloutView {
        shared: true,
        rollout: Some(shown(rollout, facts, is_driven, refused)),
        problem: None,
        warnings: other_policies(rollout, facts),
        next,
    }
}

/// The nodes that decide by another policy than this one, which was asked whether it allows the image.
fn other_policies(rollout: &Rollout, facts: &Facts) -> Vec<String> {
    let Some(own) = facts.policy.as_ref().filter(|_| !rollout.state.is_over()) else { return Vec::new() };
    let differs = |node: &&NodeFact| node.answers && node.policy.as_ref().is_some_and(|policy| policy != own);
    let names: Vec<&str> = facts.nodes.iter().filter(differs).map(|node| node.name.as_str()).collect();
    let warning = || {
        format!(
            "only the policy of {} was asked, and other nodes decide by another one, which may not allow this image: {}",
            facts.own_name,
            names.join(", ")
        )
    };
    (!names.is_empty()).then(warning).into_iter().collect()
}

pub(super) fn planned(mut view: RolloutView) -> RolloutView {
    if let Some(rollout) = &mut view.rollout {
        "planned".clone_into(&mut rollout.state);
        rollout.waits_for = None;
    }
    RolloutView { next: Next::End, ..view }
}

fn next(rollout: &Rollout, is_refused: bool) -> Next {
    match (&rollout.state, rollout.in_work()) {
        (RolloutState::Done { .. } | RolloutState::Cancelled { .. }, _) => Next::End,
        (_, Some(node)) if node.step == RolloutStep::Replacing && node.hook == RolloutHook::Running => {
            Next::Replacing { node: node.name.clone(), attempt: node.attempt }
        }
        (RolloutState::Running, Some(node))
            if node.step == RolloutStep::Replacing && node.hook == RolloutHook::None && !is_refused =>
        {
            Next::Replace { node: node.name.clone(), id: node.id.clone(), attempt: node.attempt }
        }
        (RolloutState::Paused { .. }, None) => Next::Paused,
        (RolloutState::Running | RolloutState::Paused { .. }, _) => Next::Wait,
    }
}

fn shown(rollout: &Rollout, facts: &Facts, is_driven: bool, refused: Option<String>) -> RolloutShown {
    let (reason, failed) = match &rollout.state {
        RolloutState::Paused { reason, failed, .. } => (Some(reason.clone()), *failed),
        RolloutState::Cancelled { by, .. } => (Some(format!("by {by}")), false),
        RolloutState::Running | RolloutState::Done { .. } => (None, false),
    };
    RolloutShown {
        id: rollout.id.clone(),
        image: hex::encode(rollout.image),
        mr_aggregated: rollout.mr_aggregated.map(|it| hex::encode(it.0)),
        state: rollout.state.name().to_owned(),
        reason,
        failed,
        waits_for: refused.or_else(|| lacks_driver(rollout, is_driven)).or_else(|| rollout.waits_for(facts)),
        min_serving: rollout.min_serving,
        serving: Rollout::others_that_serve("", facts),
        drain_for: rollout.drain_for,
        healthy_for: rollout.healthy_for,
        node_timeout: rollout.node_timeout,
        driven: rollout.driven,
        started_at: rfc3339(rollout.started_at),
        by: rollout.by.clone(),
        ended_at: ended_at(rollout),
        driver: rollout.lease.as_ref().filter(|_| is_driven).map(|lease| lease.by.clone()),
        nodes: rollout.nodes.iter().map(|node| progress(rollout, node)).collect(),
    }
}

/// What must be done before anything is begun.
fn lacks_driver(rollout: &Rollout, is_driven: bool) -> Option<String> {
    let is_begun = |node: &RolloutNode| !matches!(node.step, RolloutStep::Draining | RolloutStep::Replacing);
    let waits = rollout.state == RolloutState::Running && !rollout.in_work().is_some_and(is_begun);
    (rollout.driven && !is_driven && waits)
        .then(|| "no driver acts: run kmsctl rollout run --hook PROGRAM".to_owned())
}

fn ended_at(rollout: &Rollout) -> Option<String> {
    match &rollout.state {
        RolloutState::Done { at } | RolloutState::Cancelled { at, .. } => Some(rfc3339(*at)),
        RolloutState::Running | RolloutState::Paused { .. } => None,
    }
}

fn progress(rollout: &Rollout, node: &RolloutNode) -> NodeProgress {
    let step = rollout.step_now(node);
    NodeProgress {
        name: node.name.clone(),
        id: node.id.clone(),
        step: step.name().to_owned(),
        since: ended_at(rollout).filter(|_| *step != node.step).unwrap_or_else(|| rfc3339(node.since)),
        reason: step.reason().map(str::to_owned),
        attempt: node.attempt,
        gaps: node.gaps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::rollout::NewRollout;

    #[test]
    fn nodes_that_decide_by_another_policy_are_named() {
        let rollout = Rollout::from(NewRollout::example());
        let node = |name: &str, answers: bool, policy: Option<&str>| NodeFact {
            name: name.to_owned(),
            answers,
            policy: policy.map(str::to_owned),
            ..NodeFact::default()
        };
        let facts = |policy: Option<&str>| Facts {
            own_name: "own".to_owned(),
            policy: policy.map(str::to_owned),
            nodes: vec![
                node("own", true, policy),
                node("same", true, Some("aa")),
                node("other", true, Some("bb")),
                node("silent", false, Some("bb")),
                node("mute", true, None),
            ],
            ..Facts::default()
        };
        let warnings = other_policies(&rollout, &facts(Some("aa")));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("only the policy of own was asked"), "{warnings:?}");
        assert!(warnings[0].ends_with("which may not allow this image: other"), "{warnings:?}");
        assert_eq!(other_policies(&rollout, &facts(None)), Vec::<String>::new());
    }
}

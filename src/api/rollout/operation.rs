//! A rollout as something that goes on for longer than a request.

use kms_wire::operation::{Operation, OperationStage};
use kms_wire::rollout::{Next, NodeProgress, RolloutShown};

/// What the rollout module shows, and what a driver does next.
pub(super) fn of(rollout: RolloutShown, next: &Next) -> Operation {
    let advice = advice(&rollout, next);
    let RolloutShown { id, image, state, waits_for, started_at, ended_at, nodes, .. } = rollout;
    let begun = nodes.into_iter().filter(|node| node.step != "waiting").map(stage);
    let mut stages: Vec<_> = begun.collect();
    stages.sort_by(|one, other| one.at.cmp(&other.at));
    Operation {
        id,
        kind: "rollout".to_owned(),
        title: format!("the nodes get the OS image {image}"),
        over: ended_at.is_some(),
        succeeded: state == "done",
        state,
        started_at,
        stages,
        waits_for,
        advice,
        href: "/api/v1/rollout".to_owned(),
    }
}

fn stage(node: NodeProgress) -> OperationStage {
    let NodeProgress { name, step, since, reason, .. } = node;
    OperationStage { stage: step, at: since, node: Some(name), reason, code: None, denial_id: None }
}

fn advice(rollout: &RolloutShown, next: &Next) -> Option<String> {
    let failed = rollout.nodes.iter().find(|node| node.step == "failed");
    match (rollout.reason.as_deref(), failed, next) {
        (Some(reason), Some(NodeProgress { name, .. }), _) if rollout.failed => Some(format!(
            "{reason}: remove the cause and run kmsctl rollout retry {name}, leave the node as it is (kmsctl rollout skip {name}), \
             or end the rollout (kmsctl rollout cancel)"
        )),
        (Some(reason), _, _) if rollout.state == "paused" => {
            Some(format!("{reason}: to go on, run kmsctl rollout resume"))
        }
        (_, _, Next::Replace { node, .. }) if !rollout.driven => Some(format!(
            "replace the VM of {node} by one with the image, the same key directory and the same name"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(state: &str, steps: &[(&str, &str, &str)]) -> RolloutShown {
        let node = |(name, step, since): &(&str, &str, &str)| NodeProgress {
            name: (*name).to_owned(),
            id: "0f".repeat(16),
            step: (*step).to_owned(),
            since: (*since).to_owned(),
            reason: (*step == "failed").then(|| "was not done in time".to_owned()),
            attempt: 1,
            gaps: 0,
        };
        let failed = steps.iter().any(|(_, step, _)| *step == "failed");
        RolloutShown {
            id: "0123456789abcdef".to_owned(),
            image: "4e".repeat(32),
            mr_aggregated: None,
            state: state.to_owned(),
            reason: (state == "paused").then(|| "paused by ann".to_owned()),
            failed,
            waits_for: None,
            min_serving: 1,
            serving: 2,
            drain_for: 10,
            healthy_for: 120,
            node_timeout: 1200,
            driven: false,
            started_at: "2026-11-29T10:00:00Z".to_owned(),
            by: "ann".to_owned(),
            ended_at: ["done", "cancelled"].contains(&state).then(|| "2026-11-29T11:00:00Z".to_owned()),
            driver: None,
            nodes: steps.iter().map(node).collect(),
        }
    }

    #[test]
    fn each_state_of_a_rollout_is_one_of_an_operation() {
        let replace = Next::Replace { node: "rack-2".to_owned(), id: String::new(), attempt: 1 };
        let (one, two) = (("rack-1", "done", "2026-11-29T10:20:00Z"), "2026-11-29T10:10:00Z");
        for (state, second, next, over, succeeded, says) in [
            ("running", "waiting", Next::Wait, false, false, None),
            ("running", "replacing", replace, false, false, Some("replace the VM of rack-2")),
            ("paused", "waiting", Next::Paused, false, false, Some("kmsctl rollout resume")),
            ("paused", "failed", Next::Paused, false, false, Some("kmsctl rollout retry rack-2")),
            ("done", "done", Next::End, true, true, None),
            ("cancelled", "waiting", Next::End, true, false, None),
        ] {
            let made = of(rollout(state, &[one, ("rack-2", second, two)]), &next);
            assert_eq!((&*made.state, made.over, made.succeeded), (state, over, succeeded), "{made:?}");
            let advice = made.advice.as_deref();
            assert_eq!(advice.is_some(), says.is_some(), "{advice:?}");
            assert!(advice.unwrap_or_default().contains(says.unwrap_or_default()), "{advice:?}");
            // Oldest first, and without those that were not begun.
            let nodes: Vec<_> = made.stages.iter().filter_map(|stage| stage.node.as_deref()).collect();
            let expected: &[&str] = if second == "waiting" { &["rack-1"] } else { &["rack-2", "rack-1"] };
            assert_eq!(nodes, expected, "{state}");
        }
        let failed = of(rollout("paused", &[("rack-2", "failed", two)]), &Next::Paused);
        assert_eq!(failed.stages[0].reason.as_deref(), Some("was not done in time"));
    }

    #[test]
    fn a_driver_replaces_nodes_without_people() {
        let next = Next::Replace { node: "rack-2".to_owned(), id: String::new(), attempt: 1 };
        let driven = RolloutShown { driven: true, ..rollout("running", &[("rack-2", "replacing", "")]) };
        assert_eq!(of(driven, &next).advice, None);
    }
}

//! Drain and undrain, of this node or of another one of its fleet.

use kms_wire::fleet::NodeStatus;

use super::{Ended, Made};
use crate::api::fleet::the_node;
use crate::control::{Begun, Drain, Ended as DrainEnded, Reach};
use crate::error::{Error, Result};
use crate::state::shared::NodeId;

/// A node that an operator names.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) id: NodeId,
    pub(super) name: String,
    is_self: bool,
    answers: bool,
    /// Whether its version knows of drains by other nodes; `None` before it has reported.
    reads_drains: Option<bool>,
}

/// The node with this id or name.
///
/// # Errors
/// There is none, or there are several; nothing is shared.
pub(super) fn target(drain: &Drain, wanted: &str) -> Result<Target> {
    let shared = drain.shared().ok_or_else(|| {
        Error::invalid(
            "core.state is \"files\": this node shares nothing, so it drains itself only, without a name",
        )
    })?;
    let nodes = shared.view().nodes();
    let drained = drain.nodes().into_iter().map(|record| record.node);
    let drained = drained.chain([shared.node()]).find(|node| node.to_string() == wanted);
    match (the_node(&nodes, wanted), drained) {
        (Ok(node), _) => Ok(Target {
            id: node.id,
            name: node.name.clone(),
            is_self: node.is_self,
            answers: shared.view().answers(node),
            reads_drains: node.status.as_ref().map(|said| said.format >= NodeStatus::READS_DRAINS),
        }),
        // It is not in the fleet any more, or this node has not looked yet.
        (Err(_), Some(id)) => {
            let (name, is_self) = (wanted.to_owned(), id == shared.node());
            Ok(Target { id, name, is_self, answers: false, reads_drains: None })
        }
        (Err(error), None) => Err(error),
    }
}

impl Target {
    /// Another node; this one needs no name.
    fn other(target: Option<&Self>) -> Option<&Self> {
        target.filter(|target| !target.is_self)
    }
}

/// Said of the node that is asked.
const HERE: &str = "draining: not ready, and requests that arrive are served";

/// What becomes of a node that is drained from now on, or `already` by somebody.
fn begun(already: Option<String>, other: Option<&Target>) -> String {
    let name = other.map_or("it", |other| &other.name);
    match (already, other) {
        (Some(by), _) => format!("{name} was draining already, by {by}"),
        (None, None) => HERE.to_owned(),
        (None, Some(Target { reads_drains: None, .. })) => format!(
            "{name} has not reported, so it is not known whether its version reads drains by other nodes; if it does, it drains \
             when it reads this"
        ),
        (None, Some(Target { answers: true, .. })) => {
            format!("{name} drains when it reads this, within seconds")
        }
        (None, Some(_)) => format!("{name} does not answer now, and drains when it reads this"),
    }
}

pub(super) async fn begin(drain: &Drain, target: Option<&Target>, by: &str) -> Ended<Made> {
    let other = Target::other(target);
    if let Some(Target { name, .. }) = other.filter(|other| other.reads_drains == Some(false)) {
        return Err(format!("{name} has an older version, which only drains itself: ask that node"));
    }
    let Begun { already, reach } =
        drain.begin(target.map(|target| target.id), by).await.map_err(|error| error.to_string())?;
    if reach == Reach::ThisMachine {
        let message = if already.is_some() { "it was draining already" } else { HERE };
        return Ok(message.to_owned().into());
    }
    let begun = begun(already, other);
    let (unknown, shared) = match reach {
        Reach::NotYet(why) => {
            let unknown = format!(
                "; the other nodes do not know it yet: {why}; undrain is possible only while the database answers"
            );
            (unknown, false)
        }
        Reach::Fleet | Reach::ThisMachine => (String::new(), true),
    };
    let message = format!("{begun}, until it is undrained, also after a restart{unknown}");
    Ok(Made { message, shared: Some(shared) })
}

pub(super) async fn end(drain: &Drain, target: Option<&Target>, by: &str) -> Ended<Made> {
    let ended = drain.end(target.map(|target| target.id), by).await.map_err(|error| error.to_string())?;
    let message = match (ended, Target::other(target)) {
        (DrainEnded::Done, Some(other)) => format!("the drain of {} is over", other.name),
        (DrainEnded::WasNone, Some(other)) => format!("no operator drains {}", other.name),
        (DrainEnded::Done, None) if drain.is_of_rollout() => {
            "the drain is over, and a rollout drains this node still".to_owned()
        }
        (DrainEnded::Done, None) => "the drain is over".to_owned(),
        (DrainEnded::WasNone, None) if drain.is_of_rollout() => {
            return Err("a rollout drains this node: skip the node, or cancel the rollout".to_owned());
        }
        (DrainEnded::WasNone, None) => "there was no drain".to_owned(),
    };
    Ok(Made { message, shared: drain.shared().map(|_| true) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_of_an_older_version_would_not_obey() {
        let (id, name) = (NodeId([7; 16]), "rack-2".to_owned());
        let older = Target { id, name, is_self: false, answers: true, reads_drains: Some(false) };
        let refused = begin(&Drain::default(), Some(&older), "amy").await.unwrap_err();
        assert_eq!(refused, "rack-2 has an older version, which only drains itself: ask that node");
        let newer = Target { reads_drains: Some(true), ..older };
        let refused = begin(&Drain::default(), Some(&newer), "amy").await.unwrap_err();
        assert_eq!(refused, "this KMS has no other nodes; nothing was changed");
    }

    #[test]
    fn nothing_is_promised_of_a_node_that_has_not_reported() {
        let node = |answers, reads_drains| Target {
            id: NodeId([7; 16]),
            name: "rack-2".to_owned(),
            is_self: false,
            answers,
            reads_drains,
        };
        for answers in [true, false] {
            let said = begun(None, Some(&node(answers, None)));
            assert!(said.starts_with("rack-2 has not reported, so it is not known whether"), "{said}");
        }
        for (answers, said) in
            [(true, "rack-2 drains when"), (false, "rack-2 does not answer now, and drains")]
        {
            assert!(begun(None, Some(&node(answers, Some(true)))).starts_with(said));
        }
        assert_eq!(
            begun(Some("amy".to_owned()), Some(&node(true, None))),
            "rack-2 was draining already, by amy"
        );
    }
}

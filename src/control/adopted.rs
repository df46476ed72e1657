//! The records of what other nodes changed.

use crate::audit::{Audit, Event};
use crate::state::shared::Provenance;

/// The most changes of one adoption that are recorded one by one.
const MAX_RECORDED: usize = 50;

/// A change of one adoption.
#[derive(Debug)]
pub(super) struct AdoptedChange {
    /// `frozen`, `unfrozen`, `drained`, `undrained` or `changed`.
    pub(super) change: &'static str,
    /// Such as `app 0101…`; empty if it is the whole document.
    pub(super) target: String,
    /// The operator; empty if that is not known.
    pub(super) by: String,
    /// That of the target, unless it is the default one or of none.
    pub(super) domain: Option<String>,
}

impl AdoptedChange {
    /// One by the operator who changed the document last, of what is in no domain.
    pub(super) fn of(target: String, from: &Provenance) -> Self {
        Self { change: "changed", target, by: from.operator.clone(), domain: None }
    }
}

/// Records what an adoption changed in a document. Beyond [`MAX_RECORDED`] changes, one record says that there are more.
pub(super) fn note_adopted<T>(
    audit: &Audit,
    document: &'static str,
    from: &Provenance,
    changes: &[T],
    describe: impl FnMut(&T) -> AdoptedChange,
) {
    let more = (changes.len() > MAX_RECORDED).then(|| AdoptedChange::of(String::new(), from));
    for AdoptedChange { change, target, by, domain } in
        changes.iter().take(MAX_RECORDED).map(describe).chain(more)
    {
        let (node, state) = (from.node.clone(), from.state);
        audit.note(Event::StateAdopted { document, change, target, by, node, state, domain });
    }
}

//! The freezes of a fleet: those of all nodes together. What was frozen here stays in force until it is in the shared state, and what
//! is not in the shared state any more was ended on another node.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::held::{Held, Sharing};
use super::{Author, Entries, Freeze, FreezeError, Freezes, MAX_SHARED, Scope, SeenFreeze, records};
use crate::audit::{Audit, Event};
use crate::control::{Reach, Store};
use crate::state::shared::{
    AdoptError, Arrival, DatabaseError, Document, Edit, Format, Provenance, Shared, Unshared,
};
use crate::state::{self, FreezeRecord, Written};

/// Its name in the database.
pub(super) const DOCUMENT: &str = "freezes";
/// How long a freeze, which is in force here, waits for the others.
const SHARE_TIME: Duration = Duration::from_secs(3);
/// The most changes of one adoption that are recorded one by one.
const MAX_RECORDED: usize = 50;

/// The freezes, as the shared state sees them.
#[derive(Debug)]
pub struct SharedFreezes {
    freezes: Arc<Freezes>,
    audit: Arc<Audit>,
}

/// What an adoption changed.
#[derive(Debug, Default)]
struct Changes {
    frozen: Vec<Arc<Freeze>>,
    ended: Vec<Scope>,
}

impl SharedFreezes {
    /// What other nodes change is recorded in `audit`.
    pub fn new(freezes: Arc<Freezes>, audit: Arc<Audit>) -> Self {
        Self { freezes, audit }
    }

    fn record(&self, changes: &Changes, from: &Provenance) {
        let frozen = changes.frozen.iter().map(|it| ("frozen", it.scope, it.author.by.clone()));
        let ended = changes.ended.iter().map(|scope| ("unfrozen", *scope, from.operator.clone()));
        for (change, scope, by) in frozen.chain(ended).take(MAX_RECORDED) {
            tracing::warn!(what = %scope, by, node = from.node, "{change} on another node");
            self.audit.note(Event::StateAdopted {
                document: DOCUMENT,
                change,
                target: scope.to_string(),
                by,
                node: from.node.clone(),
                state: from.state,
                domain: self.freezes.domain_of(scope),
            });
        }
        if changes.frozen.len() + changes.ended.len() > MAX_RECORDED {
            self.audit.note(Event::StateAdopted {
                document: DOCUMENT,
                change: "changed",
                target: String::new(),
                by: from.operator.clone(),
                node: from.node.clone(),
                state: from.state,
                domain: None,
            });
        }
    }
}

impl Document for SharedFreezes {
    fn name(&self) -> &'static str {
        DOCUMENT
    }

    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        self.freezes.merge(there)
    }

    fn has_news(&self) -> bool {
        let entries = self.freezes.current.load();
        entries
            .values()
            .any(|held| held.sharing == Sharing::Unshared && !self.freezes.is_lifting(held.freeze.scope))
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let there = parse(body).map_err(AdoptError::Unreadable)?;
            let file = Arc::clone(&self.freezes.file).lock_owned().await;
            let changes = self.freezes.take(&there, from.arrival);
            if from.arrival != Arrival::Own {
                self.record(&changes, from);
            }
            let records = records(&self.freezes.kept(), &self.freezes.store);
            let Written { outcome, turn: _turn } = state::write(file, records).await;
            outcome.map_err(AdoptError::NotKept)
        })
    }
}

impl Freezes {
    /// Shares them with the other nodes of a fleet. What was frozen while this node was not in it is added to theirs.
    #[must_use]
    pub fn shared(mut self, shared: Arc<Shared>) -> Self {
        if !self.was_shared {
            self.current.rcu(|current| {
                let unshared =
                    |(scope, held): (&Scope, &Arc<Held>)| (*scope, Arc::new(held.with(Sharing::Unshared)));
                current.iter().map(unshared).collect::<Entries>()
            });
        }
        self.store = Store::Shared(shared);
        self
    }

    fn is_lifting(&self, scope: Scope) -> bool {
        self.lifting.lock().unwrap_or_else(PoisonError::into_inner).contains(&scope)
    }

    /// What is there with what was frozen here and is not there yet.
    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let entries = self.kept();
        let own = || entries.values().filter(|held| !self.is_lifting(held.freeze.scope));
        let Some(there) = there else {
            return encode(own().map(|held| &*held.freeze)).map(Some);
        };
        let unshared: Vec<_> = own().filter(|held| held.sharing == Sharing::Unshared).collect();
        if unshared.is_empty() {
            return Ok(None);
        }
        let mut union = self.remembered(parse(there)?);
        for held in unshared {
            let freeze = &held.freeze;
            match union.get(&freeze.scope) {
                Some(other) if freeze.ends_before(other) => {}
                Some(_) | None => drop(union.insert(freeze.scope, Freeze::clone(freeze))),
            }
        }
        encode(union.values()).map(Some)
    }

    /// Those of `there` that did not end long ago by the clocks of this node.
    fn remembered(&self, mut there: BTreeMap<Scope, Freeze>) -> BTreeMap<Scope, Freeze> {
        let (current, kept) = (self.current.load(), self.kept());
        let is_forgotten = |freeze: &Freeze| {
            let is_same = current.get(&freeze.scope).is_some_and(|held| *held.freeze == *freeze);
            is_same && !kept.contains_key(&freeze.scope)
        };
        there.retain(|_, freeze| !is_forgotten(freeze));
        there
    }

    /// Puts what is there in force.
    fn take(&self, there: &BTreeMap<Scope, Freeze>, arrival: Arrival) -> Changes {
        let now = self.time.now();
        let mut changes = Changes::default();
        self.current.rcu(|current| {
            changes = Changes::default();
            let mut entries = Entries::new();
            for (scope, freeze) in there {
                let held = match current.get(scope).filter(|held| *held.freeze == *freeze) {
                    Some(held) => held.with(Sharing::Settled),
                    None => Held::new(freeze.clone(), now),
                };
                if current.get(scope).is_none_or(|known| *known.freeze != *freeze) {
                    changes.frozen.push(Arc::clone(&held.freeze));
                }
                entries.insert(*scope, Arc::new(held));
            }
            for (scope, held) in current.iter() {
                let is_own = held.sharing == Sharing::Unshared
                    || matches!(arrival, Arrival::Joined | Arrival::Repaired);
                let lasts = there.get(scope).is_none_or(|other| other.ends_before(&held.freeze));
                match is_own && lasts && !self.is_lifting(*scope) {
                    true => drop(entries.insert(*scope, Arc::new(held.with(Sharing::Unshared)))),
                    false if !there.contains_key(scope) => changes.ended.push(*scope),
                    false => {}
                }
            }
            entries
        });
        self.count();
        changes
    }

    /// Waits a while until a new freeze is in the shared state.
    pub(super) async fn share(&self) -> Reach {
        match &self.store {
            Store::File => Reach::ThisMachine,
            Store::Shared(shared) => match tokio::time::timeout(SHARE_TIME, shared.push(DOCUMENT)).await {
                Ok(Ok(())) => Reach::Fleet,
                Ok(Err(unshared)) => Reach::NotYet(unshared),
                Err(_) => Reach::NotYet(Unshared::Database(DatabaseError::Slow)),
            },
        }
    }

    /// Ends the freeze of `scope` on all nodes; only the one that was `seen`, if one was.
    pub(super) async fn lift_everywhere(
        &self,
        shared: &Shared,
        scope: Scope,
        seen: Option<SeenFreeze>,
        author: &Author,
    ) -> Result<(), FreezeError> {
        let _lifting = Lifting::begin(self, scope);
        let edit = move |freezes: &mut BTreeMap<Scope, Freeze>| match freezes.remove(&scope) {
            None => Ok(Edit::Unchanged),
            Some(freeze) if seen.as_ref().is_some_and(|seen| *seen != SeenFreeze::from(&freeze)) => {
                Err(FreezeError::Changed { current: Arc::new(freeze) })
            }
            Some(_) => Ok(Edit::Changed),
        };
        shared.edit(DOCUMENT, &author.by, InFile, edit).await?;
        // What no other node has seen is not in the shared state, so it is not adopted from there.
        let file = Arc::clone(&self.file).lock_owned().await;
        self.current.rcu(|current| {
            let mut entries = Entries::clone(current);
            entries.remove(&scope);
            entries
        });
        self.count();
        let Written { outcome, turn: _turn } = state::write(file, records(&self.kept(), &self.store)).await;
        outcome.map_err(FreezeError::UnfreezeNotKept)
    }

    /// Replaces a freeze by one that ends earlier, on all nodes at once: as an unfreeze, it must be in the shared state first.
    pub(super) async fn shorten_everywhere(
        &self,
        shared: &Shared,
        freeze: &Freeze,
    ) -> Result<(), FreezeError> {
        let (scope, by) = (freeze.scope, freeze.author.by.clone());
        let _lifting = Lifting::begin(self, scope);
        let freeze = freeze.clone();
        let edit = move |freezes: &mut BTreeMap<Scope, Freeze>| {
            freezes.insert(freeze.scope, freeze.clone());
            Ok(Edit::Changed)
        };
        shared.edit(DOCUMENT, &by, InFile, edit).await
    }
}

/// As in the file.
struct InFile;

impl Format for InFile {
    type Content = BTreeMap<Scope, Freeze>;
    type Error = FreezeError;

    fn parse(&self, body: &[u8]) -> Result<BTreeMap<Scope, Freeze>, FreezeError> {
        parse(body).map_err(|problem| Unshared::Unusable(problem).into())
    }

    fn encode(&self, freezes: &BTreeMap<Scope, Freeze>) -> Result<Vec<u8>, FreezeError> {
        encode(freezes.values()).map_err(|problem| Unshared::Unusable(problem).into())
    }
}

/// A scope whose freeze is being ended on all nodes: what this node has of it is not written there again.
struct Lifting<'a> {
    freezes: &'a Freezes,
    scope: Scope,
}

impl<'a> Lifting<'a> {
    fn begin(freezes: &'a Freezes, scope: Scope) -> Self {
        freezes.lifting.lock().unwrap_or_else(PoisonError::into_inner).insert(scope);
        Self { freezes, scope }
    }
}

impl Drop for Lifting<'_> {
    fn drop(&mut self) {
        self.freezes.lifting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.scope);
    }
}

/// Reads the document.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(body: &[u8]) -> Result<BTreeMap<Scope, Freeze>, String> {
    let records = state::parse_freezes(body)?.frozen;
    if records.len() > MAX_SHARED {
        return Err(format!("at most {MAX_SHARED} freezes are allowed, got {}", records.len()));
    }
    records.into_iter().map(|record| Freeze::try_from(record).map(|freeze| (freeze.scope, freeze))).collect()
}

fn encode<'a>(freezes: impl Iterator<Item = &'a Freeze>) -> Result<Vec<u8>, String> {
    let records = freezes.map(FreezeRecord::from).collect();
    state::freezes_content(records, state::KeptIn::Fleet).map_err(|error| error.to_string())
}

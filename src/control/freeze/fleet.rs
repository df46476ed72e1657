//! The freezes of a fleet: those of all nodes together. What was frozen here stays in force until it is in the shared state, and what
//! is not in the shared state any more was ended on another node.

mod document;
mod lift;

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

pub(super) use self::document::parse;
use self::document::{InFile, count, encode, has_room, too_many};
use self::lift::overtake;
pub(super) use self::lift::{Lift, Lifting};
use super::held::{self, Held, Sharing};
use super::{Author, Entries, Freeze, FreezeError, Freezes, MAX_FREEZES, MAX_SHARED, Scope, records};
use crate::audit::Audit;
use crate::control::adopted::{AdoptedChange, note_adopted};
use crate::control::approvals::SeenFreeze;
use crate::control::{Reach, Store};
use crate::state::shared::{
    AdoptError, Arrival, DatabaseError, Document, Edit, NodeSeen, Provenance, Shared, Unshared,
};
use crate::state::{self, Written};

/// Its name in the database.
pub(super) const DOCUMENT: &str = "freezes";
/// How long a freeze, which is in force here at once, waits until it is in the shared state.
const SHARE_TIME: Duration = Duration::from_secs(3);

/// The freezes, as the shared state sees them.
#[derive(Debug)]
pub struct SharedFreezes {
    freezes: Arc<Freezes>,
    audit: Arc<Audit>,
}

/// What an adoption changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
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
        let all: Vec<_> = frozen.chain(ended).collect();
        note_adopted(&self.audit, DOCUMENT, from, &all, |(change, scope, by)| {
            tracing::warn!(what = %scope, by, node = from.node, "{change} on another node");
            let (target, domain) = (scope.to_string(), self.freezes.domain_of(*scope));
            AdoptedChange { change, target, by: by.clone(), domain }
        });
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

    fn only_stops(&self) -> bool {
        true
    }

    fn adopt<'a>(&'a self, body: &'a [u8], from: &'a Provenance) -> BoxFuture<'a, Result<(), AdoptError>> {
        Box::pin(async move {
            let there = parse(body).map_err(AdoptError::Unreadable)?;
            let file = Arc::clone(&self.freezes.file).lock_owned().await;
            let behind = self.freezes.view().map_or(Duration::ZERO, |view| slowest(&view.nodes()));
            let changes = self.freezes.take(&there, from.arrival, behind);
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

    fn lifts(&self) -> MutexGuard<'_, Vec<Arc<Lift>>> {
        self.lifts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_lifting(&self, scope: Scope) -> bool {
        self.lifts().iter().any(|lift| lift.scope == scope && !lift.is_overtaken())
    }

    /// The unfreezes of a scope that are being written now.
    fn lifts_of(&self, scope: Scope) -> Vec<Arc<Lift>> {
        self.lifts().iter().filter(|lift| lift.scope == scope).map(Arc::clone).collect()
    }

    /// The unfreezes of the scope that are being written do not end a freeze that is set from now on.
    pub(super) fn overtake_lifts(&self, scope: Scope) {
        overtake(&self.lifts_of(scope));
    }

    /// Whether the document has the freeze by which another one is being replaced.
    fn is_replaced_by(&self, there: &Freeze) -> bool {
        self.lifts_of(there.scope).iter().any(|lift| !lift.is_overtaken() && lift.by.as_ref() == Some(there))
    }

    /// The shared document `there`, with the freezes that were set here added. If they are too many, those that ended first are
    /// removed, and those that were set here last wait.
    fn merge(&self, there: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
        let (entries, now) = (self.kept(), self.time.now());
        let own = || entries.values().filter(|held| !self.is_lifting(held.freeze.scope));
        let Some(there) = there else {
            let mut all: BTreeMap<_, _> =
                own().map(|held| (held.freeze.scope, Freeze::clone(&held.freeze))).collect();
            for scope in self.ended(&all, |_| true) {
                if count(&all) > MAX_SHARED {
                    all.remove(&scope);
                }
            }
            return encode(all.values()).map(Some);
        };
        let mut unshared: Vec<_> = own().filter(|held| held.sharing == Sharing::Unshared).collect();
        if unshared.is_empty() {
            return Ok(None);
        }
        // What is in force comes first.
        let place = |held: &&Arc<Held>| {
            let Freeze { scope, since, .. } = *held.freeze;
            (!held.is_live(now), scope != Scope::Kms, since, scope)
        };
        unshared.sort_by_key(place);
        let mut union = self.remembered(parse(there)?);
        let mut ended = self.ended(&union, |held| held.sharing == Sharing::Settled).into_iter();
        let (mut has_placed, mut waits) = (false, false);
        for held in unshared {
            let freeze = &held.freeze;
            match union.get(&freeze.scope) {
                Some(other) if freeze.ends_before(other) => {}
                Some(_) => drop(union.insert(freeze.scope, Freeze::clone(freeze))),
                None => {
                    while !has_room(&union, freeze.scope)
                        && let Some(first) = ended.next()
                    {
                        union.remove(&first);
                    }
                    if !has_room(&union, freeze.scope) {
                        waits |= held.is_live(now);
                        continue;
                    }
                    union.insert(freeze.scope, Freeze::clone(freeze));
                }
            }
            has_placed = true;
        }
        match has_placed {
            true => encode(union.values()).map(Some),
            false if waits => Err(too_many()),
            // It has ended, so nothing is missed elsewhere.
            false => Ok(None),
        }
    }

    /// The freezes in `all` that are held here as `which` says and have ended by both clocks of this node, the earliest end first.
    fn ended(&self, all: &BTreeMap<Scope, Freeze>, which: impl Fn(&Held) -> bool) -> Vec<Scope> {
        let (current, now) = (self.current.load(), self.time.now());
        let held = |freeze: &Freeze| current.get(&freeze.scope).filter(|held| *held.freeze == *freeze);
        let mut ended: Vec<_> = all.values().filter(|freeze| freeze.scope != Scope::Kms).collect();
        ended.retain(|freeze| held(freeze).is_some_and(|held| !held.is_live(now) && which(held)));
        ended.sort_by_key(|freeze| (freeze.expires_at, freeze.scope));
        ended.into_iter().map(|freeze| freeze.scope).collect()
    }

    /// The freezes in `there` without those that ended long ago by the clocks of this node.
    fn remembered(&self, mut there: BTreeMap<Scope, Freeze>) -> BTreeMap<Scope, Freeze> {
        let (current, kept) = (self.current.load(), self.kept());
        let is_forgotten = |freeze: &Freeze| {
            let is_same = current.get(&freeze.scope).is_some_and(|held| *held.freeze == *freeze);
            is_same && !kept.contains_key(&freeze.scope)
        };
        there.retain(|_, freeze| !is_forgotten(freeze));
        there
    }

    /// Puts the shared document in force. The slowest clock of the fleet is `behind` that of this node.
    pub(super) fn take(
        &self,
        there: &BTreeMap<Scope, Freeze>,
        arrival: Arrival,
        behind: Duration,
    ) -> Changes {
        let now = self.time.now();
        let mut changes = Changes::default();
        self.current.rcu(|current| {
            changes = Changes::default();
            let mut entries = Entries::new();
            for (scope, freeze) in there {
                let held = match current.get(scope).filter(|held| *held.freeze == *freeze) {
                    Some(held) => held.with(Sharing::Settled),
                    None => Held::learned(freeze.clone(), now, behind),
                };
                if current.get(scope).is_none_or(|known| *known.freeze != *freeze) {
                    changes.frozen.push(Arc::clone(&held.freeze));
                }
                entries.insert(*scope, Arc::new(held));
            }
            for (scope, held) in current.iter() {
                let is_own = held.sharing == Sharing::Unshared
                    || matches!(arrival, Arrival::Joined | Arrival::Repaired);
                // An unfreeze takes it away when it is done.
                let lasts = there
                    .get(scope)
                    .is_none_or(|other| other.ends_before(&held.freeze) && !self.is_replaced_by(other));
                match is_own && lasts {
                    true => drop(entries.insert(*scope, Arc::new(held.with(Sharing::Unshared)))),
                    // What ended by itself was only dropped.
                    false if !there.contains_key(scope) && held.is_live(now) => changes.ended.push(*scope),
                    false => {}
                }
            }
            held::within(entries, MAX_FREEZES, |held| held.sharing == Sharing::Unshared, now)
        });
        self.count();
        changes
    }

    /// Waits a while until a new freeze is in the shared state.
    pub(super) async fn share(&self, scope: Scope) -> Reach {
        let is_unshared = || {
            let entries = self.current.load();
            entries.get(&scope).is_some_and(|held| held.sharing == Sharing::Unshared)
        };
        match &self.store {
            Store::File => Reach::ThisMachine,
            Store::Shared(shared) => match tokio::time::timeout(SHARE_TIME, shared.push(DOCUMENT)).await {
                // An unfreeze that came later is not done yet.
                Ok(Ok(())) if is_unshared() => Reach::NotYet(Unshared::Conflict),
                Ok(Ok(())) => Reach::Fleet,
                Ok(Err(unshared)) => Reach::NotYet(unshared),
                Err(_) => Reach::NotYet(Unshared::Database(DatabaseError::Slow)),
            },
        }
    }

    /// Ends a freeze on all nodes; only the one that was `seen`, if one was. Whether there was one.
    pub(super) async fn lift_everywhere(
        &self,
        shared: &Shared,
        lifting: Lifting<'_>,
        seen: Option<SeenFreeze>,
        author: &Author,
    ) -> Result<bool, FreezeError> {
        let lift = Arc::clone(&lifting.lift);
        let scope = lift.scope;
        let edit = move |freezes: &mut BTreeMap<Scope, Freeze>| match freezes.remove(&scope) {
            _ if lift.is_overtaken() => Ok(Edit::Unchanged),
            None => Ok(Edit::Unchanged),
            Some(freeze) if seen.as_ref().is_some_and(|seen| *seen != SeenFreeze::from(&freeze)) => {
                Err(FreezeError::Changed { current: Arc::new(freeze) })
            }
            Some(_) => Ok(Edit::Changed),
        };
        let edited = shared.edit(DOCUMENT, &author.by, InFile, edit).await?;
        // What no other node has seen is not in the shared state, so its end is not adopted from there.
        let file = Arc::clone(&self.file).lock_owned().await;
        let taken = lifting.take();
        let Written { outcome, turn: _turn } = state::write(file, records(&self.kept(), &self.store)).await;
        let was_here = taken.map_err(|current| FreezeError::FrozenAgain { current })?;
        outcome.map_err(FreezeError::UnfreezeLeftOnDisk)?;
        Ok(was_here || edited == Edit::Changed)
    }

    /// Replaces a freeze by one that ends earlier, on all nodes at once: as an unfreeze, it must be in the shared state first. If
    /// another freeze was set meanwhile, nothing is replaced. Whether the new freeze is in the shared state.
    pub(super) async fn shorten_everywhere(
        &self,
        shared: &Shared,
        freeze: &Freeze,
    ) -> Result<bool, FreezeError> {
        let before = self.lifts_of(freeze.scope);
        let lifting = Lifting::begin_replacing(self, freeze.scope, Some(freeze.clone()));
        let (by, lift) = (freeze.author.by.clone(), Arc::clone(&lifting.lift));
        let (kept, freeze) = (freeze.clone(), freeze.clone());
        let edit = move |freezes: &mut BTreeMap<Scope, Freeze>| {
            if lift.is_overtaken() {
                return Ok(Edit::Unchanged);
            }
            overtake(&before);
            freezes.insert(freeze.scope, freeze.clone());
            Ok(Edit::Changed)
        };
        let outcome = shared.edit(DOCUMENT, &by, InFile, edit).await;
        if let Err(FreezeError::UnfreezeNotShared(unshared)) = &outcome
            && *unshared != Unshared::Database(DatabaseError::Unconfirmed)
        {
            // Another node may have ended what is still in force here.
            drop(lifting);
            self.hold(&kept).await;
        }
        outcome.map(|edited| edited == Edit::Changed)
    }

    /// Freezes a scope for which this node knows a freeze that lasts longer: another node may have ended that one, which is not adopted
    /// here yet. Whether the new freeze is in the shared state; if not, the longer one has ended here meanwhile.
    pub(super) async fn freeze_again(&self, shared: &Shared, freeze: &Freeze) -> Result<bool, FreezeError> {
        // Whatever is being ended, this is later.
        let before = self.lifts_of(freeze.scope);
        let new = freeze.clone();
        let edit = move |freezes: &mut BTreeMap<Scope, Freeze>| match freezes.get(&new.scope) {
            Some(there) if new.ends_before(there) => {
                Err(FreezeError::Shortens { earlier: Arc::new(there.clone()) })
            }
            Some(_) | None => {
                overtake(&before);
                freezes.insert(new.scope, new.clone());
                Ok(Edit::Changed)
            }
        };
        let edited = shared.edit(DOCUMENT, &freeze.author.by, InFile, edit);
        let why = match tokio::time::timeout(SHARE_TIME, edited).await {
            Ok(Err(FreezeError::UnfreezeNotShared(unshared))) => unshared,
            Ok(done) => return done.map(|_| true),
            Err(_) => Unshared::Database(DatabaseError::Slow),
        };
        self.overtake_lifts(freeze.scope);
        match self.hold(freeze).await {
            Some(earlier) => Err(FreezeError::ShortensHere { earlier, why }),
            None => Ok(false),
        }
    }

    /// Keeps the freeze that is known here and lasts longer than `new`, whatever is adopted later, and writes it to the shared state
    /// once more.
    async fn hold(&self, new: &Freeze) -> Option<Arc<Freeze>> {
        let file = Arc::clone(&self.file).lock_owned().await;
        let mut earlier = None;
        self.current.rcu(|current| {
            let mut entries = Entries::clone(current);
            let known = entries.get_mut(&new.scope).filter(|known| new.ends_before(&known.freeze));
            earlier = known.map(|known| {
                *known = Arc::new(known.with(Sharing::Unshared));
                Arc::clone(&known.freeze)
            });
            entries
        });
        let Written { outcome, turn: _turn } = state::write(file, records(&self.kept(), &self.store)).await;
        if let Err(error) = outcome {
            tracing::error!(%error, "the file that keeps freezes cannot be written: this one may not be shared after a restart");
        }
        earlier
    }
}

/// How far the slowest clock of the fleet is behind that of this node, at most.
fn slowest(nodes: &[NodeSeen]) -> Duration {
    let behind = nodes.iter().filter_map(|node| node.skew).map(|(min_ms, _)| min_ms.min(0).unsigned_abs());
    Duration::from_secs(behind.max().unwrap_or(0).div_ceil(1000))
}

#[cfg(test)]
mod tests;

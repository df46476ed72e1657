//! The freezes of a fleet: those of all nodes together. What was frozen here stays in force until it is in the shared state, and what
//! is not in the shared state any more was ended on another node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::held::{self, Held, Sharing};
use super::{
    Author, Entries, Freeze, FreezeError, Freezes, MAX_FREEZES, MAX_SHARED, Scope, SeenFreeze, records,
};
use crate::audit::Audit;
use crate::control::adopted::{AdoptedChange, note_adopted};
use crate::control::{Reach, Store};
use crate::state::shared::{
    AdoptError, Arrival, DatabaseError, Document, Edit, Format, NodeSeen, Provenance, Shared, Unshared,
};
use crate::state::{self, FreezeRecord, Written};

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
        let was_there = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&was_there);
        let edit = move |freezes: &mut BTreeMap<Scope, Freeze>| match freezes.remove(&scope) {
            _ if lift.is_overtaken() => Ok(Edit::Unchanged),
            None => Ok(Edit::Unchanged),
            Some(freeze) if seen.as_ref().is_some_and(|seen| *seen != SeenFreeze::from(&freeze)) => {
                Err(FreezeError::Changed { current: Arc::new(freeze) })
            }
            Some(_) => {
                found.store(true, Ordering::Relaxed);
                Ok(Edit::Changed)
            }
        };
        shared.edit(DOCUMENT, &author.by, InFile, edit).await?;
        // What no other node has seen is not in the shared state, so its end is not adopted from there.
        let file = Arc::clone(&self.file).lock_owned().await;
        let taken = lifting.take();
        let Written { outcome, turn: _turn } = state::write(file, records(&self.kept(), &self.store)).await;
        let was_here = taken.map_err(|current| FreezeError::FrozenAgain { current })?;
        outcome.map_err(FreezeError::UnfreezeLeftOnDisk)?;
        Ok(was_here || was_there.load(Ordering::Relaxed))
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
        let is_there = Arc::new(AtomicBool::new(false));
        let written = Arc::clone(&is_there);
        let edit = move |freezes: &mut BTreeMap<Scope, Freeze>| {
            let is_last = !lift.is_overtaken();
            written.store(is_last, Ordering::Relaxed);
            if !is_last {
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
        outcome.map(|()| is_there.load(Ordering::Relaxed))
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
            Ok(done) => return done.map(|()| true),
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

/// A freeze that is being ended on all nodes: what this node has of it is not written there again, unless it is frozen again meanwhile.
#[derive(Debug)]
pub(super) struct Lift {
    scope: Scope,
    /// The freeze that replaces it.
    by: Option<Freeze>,
    /// By a later freeze, which must not be ended with it.
    overtaken: AtomicBool,
}

/// Notes that a freeze came later than these.
fn overtake(lifts: &[Arc<Lift>]) {
    lifts.iter().for_each(|lift| lift.overtaken.store(true, Ordering::Release));
}

impl Lift {
    fn is_overtaken(&self) -> bool {
        self.overtaken.load(Ordering::Acquire)
    }
}

/// Ends a freeze until it is dropped.
pub(super) struct Lifting<'a> {
    freezes: &'a Freezes,
    lift: Arc<Lift>,
}

impl<'a> Lifting<'a> {
    pub(super) fn begin(freezes: &'a Freezes, scope: Scope) -> Self {
        Self::begin_replacing(freezes, scope, None)
    }

    fn begin_replacing(freezes: &'a Freezes, scope: Scope, by: Option<Freeze>) -> Self {
        let lift = Arc::new(Lift { scope, by, overtaken: AtomicBool::new(false) });
        freezes.lifts().push(Arc::clone(&lift));
        Self { freezes, lift }
    }

    /// Ends what only this node has of it: whether there was something.
    ///
    /// # Errors
    /// It was frozen again here meanwhile, and this is in force.
    fn take(&self) -> Result<bool, Arc<Freeze>> {
        let scope = self.lift.scope;
        let mut was_here = false;
        self.freezes.current.rcu(|current| {
            // What is in the shared state now, another operator froze after this end.
            let is_own = current.get(&scope).is_some_and(|held| held.sharing == Sharing::Unshared);
            was_here = is_own && !self.lift.is_overtaken();
            let mut entries = Entries::clone(current);
            if was_here {
                entries.remove(&scope);
            }
            entries
        });
        self.freezes.count();
        match self.freezes.of(scope) {
            Some(again) if self.lift.is_overtaken() => Err(again),
            Some(_) | None => Ok(was_here),
        }
    }
}

impl Drop for Lifting<'_> {
    fn drop(&mut self) {
        self.freezes.lifts().retain(|lift| !Arc::ptr_eq(lift, &self.lift));
    }
}

/// Reads the document.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(body: &[u8]) -> Result<BTreeMap<Scope, Freeze>, String> {
    let records = state::parse_freezes(body)?.frozen;
    let found = beside_kms(&records);
    if found > MAX_SHARED {
        return Err(format!("at most {MAX_SHARED} freezes beside that of the KMS are allowed, got {found}"));
    }
    records.into_iter().map(|record| Freeze::try_from(record).map(|freeze| (freeze.scope, freeze))).collect()
}

/// How many there are beside that of the whole KMS, for which there is always room.
fn beside_kms(records: &[FreezeRecord]) -> usize {
    records.iter().filter(|record| record.scope != Scope::Kms.name()).count()
}

/// As [`beside_kms`].
fn count(freezes: &BTreeMap<Scope, Freeze>) -> usize {
    freezes.len() - usize::from(freezes.contains_key(&Scope::Kms))
}

/// Whether one more freeze, of `scope`, may be added.
fn has_room(freezes: &BTreeMap<Scope, Freeze>, scope: Scope) -> bool {
    scope == Scope::Kms || count(freezes) < MAX_SHARED
}

fn too_many() -> String {
    format!("the nodes of the fleet would have more than {MAX_SHARED} freezes: end some")
}

/// The bytes of the document.
///
/// # Errors
/// There are more than the nodes of the fleet would read.
fn encode<'a>(freezes: impl Iterator<Item = &'a Freeze>) -> Result<Vec<u8>, String> {
    let records: Vec<_> = freezes.map(FreezeRecord::from).collect();
    if beside_kms(&records) > MAX_SHARED {
        return Err(too_many());
    }
    state::freezes_content(records, state::KeptIn::Fleet).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use kms_attest::identity::DeviceId;

    use super::super::{Earlier, MAX_REASON, Room};
    use super::*;
    use crate::control::Domains;
    use crate::metrics::Metrics;
    use crate::state::KeptIn;
    use crate::state::shared::MAX_DOCUMENT;

    /// With the longest texts.
    fn freeze(number: usize) -> Freeze {
        let mut device = [0xff; 32];
        device[..8].copy_from_slice(&number.to_be_bytes());
        Freeze {
            scope: Scope::Device(DeviceId(device)),
            reason: "\"".repeat(MAX_REASON),
            since: u64::MAX,
            expires_at: Some(u64::MAX),
            author: Author { by: "x".repeat(150), remote: Ipv4Addr::BROADCAST.into() },
        }
    }

    fn opened(directory: &tempfile::TempDir) -> Freezes {
        let path = directory.path().join("freezes.json");
        Freezes::open(path, Arc::new(Metrics::new([])), Domains::default_only()).unwrap()
    }

    #[test]
    fn an_end_takes_only_what_this_node_alone_had_when_it_began() {
        let directory = tempfile::tempdir().unwrap();
        let freezes = opened(&directory);
        let now = freezes.time.now();
        let [one, other] = [freeze(1), Freeze { reason: "again".to_owned(), ..freeze(1) }];
        let put = |freeze: &Freeze, sharing| {
            let held = Arc::new(Held::new(freeze.clone(), now).with(sharing));
            freezes.current.store(Arc::new(Entries::from([(freeze.scope, held)])));
        };
        let there = || freezes.of(one.scope).map(|freeze| freeze.reason.clone());
        let nothing = encode([].into_iter()).unwrap();

        put(&one, Sharing::Unshared);
        let lifting = Lifting::begin(&freezes, one.scope);
        assert_eq!(freezes.merge(Some(&nothing)), Ok(None), "it is not written again");
        assert_eq!((lifting.take(), there()), (Ok(true), None));

        // Another operator has frozen it on another node, after the end was in the shared state.
        put(&other, Sharing::Settled);
        assert_eq!((lifting.take(), there()), (Ok(false), Some("again".to_owned())));
        drop(lifting);

        // Another operator freezes it here, while it is being ended twice.
        put(&one, Sharing::Settled);
        let liftings = [Lifting::begin(&freezes, one.scope), Lifting::begin(&freezes, one.scope)];
        let held = Arc::new(Held::new(other.clone(), now).with(Sharing::Unshared));
        freezes.insert(&held, Earlier::MayBeExtended, Room::OfOwners).unwrap();
        freezes.take(&BTreeMap::new(), Arrival::Own, Duration::ZERO);
        for lifting in &liftings {
            let again = lifting.take().expect_err("it is frozen again");
            assert_eq!((&again.reason, there()), (&other.reason, Some("again".to_owned())));
        }
        assert!(freezes.merge(Some(&nothing)).unwrap().is_some(), "it is written");
    }

    #[test]
    fn what_only_this_node_has_stays_until_its_end_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let freezes = opened(&directory);
        let now = freezes.time.now();
        let long = freeze(1);
        let [short, shorter] = [5, 4].map(|end| Freeze { expires_at: Some(u64::MAX - end), ..freeze(1) });
        let scope = long.scope;
        let put = || {
            let held = Arc::new(Held::new(long.clone(), now).with(Sharing::Unshared));
            freezes.current.store(Arc::new(Entries::from([(scope, held)])));
        };
        let in_force = || freezes.of(scope).map(|freeze| Freeze::clone(&freeze));
        let adopt = |there: &[&Freeze], arrival| {
            let there = there.iter().map(|&freeze| (freeze.scope, freeze.clone())).collect();
            freezes.take(&there, arrival, Duration::ZERO)
        };

        // The change of another node, or of another scope on this one, comes before the end of an unfreeze.
        put();
        let lifting = Lifting::begin(&freezes, scope);
        for arrival in [Arrival::Other, Arrival::Own, Arrival::Joined] {
            assert!(adopt(&[], arrival).ended.is_empty(), "{arrival:?}");
            assert_eq!(in_force(), Some(long.clone()), "{arrival:?}");
        }
        assert_eq!((lifting.take(), in_force()), (Ok(true), None));
        drop(lifting);

        // Only the freeze that replaces it ends it.
        put();
        let lifting = Lifting::begin_replacing(&freezes, scope, Some(short.clone()));
        for there in [&[][..], &[&shorter]] {
            adopt(there, Arrival::Other);
            assert_eq!(in_force(), Some(long.clone()));
        }
        adopt(&[&short], Arrival::Own);
        assert_eq!(in_force(), Some(short));
        drop(lifting);
    }

    #[test]
    fn a_freeze_that_is_refused_overtakes_no_unfreeze() {
        let directory = tempfile::tempdir().unwrap();
        let freezes = opened(&directory);
        let now = freezes.time.now();
        let short = Freeze { expires_at: Some(u64::MAX - 5), ..freeze(1) };
        let [long, short] = [freeze(1), short].map(|freeze| Arc::new(Held::new(freeze, now)));
        freezes.insert(&long, Earlier::MayBeExtended, Room::OfOwners).unwrap();
        let lifting = Lifting::begin(&freezes, long.freeze.scope);
        let refused = freezes.insert(&short, Earlier::MayBeExtended, Room::OfOwners);
        assert!(matches!(refused, Err(FreezeError::Shortens { .. })), "{refused:?}");
        assert!(!lifting.lift.is_overtaken());
        freezes.insert(&short, Earlier::IsReplaced, Room::OfOwners).unwrap();
        assert!(lifting.lift.is_overtaken());
    }

    #[test]
    fn what_has_ended_here_leaves_room_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let freezes = opened(&directory);
        let now = freezes.time.now();
        let ended =
            |number: usize| Freeze { since: 1, expires_at: Some(10 + number as u64), ..freeze(number) };
        for number in 0..MAX_FREEZES + 2 {
            let held = Arc::new(Held::new(ended(number), now).with(Sharing::Unshared));
            freezes.insert(&held, Earlier::MayBeExtended, Room::OfOwners).unwrap();
        }
        let entries = freezes.current.load_full();
        assert_eq!(entries.len(), MAX_FREEZES);
        assert!(
            [0, 1].iter().all(|&number| !entries.contains_key(&freeze(number).scope)),
            "the first ones go"
        );

        let fleet: BTreeMap<_, _> =
            (5000..5000 + MAX_SHARED).map(ended).map(|freeze| (freeze.scope, freeze)).collect();
        for arrival in [Arrival::Joined, Arrival::Repaired] {
            freezes.take(&fleet, arrival, Duration::ZERO);
            assert_eq!(freezes.current.load().len(), MAX_SHARED + MAX_FREEZES, "{arrival:?}");
        }
        let fleet = BTreeMap::new();
        freezes.take(&fleet, Arrival::Repaired, Duration::ZERO);
        assert_eq!(freezes.current.load().len(), MAX_FREEZES);
    }

    #[test]
    fn the_slowest_clock_of_the_fleet_is_that_of_the_node_that_may_be_furthest_behind() {
        let with = |number, skew| NodeSeen { skew, ..NodeSeen::numbered(number) };
        let ahead = with(1, Some((40, 900)));
        for (nodes, seconds) in [
            (vec![], 0),
            (vec![with(0, None), ahead.clone()], 0),
            (vec![with(0, None), with(2, Some((-90_001, -89_000))), ahead.clone()], 91),
            (vec![with(2, Some((i64::MIN, 0))), ahead], i64::MIN.unsigned_abs().div_ceil(1000)),
        ] {
            assert_eq!(slowest(&nodes), Duration::from_secs(seconds), "{nodes:?}");
        }
    }

    #[test]
    fn what_has_ended_makes_room_for_what_is_frozen_now() {
        let directory = tempfile::tempdir().unwrap();
        let freezes = opened(&directory);
        let now = freezes.time.now();
        let over = |number, end| Freeze { since: 1, expires_at: Some(end), ..freeze(number) };
        let (late, early) = (over(0, 20), over(1, 10));
        let mut there: BTreeMap<_, _> = (2..MAX_SHARED)
            .map(freeze)
            .chain([late.clone(), early.clone()])
            .map(|it| (it.scope, it))
            .collect();
        freezes.take(&there, Arrival::Other, Duration::ZERO);
        let own = |scope, since| Freeze { scope, since, ..freeze(0) };
        let device = |number: u8| Scope::Device(DeviceId([number; 32]));
        let add = |freeze: Freeze| {
            let held = Arc::new(Held::new(freeze, now).with(Sharing::Unshared));
            freezes.current.rcu(|current| {
                let mut entries = Entries::clone(current);
                entries.insert(held.freeze.scope, Arc::clone(&held));
                entries
            });
        };
        let merged = |there: &BTreeMap<Scope, Freeze>| {
            let merged = freezes.merge(Some(&encode(there.values()).unwrap()))?.expect("news");
            assert!(merged.len() <= MAX_DOCUMENT, "{} bytes", merged.len());
            parse(&merged)
        };
        add(own(device(1), 1));
        let mut expected = there.clone();
        expected.remove(&early.scope);
        expected.insert(device(1), own(device(1), 1));
        assert_eq!(merged(&there), Ok(expected.clone()), "as much as is needed, and what ended first");
        for (scope, since) in [(device(3), 3), (device(2), 2), (Scope::Kms, 4)] {
            add(own(scope, since));
        }
        expected.remove(&late.scope);
        expected.insert(device(2), own(device(2), 2));
        expected.insert(Scope::Kms, own(Scope::Kms, 4));
        there = merged(&there).unwrap();
        assert_eq!(there, expected, "the whole KMS can always be frozen");
        let changes = freezes.take(&there, Arrival::Own, Duration::ZERO);
        assert!(changes.ended.is_empty(), "they had ended: {changes:?}");
        assert_eq!(merged(&there).unwrap_err(), too_many(), "the last one waits");
        assert!(freezes.of(device(3)).is_some());
        // What has ended takes no room from what is in force, and is not missed.
        add(Freeze { expires_at: Some(1), ..own(device(4), 1) });
        assert_eq!(merged(&there).unwrap_err(), too_many());
        there.remove(&device(2));
        let mut after = merged(&there).unwrap();
        assert!(after.contains_key(&device(3)) && !after.contains_key(&device(4)));
        freezes.take(&after, Arrival::Own, Duration::ZERO);
        assert_eq!(freezes.merge(Some(&encode(after.values()).unwrap())), Ok(None));
        after.remove(&device(3));
        assert!(merged(&after).unwrap().contains_key(&device(4)), "there is room");
    }

    #[test]
    fn too_many_freezes_of_all_nodes_together_stay_where_they_were_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("freezes.json");
        let metrics = Arc::new(Metrics::new([]));
        let freezes = Freezes::open(path.clone(), metrics, Domains::default_only()).unwrap();
        let now = freezes.time.now();
        let own = freeze(usize::MAX);
        let held = Held::new(own.clone(), now).with(Sharing::Unshared);
        freezes.current.store(Arc::new(Entries::from([(own.scope, Arc::new(held))])));
        let all: Vec<_> = (0..MAX_SHARED).map(freeze).collect();
        let there = encode(all.iter()).unwrap();
        assert!(there.len() <= MAX_DOCUMENT, "{} bytes", there.len());
        let refused = freezes.merge(Some(&there)).unwrap_err();
        assert_eq!(refused, "the nodes of the fleet would have more than 4000 freezes: end some");
        let merged = freezes.merge(Some(&encode(all[1..].iter()).unwrap())).unwrap().expect("news");
        assert_eq!(parse(&merged).unwrap().len(), MAX_SHARED);
        assert!(freezes.current.load().contains_key(&own.scope), "in force here");

        // A restart reads what the fleet has, and what this node could not share.
        let records: Vec<_> =
            (0..MAX_SHARED + MAX_FREEZES).map(|number| FreezeRecord::from(&freeze(number))).collect();
        std::fs::write(&path, state::freezes_content(records, KeptIn::Fleet).unwrap()).unwrap();
        Freezes::inspect(path).unwrap();
    }
}

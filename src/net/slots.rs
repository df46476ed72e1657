//! Connection slots: shares of one address or app, slots reserved for known callers, and idle connections
//! that are closed for new ones.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kms_attest::identity::AppId;
use tokio::time::Instant;

use super::activity::{Activity, PeerTrust};
use super::party::Party;
use crate::address::bucket;

/// A connection that has been idle this long may be closed for a new one.
const MIN_IDLE: Duration = Duration::from_secs(1);
/// It may be closed at once if its group has more than this many times the connections of the newcomer's
/// group: a caller that opens connections faster than they become idle only displaces its own.
const CROWD: usize = 8;
/// The pause after a search that found no idle connection.
const SEARCH_PAUSE: Duration = Duration::from_millis(50);
/// The most connections that one search returns.
const MAX_FOUND: usize = 64;
const MAX_SEARCHES: usize = 256;
/// How long an address stays known after a caller from it was admitted.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How many addresses are known at most.
const MAX_KNOWN: usize = 16 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<Table>);

#[derive(Debug)]
pub(super) struct Table {
    all: usize,
    /// The slots that only known addresses get.
    reserved: usize,
    of_one_group: usize,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Connection>,
    by_group: HashMap<Party, usize>,
    /// How many reserved slots each group holds.
    reserved_by_group: HashMap<Party, usize>,
    known: Known,
    searches: HashMap<(Option<Party>, Reach), Search>,
}

/// Which connections a newcomer may replace, beside those of its own group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reach {
    /// Those in common slots.
    Common,
    /// Those in reserved slots too.
    Reserved,
}

/// The result of the last search for idle connections.
#[derive(Debug, Default)]
struct Search {
    /// The connections to close next, in reverse order.
    found: Vec<u64>,
    /// When it last found nothing, and how many connections the newcomer's group had then.
    in_vain: Option<(Instant, usize)>,
}

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    group: Party,
    is_reserved: bool,
    activity: Arc<Activity>,
}

/// The slot of one connection, freed when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    table: Arc<Table>,
    number: u64,
    activity: Arc<Activity>,
    /// Whether another connection was closed for it.
    pub(super) has_replaced: bool,
}

impl Slots {
    /// `all` slots: an address or app gets at most three quarters, and the last eighth is for known
    /// addresses.
    pub(super) fn new(all: usize) -> Self {
        let of_one_group = (all * 3).div_ceil(4).max(1);
        Self(Arc::new(Table { all, reserved: all / 8, of_one_group, connections: Mutex::default() }))
    }

    /// A slot for a connection from `address`, if one is free or an idle connection can be closed.
    pub(super) fn take(&self, address: IpAddr) -> Option<Slot> {
        self.take_at(address, Instant::now())
    }

    fn take_at(&self, address: IpAddr, now: Instant) -> Option<Slot> {
        let table = &self.0;
        let address = bucket(address);
        let mut connections = table.lock();
        let is_known = connections.known.contains(address, now);
        let group = connections.known.group(address);
        let of_group = connections.by_group.get(&group).copied().unwrap_or(0);
        let reserved_taken: usize = connections.reserved_by_group.values().sum();
        let reserved_of_group = connections.reserved_by_group.get(&group).copied().unwrap_or(0);
        // At most half of what is available to it, so that something is left for the next one.
        let reserved_share =
            (table.reserved.saturating_sub(reserved_taken) + reserved_of_group).div_ceil(2).max(1);
        let may_reserve = is_known && table.reserved > 0 && reserved_of_group < reserved_share;
        let common_taken = connections.open.len() - reserved_taken;
        let (is_reserved, victim) = if of_group >= table.of_one_group {
            (false, Some(Some(group)))
        } else if common_taken < table.all - table.reserved {
            (false, None)
        } else if may_reserve && reserved_taken < table.reserved {
            (true, None)
        } else {
            (false, Some(None))
        };
        let has_replaced = victim.is_some();
        let is_reserved = match victim {
            None => is_reserved,
            Some(whose) => {
                let reach = if may_reserve { Reach::Reserved } else { Reach::Common };
                let victim = connections.victim(now, whose, (group, of_group + 1), reach)?;
                connections.evict(victim)
            }
        };
        let number = connections.next;
        connections.next += 1;
        let activity = Arc::new(Activity::new(address, Arc::downgrade(table), is_known));
        let own = Arc::clone(&activity);
        connections.add(number, Connection { address, group, is_reserved, activity });
        Some(Slot { table: Arc::clone(table), number, activity: own, has_replaced })
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The app as which callers from this address were admitted recently, if it is one.
    pub(super) fn known_app(&self, address: IpAddr) -> Option<AppId> {
        let connections = self.lock();
        match connections.known.group(address) {
            Party::App(app) if connections.known.contains(address, Instant::now()) => Some(app),
            Party::App(_) | Party::Address(_) => None,
        }
    }

    /// Records that a caller from this address was admitted.
    pub(super) fn knows(&self, address: IpAddr, trust: PeerTrust) {
        let mut connections = self.lock();
        let before = connections.known.group(address);
        connections.known.add(address, trust, Instant::now());
        let group = connections.known.group(address);
        if group == before {
            return;
        }
        // Its open connections move to the new group.
        let open = connections.open.iter().filter(|(_, open)| open.address == address);
        for number in open.map(|(number, _)| *number).collect::<Vec<_>>() {
            if let Some(connection) = connections.remove(number) {
                connections.add(number, Connection { group, ..connection });
            }
        }
    }
}

impl Connections {
    /// The connection to close, of one group or of all: strangers' before admitted callers', then of the
    /// group with the most connections, then the one idle for longest. Operators' connections stay. A search
    /// visits all connections, so its result is cached, even an empty one.
    fn victim(
        &mut self,
        now: Instant,
        whose: Option<Party>,
        (group, newcomers): (Party, usize),
        reach: Reach,
    ) -> Option<u64> {
        if self.searches.len() > MAX_SEARCHES {
            self.searches.clear();
        }
        let search = self.searches.entry((whose, reach)).or_default();
        let (open, by_group) = (&self.open, &self.by_group);
        // For a connection that may be closed: whether it is a stranger's, the size of its group, and how long it
        // has been idle.
        let goes = |connection: &Connection| {
            if connection.is_reserved && reach == Reach::Common && connection.group != group {
                return None;
            }
            let (trust, idle) = connection.activity.idle_for(now);
            let is_stranger = match trust {
                PeerTrust::Stranger => true,
                PeerTrust::Admitted(_) => false,
                PeerTrust::Operator => return None,
            };
            let crowd = by_group.get(&connection.group).copied().unwrap_or(0);
            let needed = if crowd > CROWD * newcomers { Duration::ZERO } else { MIN_IDLE };
            Some((is_stranger, crowd, idle.filter(|idle| *idle >= needed)?))
        };
        while let Some(number) = search.found.pop() {
            if open.get(&number).and_then(goes).is_some() {
                return Some(number);
            }
        }
        let was_in_vain = |(since, others): (Instant, usize)| {
            newcomers >= others && now.duration_since(since) < SEARCH_PAUSE
        };
        if search.in_vain.is_some_and(was_in_vain) {
            return None;
        }
        let candidates =
            open.iter().filter(|(_, connection)| whose.is_none_or(|group| connection.group == group));
        let mut idle: Vec<_> =
            candidates.filter_map(|(number, connection)| Some((goes(connection)?, *number))).collect();
        idle.sort_unstable();
        let kept = idle.len().saturating_sub(MAX_FOUND);
        search.found = idle[kept..].iter().map(|(_, number)| *number).collect();
        search.in_vain = search.found.is_empty().then_some((now, newcomers));
        search.found.pop()
    }

    /// Closes a connection; returns whether its slot was a reserved one.
    fn evict(&mut self, number: u64) -> bool {
        let Some(connection) = self.remove(number) else { return false };
        connection.activity.evict();
        connection.is_reserved
    }

    fn add(&mut self, number: u64, connection: Connection) {
        *self.by_group.entry(connection.group).or_insert(0) += 1;
        if connection.is_reserved {
            *self.reserved_by_group.entry(connection.group).or_insert(0) += 1;
        }
        self.open.insert(number, connection);
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.open.remove(&number)?;
        one_less(&mut self.by_group, &connection.group);
        if connection.is_reserved {
            one_less(&mut self.reserved_by_group, &connection.group);
        }
        Some(connection)
    }
}

/// Decrements a count, and removes it at zero.
fn one_less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Slot {
    /// Resolves when the slot was given to another connection.
    pub(super) async fn evicted(&self) {
        self.activity.evicted().await;
    }

    /// What the connection does.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.table.lock().remove(self.number);
    }
}

/// Addresses from which callers were admitted.
#[derive(Debug, Default)]
struct Known {
    addresses: HashMap<IpAddr, Proof>,
    by_owner: HashMap<Owner, usize>,
}

#[derive(Debug)]
struct Proof {
    owner: Owner,
    last: Instant,
}

/// Which app's callers were admitted from an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    App(AppId),
    /// Several apps': the address is shared, and is a group of its own.
    Several,
    Operator,
}

impl Known {
    /// Records that a caller from this address was admitted.
    fn add(&mut self, address: IpAddr, trust: PeerTrust, now: Instant) {
        let owner = match trust {
            PeerTrust::Stranger => return,
            PeerTrust::Admitted(app) => Owner::App(app),
            PeerTrust::Operator => Owner::Operator,
        };
        let owner = match self.addresses.get(&address).map(|proof| proof.owner) {
            None => {
                if self.addresses.len() >= MAX_KNOWN && !self.make_room(owner, now) {
                    return;
                }
                owner
            }
            Some(Owner::Operator) => Owner::Operator,
            Some(Owner::App(before)) if owner != Owner::App(before) && owner != Owner::Operator => {
                Owner::Several
            }
            Some(Owner::Several) if owner != Owner::Operator => Owner::Several,
            Some(Owner::App(_) | Owner::Several) => owner,
        };
        self.forget(&address);
        self.addresses.insert(address, Proof { owner, last: now });
        *self.by_owner.entry(owner).or_insert(0) += 1;
    }

    /// Forgets one address of the app that has the most, unless the newcomer's app has as many: an app with
    /// many addresses must not displace those of others, nor keep them from becoming known.
    fn make_room(&mut self, newcomer: Owner, now: Instant) -> bool {
        let is_over = |proof: &Proof| now.duration_since(proof.last) >= KNOWN_FOR;
        let over: Vec<_> =
            self.addresses.iter().filter(|(_, proof)| is_over(proof)).map(|(address, _)| *address).collect();
        over.iter().for_each(|address| self.forget(address));
        if self.addresses.len() < MAX_KNOWN {
            return true;
        }
        let apps = self.by_owner.iter().filter(|(owner, _)| **owner != Owner::Operator);
        let Some((largest, count)) =
            apps.max_by_key(|(_, count)| **count).map(|(owner, count)| (*owner, *count))
        else {
            return false;
        };
        let has = self.by_owner.get(&newcomer).copied().unwrap_or(0);
        if newcomer != Owner::Operator && newcomer != largest && has >= count {
            return false;
        }
        let its = self.addresses.iter().filter(|(_, proof)| proof.owner == largest);
        let Some(oldest) = its.min_by_key(|(_, proof)| proof.last).map(|(address, _)| *address) else {
            return false;
        };
        self.forget(&oldest);
        true
    }

    fn forget(&mut self, address: &IpAddr) {
        if let Some(proof) = self.addresses.remove(address) {
            one_less(&mut self.by_owner, &proof.owner);
        }
    }

    fn contains(&self, address: IpAddr, now: Instant) -> bool {
        self.addresses.get(&address).is_some_and(|proof| now.duration_since(proof.last) < KNOWN_FOR)
    }

    fn group(&self, address: IpAddr) -> Party {
        match self.addresses.get(&address).map(|proof| proof.owner) {
            Some(Owner::App(app)) => Party::App(app),
            Some(Owner::Several | Owner::Operator) | None => Party::Address(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity::Use;
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn take(slots: &Slots, last: u8) -> Slot {
        slots.take(address(last)).expect("a slot")
    }

    /// Takes a slot after every idle connection has been idle for long enough.
    fn take_later(slots: &Slots, last: u8) -> Option<Slot> {
        slots.take_at(address(last), Instant::now() + MIN_IDLE)
    }

    async fn is_evicted(slot: &Slot) -> bool {
        tokio::time::timeout(Duration::from_millis(1), slot.evicted()).await.is_ok()
    }

    #[test]
    fn an_address_gets_its_share_and_gives_it_back() {
        let slots = Slots::new(4);
        let held: Vec<_> = (0..3).map(|_| take(&slots, 1)).collect();
        assert!(slots.take(address(1)).is_none(), "none of its own is idle for long enough");
        drop(take(&slots, 2));
        drop(held);
        drop(take(&slots, 1));
        let connections = slots.0.lock();
        assert!(connections.open.is_empty() && connections.by_group.is_empty());
    }

    #[tokio::test]
    async fn an_address_beyond_its_share_loses_its_own_idle_connection() {
        let slots = Slots::new(4);
        let other = take(&slots, 2);
        let held: Vec<_> = (0..3).map(|_| take(&slots, 1)).collect();
        assert!(take_later(&slots, 1).expect("a slot").has_replaced);
        assert!(!is_evicted(&other).await);
        let mut evicted = 0;
        for slot in &held {
            evicted += usize::from(is_evicted(slot).await);
        }
        assert_eq!(evicted, 1);
    }

    #[tokio::test]
    async fn the_longest_idle_connection_of_the_address_with_most_goes_first_and_probes_do_not_count() {
        let slots = Slots::new(6);
        let few = take(&slots, 2);
        let probes = take(&slots, 1);
        let receives = take(&slots, 1);
        let asks = take(&slots, 1);
        let works = take(&slots, 1);
        let guest = take(&slots, 3);
        guest.activity().admit(PeerTrust::Admitted(app(1)));
        let work = works.activity().begin(Use::Method);
        work.received();
        let receiving = receives.activity().begin(Use::Method);
        asks.activity().begin(Use::Method).received();
        probes.activity().begin(Use::Probe).received();
        let taken: Vec<_> = (4..=5).map(|last| take_later(&slots, last).expect("a slot")).collect();
        assert!(taken.iter().all(|slot| slot.has_replaced));
        assert!(is_evicted(&probes).await, "it has asked for health only");
        assert!(is_evicted(&receives).await, "its body does not come");
        for (name, slot) in [("few", &few), ("asks", &asks), ("works", &works), ("guest", &guest)] {
            assert!(!is_evicted(slot).await, "{name}");
        }
        drop((work, receiving));
    }

    #[test]
    fn a_crowd_that_is_never_idle_makes_room_for_others_and_not_for_itself() {
        let slots = Slots::new(32);
        let crowd: Vec<_> = (0..28).map(|number| take(&slots, 1 + number % 2)).collect();
        assert!(slots.take(address(1)).is_none(), "one of the crowd");
        let other = take(&slots, 3);
        assert!(other.has_replaced, "another, although nothing is idle for long");
        assert!(slots.take(address(2)).is_none(), "again one of the crowd");
        drop(crowd);
    }

    /// Starts a request on each of them.
    fn busy(slots: &[Slot]) -> Vec<super::super::activity::Running> {
        let running: Vec<_> = slots.iter().map(|slot| slot.activity().begin(Use::Method)).collect();
        running.iter().for_each(|request| request.received());
        running
    }

    #[test]
    fn the_last_slots_are_for_known_addresses_and_an_app_leaves_half_of_what_it_finds() {
        let slots = Slots::new(32);
        for (last, owner) in [(7, 1), (8, 1), (9, 2)] {
            take(&slots, last).activity().admit(PeerTrust::Admitted(app(owner)));
        }
        let held: Vec<_> = (0..28).map(|number| take(&slots, 1 + number / 14)).collect();
        let running = busy(&held);
        assert!(take_later(&slots, 3).is_none(), "a stranger, while all others are at work");
        let mut known = vec![take(&slots, 7), take(&slots, 8)];
        assert!(slots.take(address(7)).is_none(), "half of the reserved slots are its app's");
        assert!(slots.take(address(8)).is_none(), "from another of its addresses too");
        known.push(take(&slots, 9));
        assert!(slots.take(address(9)).is_none(), "half of what is left");
        let busy = busy(&known);
        assert!(slots.take_at(address(9), Instant::now() + KNOWN_FOR).is_none(), "no longer known");
        drop((running, busy));
    }

    #[tokio::test]
    async fn two_addresses_of_an_app_hold_no_more_than_one_and_its_idle_connections_go_after_those_of_strangers()
     {
        let slots = Slots::new(32);
        let first: Vec<_> = (0..12).map(|_| take(&slots, 1)).collect();
        let second: Vec<_> = (0..11).map(|_| take(&slots, 2)).collect();
        for slot in first.iter().chain(&second) {
            slot.activity().admit(PeerTrust::Admitted(app(1)));
        }
        let last = take(&slots, 2);
        assert!(
            slots.take(address(1)).is_none() && slots.take(address(2)).is_none(),
            "24 of 32 are its share"
        );
        let strangers: Vec<_> = (0..4).map(|_| take(&slots, 3)).collect();
        let operator = take_later(&slots, 4).expect("a stranger's");
        operator.activity().admit(PeerTrust::Operator);
        let mut taken = Vec::new();
        for number in 0..8 {
            let slot = take_later(&slots, 5 + number).expect("an idle one's");
            let running = busy(std::slice::from_ref(&slot));
            taken.push((slot, running));
        }
        for stranger in &strangers {
            assert!(is_evicted(stranger).await, "strangers go first");
        }
        let mut evicted = 0;
        for slot in first.iter().chain(&second).chain([&last]) {
            evicted += usize::from(is_evicted(slot).await);
        }
        assert_eq!(evicted, 5, "then the app's, although its callers were admitted");
        assert!(!is_evicted(&operator).await);
    }

    #[tokio::test]
    async fn a_stranger_does_not_get_the_reserved_slot_of_an_idle_known_caller() {
        let slots = Slots::new(16);
        take(&slots, 9).activity().admit(PeerTrust::Admitted(app(1)));
        let held: Vec<_> = (0..14).map(|number| take(&slots, 1 + number / 7)).collect();
        let running = busy(&held);
        let known = take(&slots, 9);
        known.activity().admit(PeerTrust::Admitted(app(1)));
        assert!(take_later(&slots, 3).is_none());
        assert!(!is_evicted(&known).await);
        drop(running);
    }

    #[test]
    fn an_app_with_many_addresses_pushes_out_its_own_and_keeps_nobody_from_being_known() {
        let mut known = Known::default();
        let now = Instant::now();
        let numbered = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        known.add(address(1), PeerTrust::Admitted(app(1)), now);
        known.add(address(2), PeerTrust::Operator, now);
        for number in 0..MAX_KNOWN as u32 + 100 {
            known.add(numbered(number), PeerTrust::Admitted(app(2)), now + Duration::from_millis(1));
        }
        assert_eq!(known.addresses.len(), MAX_KNOWN);
        known.add(address(3), PeerTrust::Admitted(app(3)), now);
        known.add(address(4), PeerTrust::Operator, now);
        assert_eq!(known.addresses.len(), MAX_KNOWN);
        for last in 1..=4 {
            assert!(known.contains(address(last), now), "{last}");
        }
        assert_eq!(known.by_owner.values().sum::<usize>(), MAX_KNOWN);
    }

    #[test]
    fn an_address_that_apps_share_stands_for_itself() {
        let slots = Slots::new(32);
        let held: Vec<_> = (0..4).map(|_| take(&slots, 1)).collect();
        held[0].activity().admit(PeerTrust::Admitted(app(1)));
        assert_eq!(slots.0.lock().by_group, HashMap::from([(Party::App(app(1)), 4)]));
        held[1].activity().admit(PeerTrust::Admitted(app(2)));
        let own = HashMap::from([(Party::Address(address(1)), 4)]);
        assert_eq!(slots.0.lock().by_group, own);
        held[2].activity().admit(PeerTrust::Admitted(app(1)));
        held[3].activity().admit(PeerTrust::Operator);
        assert_eq!(slots.0.lock().by_group, own);
        drop(held);
        assert!(slots.0.lock().by_group.is_empty());
    }

    fn app(last: u8) -> AppId {
        AppId([last; 20])
    }
}

//! Slots for connections: shares of one address, slots kept for callers that are known, and idle connections of strangers
//! that make room for new ones.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{activity::Activity, limit::bucket};

/// A connection of a stranger may be closed for a new one when nothing was done for it for this long.
const MIN_IDLE: Duration = Duration::from_secs(1);
/// At once, if its address has more than this many times the connections of the newcomer's address: who opens connections
/// faster than they become idle keeps only others like him out.
const CROWD: usize = 8;
/// After a search for idle connections that found none.
const SEARCH_PAUSE: Duration = Duration::from_millis(50);
/// How many connections a search finds at most.
const MAX_FOUND: usize = 64;
/// How many addresses have a search that is remembered.
const MAX_SEARCHES: usize = 256;
/// How long an address is known after a caller from it was admitted.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How many addresses are known at once.
const MAX_KNOWN: usize = 16 * 1024;

/// The slots of one listener.
#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<Table>);

#[derive(Debug)]
struct Table {
    all: usize,
    /// Those that only known addresses get.
    reserved: usize,
    of_one_address: usize,
    known: Arc<Known>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Connection>,
    by_address: HashMap<IpAddr, usize>,
    /// By whose connections were searched: one address, or all.
    searches: HashMap<Option<IpAddr>, Search>,
}

/// What the last search for idle connections gave.
#[derive(Debug, Default)]
struct Search {
    /// Those that go next, the first one last.
    found: Vec<u64>,
    /// When it gave nothing, and for how many connections of the newcomer's address.
    in_vain: Option<(Instant, usize)>,
}

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    activity: Arc<Activity>,
    evicted: Arc<Notify>,
}

/// A connection's slot; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Slot {
    table: Arc<Table>,
    number: u64,
    activity: Arc<Activity>,
    evicted: Arc<Notify>,
    /// Whether another connection had to go for it.
    pub(super) has_replaced: bool,
}

impl Slots {
    /// `all` slots: an address gets three quarters, known addresses the last eighth.
    pub(super) fn new(all: usize) -> Self {
        let of_one_address = (all * 3).div_ceil(4).max(1);
        Self(Arc::new(Table {
            all,
            reserved: all / 8,
            of_one_address,
            known: Arc::default(),
            connections: Mutex::default(),
        }))
    }

    /// A slot for a connection from `address`, if there is one or an idle connection of a stranger can go.
    pub(super) fn take(&self, address: IpAddr) -> Option<Slot> {
        self.take_at(address, Instant::now())
    }

    fn take_at(&self, address: IpAddr, now: Instant) -> Option<Slot> {
        let table = &self.0;
        let address = bucket(address);
        let usable = if table.known.contains(address, now) { table.all } else { table.all - table.reserved };
        let mut connections = table.lock();
        let of_address = connections.by_address.get(&address).copied().unwrap_or(0);
        let whose = match of_address >= table.of_one_address {
            true => Some(Some(address)),
            false => (connections.open.len() >= usable).then_some(None),
        };
        let has_replaced = whose.is_some();
        if let Some(whose) = whose {
            let victim = connections.victim(now, whose, of_address + 1)?;
            connections.evict(victim);
        }
        let number = connections.next;
        connections.next += 1;
        let activity = Arc::new(Activity::new(address, Arc::clone(&table.known)));
        let evicted = Arc::new(Notify::new());
        let (own_activity, own_evicted) = (Arc::clone(&activity), Arc::clone(&evicted));
        connections.open.insert(number, Connection { address, activity, evicted });
        *connections.by_address.entry(address).or_insert(0) += 1;
        Some(Slot {
            table: Arc::clone(table),
            number,
            activity: own_activity,
            evicted: own_evicted,
            has_replaced,
        })
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// The connection that goes first, of one address or of all: of the address with the most connections, the one that is
    /// idle for longest. A search looks at all of them, so what it finds is kept for the next ones, and so is that it
    /// found nothing.
    fn victim(&mut self, now: Instant, whose: Option<IpAddr>, newcomers: usize) -> Option<u64> {
        if self.searches.len() > MAX_SEARCHES {
            self.searches.clear();
        }
        let search = self.searches.entry(whose).or_default();
        let (open, by_address) = (&self.open, &self.by_address);
        // How many its address has, and for how long it is idle, if it may go.
        let goes = |connection: &Connection| {
            let crowd = by_address.get(&connection.address).copied().unwrap_or(0);
            let needed = if crowd > CROWD * newcomers { Duration::ZERO } else { MIN_IDLE };
            let idle = connection.activity.idle_for(now).filter(|idle| *idle >= needed)?;
            Some((crowd, idle))
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
            open.iter().filter(|(_, connection)| whose.is_none_or(|address| connection.address == address));
        let mut idle: Vec<_> = candidates
            .filter_map(|(number, connection)| {
                let (crowd, idle) = goes(connection)?;
                Some((crowd, idle, *number))
            })
            .collect();
        idle.sort_unstable();
        let kept = idle.len().saturating_sub(MAX_FOUND);
        search.found = idle[kept..].iter().map(|(_, _, number)| *number).collect();
        search.in_vain = search.found.is_empty().then_some((now, newcomers));
        search.found.pop()
    }

    fn evict(&mut self, number: u64) {
        if let Some(connection) = self.remove(number) {
            connection.evicted.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.open.remove(&number)?;
        if let Some(count) = self.by_address.get_mut(&connection.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&connection.address);
            }
        }
        Some(connection)
    }
}

impl Slot {
    /// Ends when the slot has gone to another connection.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
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
pub(super) struct Known(Mutex<HashMap<IpAddr, Instant>>);

impl Known {
    /// A caller from this address was admitted.
    pub(super) fn add(&self, address: IpAddr) {
        let now = Instant::now();
        let mut known = self.lock();
        if known.len() >= MAX_KNOWN && !known.contains_key(&address) {
            known.retain(|_, since| now.duration_since(*since) < KNOWN_FOR);
            // Known addresses stay: a newcomer must not be able to push known addresses out.
            if known.len() >= MAX_KNOWN {
                return;
            }
        }
        known.insert(address, now);
    }

    fn contains(&self, address: IpAddr, now: Instant) -> bool {
        self.lock().get(&address).is_some_and(|since| now.duration_since(*since) < KNOWN_FOR)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::activity::Use, *};

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn take(slots: &Slots, last: u8) -> Slot {
        slots.take(address(last)).expect("a slot")
    }

    /// A slot, asked for when every connection that does nothing has been idle for long enough.
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
        assert!(connections.open.is_empty() && connections.by_address.is_empty());
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
        guest.activity().admit();
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

    #[test]
    fn the_last_slots_are_for_known_addresses() {
        let slots = Slots::new(16);
        take(&slots, 9).activity().admit();
        let held: Vec<_> = (0..14).map(|number| take(&slots, 1 + number / 7)).collect();
        let running: Vec<_> = held.iter().map(|slot| slot.activity().begin(Use::Method)).collect();
        running.iter().for_each(|request| request.received());
        assert!(take_later(&slots, 3).is_none(), "a stranger, while all others are at work");
        let known: Vec<_> = (0..2).map(|_| take(&slots, 9)).collect();
        assert!(slots.take(address(9)).is_none(), "all are taken");
        drop(known);
        assert!(slots.take_at(address(9), Instant::now() + KNOWN_FOR).is_none(), "no longer known");
    }
}

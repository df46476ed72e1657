//! Connection slots: shares of one address or app, slots reserved for known callers, and idle connections
//! that are closed for new ones.

mod activity;
mod known;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kms_attest::identity::AppId;
use tokio::time::Instant;

pub(super) use self::activity::{Activity, PeerTrust, Running, Use};
use self::known::Known;
use super::party::Party;
use crate::address::bucket;

/// A connection that has been idle this long may be closed for a new one.
const MIN_IDLE: Duration = Duration::from_secs(1);
/// A connection may be closed at once if its group has more than this many times the connections of the newcomer's
/// group: a caller that opens connections faster than they become idle only displaces its own.
const CROWD: usize = 8;
/// The pause after a search that found no idle connection.
const SEARCH_PAUSE: Duration = Duration::from_millis(50);
/// The most connections that one search returns.
const MAX_FOUND: usize = 64;
const MAX_SEARCHES: usize = 256;

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

#[cfg(test)]
mod tests;

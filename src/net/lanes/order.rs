//! Which work has the next turn: first fair between lanes, by the time that their work took, then between the two
//! standings of a lane, then between its parties. It has no clock and wakes nobody.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{Lane, Standing};
use crate::net::party::Party;

/// How many lanes are remembered while nothing of them waits or runs.
const MAX_IDLE: usize = 256;
/// What a turn is charged at least, so that turns too short to be measured are not free.
const LEAST: Duration = Duration::from_micros(1);

/// Work that waits and work that runs. `W` is how the one that waits is told.
#[derive(Debug)]
pub(super) struct Order<W> {
    lanes: BTreeMap<Lane, Queue<W>>,
    /// How far the lane had come that was served last, in nanoseconds of work. A lane that comes back begins here: it has no
    /// claim to turns that it did not want.
    now: u64,
    next: u64,
    waiting: usize,
}

/// One lane.
#[derive(Debug)]
struct Queue<W> {
    /// What its work has taken, in nanoseconds since about when the others had taken as much.
    taken: u64,
    rings: [Ring<W>; 2],
    /// Whose standing has the next turn.
    turn: Standing,
    waiting: usize,
    running: usize,
}

/// The parties of one standing, in turn.
#[derive(Debug)]
struct Ring<W> {
    parties: HashMap<Party, Waiters<W>>,
    turns: BTreeMap<u64, Party>,
}

#[derive(Debug)]
struct Waiters<W> {
    turn: u64,
    by_ticket: BTreeMap<u64, Waiter<W>>,
}

#[derive(Debug)]
struct Waiter<W> {
    progress: Progress,
    told: W,
}

/// Whether work has had a turn before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has not, and may be turned away.
    New,
    /// It has, and what was done would be lost.
    Begun,
}

/// Where work waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) lane: Lane,
    pub(super) standing: Standing,
    pub(super) party: Party,
}

/// The next turn: whom to tell, and the lane that pays.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next<W> {
    pub(super) told: W,
    pub(super) lane: Lane,
}

impl<W> Default for Order<W> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), now: 0, next: 0, waiting: 0 }
    }
}

impl<W> Order<W> {
    /// How much waits in all lanes.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How much waits in a lane.
    pub(super) fn waiting_in(&self, lane: &Lane) -> usize {
        self.lanes.get(lane).map_or(0, |queue| queue.waiting)
    }

    /// In how many lanes something waits or runs.
    pub(super) fn busy(&self) -> usize {
        self.lanes.values().filter(|queue| queue.is_busy()).count()
    }

    /// Every lane in which something waits or runs, with how much waits.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (&Lane, usize)> {
        self.lanes.iter().filter(|(_, queue)| queue.is_busy()).map(|(lane, queue)| (lane, queue.waiting))
    }

    /// Work of this lane runs at once; `expected` is what it will probably take.
    pub(super) fn run(&mut self, lane: &Lane, expected: Duration) {
        let queue = self.lane(lane);
        let before = queue.taken;
        queue.running += 1;
        queue.taken = before.saturating_add(nanoseconds(expected));
        self.now = self.now.max(before);
    }

    /// Work of this lane has ended, which took `took` and not `expected`.
    pub(super) fn ended(&mut self, lane: &Lane, expected: Duration, took: Duration) {
        let Some(queue) = self.lanes.get_mut(lane) else { return };
        queue.running = queue.running.saturating_sub(1);
        queue.taken = queue.taken.saturating_add(nanoseconds(took)).saturating_sub(nanoseconds(expected));
    }

    /// Adds work that waits; the ticket is for [`Order::leave`].
    pub(super) fn enter(&mut self, place: &Place, progress: Progress, told: W) -> u64 {
        let ticket = self.next;
        self.next += 1;
        let queue = self.lane(&place.lane);
        queue.waiting += 1;
        queue.ring(place.standing).add(place.party, ticket, Waiter { progress, told }, ticket);
        self.waiting += 1;
        ticket
    }

    /// Takes out work that no longer waits for its turn.
    pub(super) fn leave(&mut self, place: &Place, ticket: u64) -> Option<W> {
        let queue = self.lanes.get_mut(&place.lane)?;
        let waiter = queue.ring(place.standing).remove(place.party, ticket)?;
        queue.waiting -= 1;
        self.waiting -= 1;
        Some(waiter.told)
    }

    /// Makes room in a lane for new work of `place`: the newest new work of the party that has the most waiting, of those that
    /// only claim to belong there before others. `None` if that would be the newcomer itself.
    pub(super) fn displace(&mut self, place: &Place) -> Option<W> {
        let queue = self.lanes.get_mut(&place.lane)?;
        let own = 1 + queue.ring(place.standing).waiting_of(&place.party);
        let (standing, most) = match place.standing {
            Standing::Proved if !queue.ring(Standing::Claimed).turns.is_empty() => (Standing::Claimed, 1),
            standing => (standing, own + 1),
        };
        let (party, ticket) = queue.ring(standing).longest(most)?;
        let place = Place { lane: place.lane.clone(), standing, party };
        self.leave(&place, ticket)
    }

    /// The next turn, of work that takes probably `expected`.
    pub(super) fn next(&mut self, expected: Duration) -> Option<Next<W>> {
        let waiting = self.lanes.iter_mut().filter(|(_, queue)| queue.waiting > 0);
        let (lane, queue) = waiting.min_by_key(|(_, queue)| queue.taken)?;
        let standing = match queue.ring(queue.turn).turns.is_empty() {
            true => queue.turn.other(),
            false => queue.turn,
        };
        queue.turn = standing.other();
        let fresh = self.next;
        self.next += 1;
        let told = queue.ring(standing).take(fresh)?.told;
        queue.waiting -= 1;
        queue.running += 1;
        self.now = self.now.max(queue.taken);
        queue.taken = queue.taken.saturating_add(nanoseconds(expected));
        self.waiting -= 1;
        Some(Next { told, lane: lane.clone() })
    }

    /// What a party has waiting in one lane waits in another from now on. Returns each with its new place.
    pub(super) fn move_party(&mut self, from: &Place, to: &Lane) {
        let Some(queue) = self.lanes.get_mut(&from.lane) else { return };
        let Some(waiters) = queue.ring(from.standing).remove_party(from.party) else { return };
        queue.waiting -= waiters.by_ticket.len();
        let turn = self.next;
        self.next += 1;
        let queue = self.lane(to);
        queue.waiting += waiters.by_ticket.len();
        for (ticket, waiter) in waiters.by_ticket {
            queue.ring(Standing::Claimed).add(from.party, ticket, waiter, turn);
        }
    }

    /// The lane, which is up with the others if nothing of it waited or ran.
    fn lane(&mut self, lane: &Lane) -> &mut Queue<W> {
        if !self.lanes.contains_key(lane) {
            let now = self.now;
            if self.lanes.len() >= MAX_IDLE {
                self.lanes.retain(|_, queue| queue.is_busy() || queue.taken > now);
            }
            if self.lanes.len() >= MAX_IDLE {
                self.lanes.retain(|_, queue| queue.is_busy());
            }
        }
        let queue = self.lanes.entry(lane.clone()).or_default();
        if !queue.is_busy() {
            queue.taken = queue.taken.max(self.now);
        }
        queue
    }
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            taken: 0,
            rings: [Ring::default(), Ring::default()],
            turn: Standing::Proved,
            waiting: 0,
            running: 0,
        }
    }
}

impl<W> Queue<W> {
    fn is_busy(&self) -> bool {
        self.waiting + self.running > 0
    }

    fn ring(&mut self, standing: Standing) -> &mut Ring<W> {
        &mut self.rings[standing as usize]
    }
}

impl<W> Default for Ring<W> {
    fn default() -> Self {
        Self { parties: HashMap::new(), turns: BTreeMap::new() }
    }
}

impl<W> Ring<W> {
    /// Adds work of a party, whose turn is `turn` if it had nothing waiting.
    fn add(&mut self, party: Party, ticket: u64, waiter: Waiter<W>, turn: u64) {
        let turns = &mut self.turns;
        let waiters = self.parties.entry(party).or_insert_with(|| {
            turns.insert(turn, party);
            Waiters { turn, by_ticket: BTreeMap::new() }
        });
        waiters.by_ticket.insert(ticket, waiter);
    }

    fn waiting_of(&self, party: &Party) -> usize {
        self.parties.get(party).map_or(0, |waiters| waiters.by_ticket.len())
    }

    /// The oldest work of the party whose turn it is; what else it has waits until `next`.
    fn take(&mut self, next: u64) -> Option<Waiter<W>> {
        let (_, party) = self.turns.pop_first()?;
        let waiters = self.parties.get_mut(&party)?;
        let (_, waiter) = waiters.by_ticket.pop_first()?;
        if waiters.by_ticket.is_empty() {
            self.parties.remove(&party);
        } else {
            waiters.turn = next;
            self.turns.insert(next, party);
        }
        Some(waiter)
    }

    fn remove(&mut self, party: Party, ticket: u64) -> Option<Waiter<W>> {
        let waiters = self.parties.get_mut(&party)?;
        let waiter = waiters.by_ticket.remove(&ticket)?;
        if waiters.by_ticket.is_empty() {
            self.remove_party(party);
        }
        Some(waiter)
    }

    fn remove_party(&mut self, party: Party) -> Option<Waiters<W>> {
        let waiters = self.parties.remove(&party)?;
        self.turns.remove(&waiters.turn);
        Some(waiters)
    }

    /// The newest new work of the party that has the most waiting, if that is at least `most`.
    fn longest(&self, most: usize) -> Option<(Party, u64)> {
        let newest = |waiters: &Waiters<W>| {
            let new =
                |(ticket, waiter): (&u64, &Waiter<W>)| (waiter.progress == Progress::New).then_some(*ticket);
            waiters.by_ticket.iter().rev().find_map(new)
        };
        let long = self.parties.iter().filter(|(_, waiters)| waiters.by_ticket.len() >= most);
        let candidates =
            long.filter_map(|(party, waiters)| Some((waiters.by_ticket.len(), newest(waiters)?, *party)));
        // Among those with equally much, the one that came last.
        let (_, ticket, party) = candidates.max_by_key(|(waiting, ticket, _)| (*waiting, *ticket))?;
        Some((party, ticket))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.max(LEAST).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

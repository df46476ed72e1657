//! Memory that requests hold: bounded in total, for each kind of caller, and for one address or app.
//!
//! Counted are a request with its headers, the received part of its body, what is decoded from it, and the
//! response until it is sent. Limits on single bodies do not bound their sum: one connection may carry 64 of
//! them.
//!
//! Each kind of caller has a part that no other kind can take; the rest is shared by all but probes. An
//! address or app may hold half of what is available to its kind, so that something is left for the next one.
//! Requests that wait for their caller (a body that does not arrive, a response that is not read, a stream
//! without events) are cancelled when others need the memory.

mod budget;
mod class;
mod reservation;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::time::Instant;

use self::class::Class;
pub(super) use self::class::{Arrival, Holder};
pub(super) use self::reservation::Reservation;
use super::party::Party;
use super::slots::Activity;
use crate::config::Limits;

/// What a request holds beside its headers and body: the stream, the task and its buffers.
const REQUEST: usize = 4 * 1024;
/// Factor for the buffer of a body, which grows by doubling.
const BUFFER: usize = 2;
/// Factor for messages and evidence decoded from a body, beside that buffer.
const DECODED: usize = 2;
/// Counted for a response of unknown length.
const ANSWER: usize = 16 * 1024;
/// A request that has waited for its caller this long may be cancelled for another.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// A body that has brought this many bytes since its wait began has made progress, and the wait begins again.
const PROGRESS: usize = 16 * 1024;
/// How many requests may be cancelled for one.
const MAX_GIVEN_UP: usize = 64;
/// A response that is not read for this long ends its connection.
const MAX_UNREAD: Duration = Duration::from_secs(10);
/// How often such responses are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// No memory is left for this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests are being received at the moment; try again")]
pub(super) struct Exhausted;

/// The memory budget of all requests in the process.
#[derive(Debug)]
pub struct RequestMemory {
    total: usize,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// A request stores its index.
    requests: Slab<Request>,
    /// Bytes by [`Class::index`].
    by_class: [usize; Class::ALL.len()],
    /// One share for each owner with requests.
    shares: Slab<Share>,
    /// The index of each owner's share. Looked up when a request arrives and when an owner's last one ends: a
    /// request stores its own index.
    by_owner: HashMap<(Class, Party), usize>,
    swept: Instant,
}

/// What an address or app holds.
#[derive(Debug)]
struct Share {
    class: Class,
    owner: Party,
    requests: usize,
    bytes: usize,
    /// Its requests that wait for their caller, with the start of the wait.
    waiting: BTreeSet<(Instant, usize)>,
}

#[derive(Debug)]
struct Request {
    class: Class,
    /// Its owner's index in [`Held::shares`].
    share: usize,
    bytes: usize,
    waits: Option<Instant>,
    /// Whether it waits because there is nothing to send.
    rests: bool,
    /// How many bytes of its body have arrived since the wait began.
    fresh: usize,
    is_answered: bool,
    signal: Arc<Signal>,
}

/// Tells a request that it was cancelled.
#[derive(Debug)]
struct Signal {
    is_given_up: AtomicBool,
    was_refused: AtomicBool,
    body: AtomicWaker,
    activity: Arc<Activity>,
}

impl RequestMemory {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Arc<Self> {
        let held = Held {
            requests: Slab::new(),
            by_class: [0; Class::ALL.len()],
            shares: Slab::new(),
            by_owner: HashMap::new(),
            swept: Instant::now(),
        };
        Arc::new(Self { total, held: Mutex::new(held) })
    }

    /// The budget that `[core.limits]` sets.
    pub fn of(limits: &Limits) -> Arc<Self> {
        Self::new(limits.max_request_memory.unwrap_or_else(Self::default_total))
    }

    /// A tenth of the memory of the control group or the machine, at least 64 MiB.
    pub fn default_total() -> usize {
        budget::default_total(Path::new("/"))
    }

    #[cfg(test)]
    pub(super) fn open(
        self: &Arc<Self>,
        activity: &Arc<Activity>,
        holder: Holder,
        head: usize,
    ) -> Result<Arc<Reservation>, Exhausted> {
        self.open_at(activity, holder, head, Instant::now())
    }

    #[cfg(test)]
    fn open_at(
        self: &Arc<Self>,
        activity: &Arc<Activity>,
        holder: Holder,
        head: usize,
        now: Instant,
    ) -> Result<Arc<Reservation>, Exhausted> {
        self.reserve(activity, holder, (head, Arrival::Head), now)
    }

    /// Memory for a request that arrived `now` on the connection of `activity`, with `head` bytes of request
    /// line and headers.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(super) fn reserve(
        self: &Arc<Self>,
        activity: &Arc<Activity>,
        holder: Holder,
        (head, arrival): (usize, Arrival),
        now: Instant,
    ) -> Result<Arc<Reservation>, Exhausted> {
        let signal = Arc::new(Signal {
            is_given_up: AtomicBool::new(false),
            was_refused: AtomicBool::new(false),
            body: AtomicWaker::new(),
            activity: Arc::clone(activity),
        });
        let class = Class::of(holder);
        let (number, taken) = {
            let mut held = self.lock();
            held.sweep(now);
            let share = held.join(class, owner(holder, activity));
            let request = Request {
                class,
                share,
                bytes: 0,
                waits: None,
                rests: false,
                fresh: 0,
                is_answered: false,
                signal: Arc::clone(&signal),
            };
            let number = held.requests.insert(request);
            if arrival == Arrival::Head {
                held.wait(number, Some(now));
            }
            (number, held.take(number, REQUEST + head, self.total, now))
        };
        let reservation = Reservation { memory: Arc::clone(self), number, arrival, signal };
        taken?;
        Ok(Arc::new(reservation))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(holder: Holder, activity: &Activity) -> Party {
    match holder {
        Holder::Admitted(app) => Party::App(app),
        Holder::Stranger | Holder::Known | Holder::Operator | Holder::Probe => {
            Party::Address(activity.address())
        }
    }
}

impl Held {
    /// The share of an owner that has one more request.
    fn join(&mut self, class: Class, owner: Party) -> usize {
        let new = || Share { class, owner, requests: 0, bytes: 0, waiting: BTreeSet::new() };
        let index = *self.by_owner.entry((class, owner)).or_insert_with(|| self.shares.insert(new()));
        self.shares[index].requests += 1;
        index
    }

    /// Removes a request that no longer holds memory from its share, and the share with its last request.
    fn leave(&mut self, index: usize) {
        let share = &mut self.shares[index];
        share.requests -= 1;
        if share.requests == 0 {
            let Share { class, owner, .. } = self.shares.remove(index);
            self.by_owner.remove(&(class, owner));
        }
    }

    /// Moves a request, with all that it holds, to another kind of holder.
    fn becomes(&mut self, number: usize, class: Class) {
        let Some(request) = self.requests.get(number) else { return };
        let (bytes, waits, before) = (request.bytes, request.waits, request.share);
        self.wait(number, None);
        self.settle(number, 0);
        let share = self.join(class, self.shares[before].owner);
        self.leave(before);
        if let Some(request) = self.requests.get_mut(number) {
            (request.class, request.share) = (class, share);
        }
        self.settle(number, bytes);
        self.wait(number, waits);
    }

    /// The bytes available to a kind of holder, beside what it holds.
    fn room(&self, class: Class, total: usize) -> usize {
        let of = |class: Class| self.by_class[class.index()];
        let own = class.guaranteed(total).saturating_sub(of(class));
        let taken = Class::ALL.map(|class| of(class).max(class.guaranteed(total)));
        let common = total.saturating_sub(taken.into_iter().fold(0, usize::saturating_add));
        if class == Class::Probe { own } else { own + common }
    }

    fn fits(&self, class: Class, share: usize, bytes: usize, total: usize) -> bool {
        let room = self.room(class, total);
        let share = self.shares[share].bytes;
        let after = share.saturating_add(bytes);
        match class {
            Class::Operator => bytes <= room,
            Class::Stranger | Class::Known | Class::Probe => {
                after <= class.largest_share(total) && after <= (room + share) / 2
            }
        }
    }

    /// Takes `bytes` more for a request, and cancels others where that is needed.
    fn take(&mut self, number: usize, bytes: usize, total: usize, now: Instant) -> Result<(), Exhausted> {
        let taken = self.make_room(number, bytes, total, now);
        let Some(own) = taken else {
            if let Some(request) = self.requests.get(number) {
                request.signal.was_refused.store(true, Ordering::Relaxed);
            }
            return Err(Exhausted);
        };
        self.settle(number, own + bytes);
        Ok(())
    }

    /// Cancels other requests until this one can have `bytes` more; returns its new total.
    fn make_room(&mut self, number: usize, bytes: usize, total: usize, now: Instant) -> Option<usize> {
        let Request { class, share, bytes: own, ref signal, .. } = *self.requests.get(number)?;
        if signal.is_given_up.load(Ordering::Relaxed)
            || own.saturating_add(bytes) > class.largest_share(total)
        {
            return None;
        }
        for _ in 0..MAX_GIVEN_UP {
            if self.fits(class, share, bytes, total) {
                return Some(own);
            }
            let after = self.shares[share].bytes.saturating_add(bytes);
            let victim = self.victim(number, after, total, now)?;
            self.give_up(victim);
        }
        None
    }

    /// The request to cancel for one whose owner would then hold `after` bytes: the one that has waited
    /// longest among those of the largest holder of the same kind, or among the owner's own if it holds as
    /// much.
    fn victim(&self, newcomer: usize, after: usize, total: usize, now: Instant) -> Option<usize> {
        let Request { class, share, .. } = self.requests.get(newcomer)?;
        let own = self.shares.get(*share);
        let shares = self.shares.iter().map(|(_, share)| share);
        let others = shares.filter(|share| share.class == *class && share.bytes > after);
        let largest = others.max_by_key(|share| share.bytes);
        let from = if after > class.largest_share(total) { own } else { largest.or(own) };
        let mut waiting = from?.waiting.iter();
        let (since, number) = waiting.find(|(_, number)| *number != newcomer)?;
        (now.duration_since(*since) >= MIN_WAIT).then_some(*number)
    }

    fn give_up(&mut self, number: usize) {
        self.wait(number, None);
        self.settle(number, REQUEST);
        let Some(request) = self.requests.get(number) else { return };
        request.signal.is_given_up.store(true, Ordering::Relaxed);
        request.signal.was_refused.store(true, Ordering::Relaxed);
        request.signal.body.wake();
        if request.is_answered {
            request.signal.activity.evict();
        }
    }

    /// Ends the connections of callers that do not read their responses.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let is_unread = |request: &Request| {
            let is_over = |since| now.duration_since(since) >= MAX_UNREAD;
            request.is_answered && !request.rests && request.waits.is_some_and(is_over)
        };
        let unread = self.requests.iter().filter(|(_, request)| is_unread(request));
        for number in unread.map(|(number, _)| number).collect::<Vec<_>>() {
            self.give_up(number);
        }
    }

    /// Sets since when a request waits for its caller; `None` if it does not.
    fn wait(&mut self, number: usize, since: Option<Instant>) {
        let Some(request) = self.requests.get_mut(number) else { return };
        let share = &mut self.shares[request.share];
        if let Some(before) = request.waits.take() {
            share.waiting.remove(&(before, number));
        }
        if !request.signal.is_given_up.load(Ordering::Relaxed)
            && let Some(since) = since
        {
            request.waits = Some(since);
            (request.rests, request.fresh) = (false, 0);
            share.waiting.insert((since, number));
        }
    }

    /// Sets how many bytes a request holds.
    fn settle(&mut self, number: usize, bytes: usize) {
        let Some(request) = self.requests.get_mut(number) else { return };
        let before = std::mem::replace(&mut request.bytes, bytes);
        let moved = |held: usize| held.saturating_sub(before).saturating_add(bytes);
        let of_class = &mut self.by_class[request.class.index()];
        *of_class = moved(*of_class);
        let share = &mut self.shares[request.share];
        share.bytes = moved(share.bytes);
    }
}

#[cfg(test)]
mod tests;

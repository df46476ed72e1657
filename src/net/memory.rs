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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use kms_attest::identity::AppId;
use slab::Slab;
use tokio::time::Instant;

use super::activity::Activity;
use super::party::Party;
use crate::config::Limits;

/// The smallest default budget.
const MIN_DEFAULT: usize = 64 << 20;
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

/// What kind of caller holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// The caller has proved nothing.
    Stranger,
    /// The caller's address is one from which a caller was admitted before.
    Known,
    /// Policy has given this app a permit on the connection.
    Admitted(AppId),
    /// The caller has shown an operator's credentials.
    Operator,
    /// A health probe.
    Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    Stranger,
    Known,
    Operator,
    Probe,
}

impl Class {
    const ALL: [Self; 4] = [Self::Stranger, Self::Known, Self::Operator, Self::Probe];

    fn index(self) -> usize {
        self as usize
    }

    fn of(holder: Holder) -> Self {
        match holder {
            Holder::Stranger => Self::Stranger,
            Holder::Known | Holder::Admitted(_) => Self::Known,
            Holder::Operator => Self::Operator,
            Holder::Probe => Self::Probe,
        }
    }

    /// The part that no other kind can take.
    fn guaranteed(self, total: usize) -> usize {
        match self {
            Self::Stranger | Self::Known => total / 16 * 3,
            Self::Operator | Self::Probe => total / 16,
        }
    }

    /// The most that one address or app may hold, however much is free.
    fn largest_share(self, total: usize) -> usize {
        match self {
            Self::Stranger | Self::Known => total / 4,
            Self::Operator => total,
            Self::Probe => total / 32,
        }
    }
}

#[derive(Debug)]
struct Held {
    next: u64,
    /// In the order of their arrival.
    requests: BTreeMap<u64, Request>,
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
    waiting: BTreeSet<(Instant, u64)>,
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
            next: 0,
            requests: BTreeMap::new(),
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
        default_total(Path::new("/"))
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

    /// Memory for a request that arrived `now` on the connection of `activity`, with `head` bytes of request
    /// line and headers.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(super) fn open_at(
        self: &Arc<Self>,
        activity: &Arc<Activity>,
        holder: Holder,
        head: usize,
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
            let number = held.next;
            held.next += 1;
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
            held.requests.insert(number, request);
            held.wait(number, Some(now));
            (number, held.take(number, REQUEST + head, self.total, now))
        };
        let reservation = Reservation { memory: Arc::clone(self), number, signal };
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
    fn becomes(&mut self, number: u64, class: Class) {
        let Some(request) = self.requests.get(&number) else { return };
        let (bytes, waits, before) = (request.bytes, request.waits, request.share);
        self.wait(number, None);
        self.settle(number, 0);
        let share = self.join(class, self.shares[before].owner);
        self.leave(before);
        if let Some(request) = self.requests.get_mut(&number) {
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
    fn take(&mut self, number: u64, bytes: usize, total: usize, now: Instant) -> Result<(), Exhausted> {
        let taken = self.make_room(number, bytes, total, now);
        let Some(own) = taken else {
            if let Some(request) = self.requests.get(&number) {
                request.signal.was_refused.store(true, Ordering::Relaxed);
            }
            return Err(Exhausted);
        };
        self.settle(number, own + bytes);
        Ok(())
    }

    /// Cancels other requests until this one can have `bytes` more; returns its new total.
    fn make_room(&mut self, number: u64, bytes: usize, total: usize, now: Instant) -> Option<usize> {
        let Request { class, share, bytes: own, ref signal, .. } = *self.requests.get(&number)?;
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
    fn victim(&self, newcomer: u64, after: usize, total: usize, now: Instant) -> Option<u64> {
        let Request { class, share, .. } = self.requests.get(&newcomer)?;
        let own = self.shares.get(*share);
        let shares = self.shares.iter().map(|(_, share)| share);
        let others = shares.filter(|share| share.class == *class && share.bytes > after);
        let largest = others.max_by_key(|share| share.bytes);
        let from = if after > class.largest_share(total) { own } else { largest.or(own) };
        let mut waiting = from?.waiting.iter();
        let (since, number) = waiting.find(|(_, number)| *number != newcomer)?;
        (now.duration_since(*since) >= MIN_WAIT).then_some(*number)
    }

    fn give_up(&mut self, number: u64) {
        self.wait(number, None);
        self.settle(number, REQUEST);
        let Some(request) = self.requests.get(&number) else { return };
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
        for number in unread.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.give_up(number);
        }
    }

    /// Sets since when a request waits for its caller; `None` if it does not.
    fn wait(&mut self, number: u64, since: Option<Instant>) {
        let Some(request) = self.requests.get_mut(&number) else { return };
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
    fn settle(&mut self, number: u64, bytes: usize) {
        let Some(request) = self.requests.get_mut(&number) else { return };
        let before = std::mem::replace(&mut request.bytes, bytes);
        let moved = |held: usize| held.saturating_sub(before).saturating_add(bytes);
        let of_class = &mut self.by_class[request.class.index()];
        *of_class = moved(*of_class);
        let share = &mut self.shares[request.share];
        share.bytes = moved(share.bytes);
    }
}

/// The memory of one request, released when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    memory: Arc<RequestMemory>,
    number: u64,
    signal: Arc<Signal>,
}

impl Reservation {
    /// Takes what receiving `body` bytes more needs.
    ///
    /// # Errors
    /// [`Exhausted`]; what is already held stays held.
    pub(super) fn receive(&self, body: usize) -> Result<(), Exhausted> {
        self.grow(body.saturating_mul(BUFFER), body, Instant::now())
    }

    /// The body has been received: from now on the caller waits for us.
    pub(super) fn received(&self) {
        self.memory.lock().wait(self.number, None);
    }

    /// Whether memory was denied or taken back.
    pub(super) fn was_refused(&self) -> bool {
        self.signal.was_refused.load(Ordering::Relaxed)
    }

    /// Whether the request was cancelled for others. If not, `waker` is woken when it is.
    pub(super) fn is_given_up(&self, waker: &Waker) -> bool {
        self.signal.body.register(waker);
        self.signal.is_given_up.load(Ordering::Relaxed)
    }

    /// The caller has shown an operator's credentials.
    pub(super) fn belongs_to_operator(&self) {
        self.memory.lock().becomes(self.number, Class::Operator);
    }

    fn grow(&self, bytes: usize, fresh: usize, now: Instant) -> Result<(), Exhausted> {
        let mut held = self.memory.lock();
        held.take(self.number, bytes, self.memory.total, now)?;
        if let Some(request) = held.requests.get_mut(&self.number) {
            request.fresh += fresh;
            if request.fresh >= PROGRESS && request.waits.is_some() && !request.is_answered {
                held.wait(self.number, Some(now));
            }
        }
        Ok(())
    }

    /// Takes what decoding a body of `body` bytes needs beside it.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(super) fn decode(&self, body: usize) -> Result<(), Exhausted> {
        self.grow(body.saturating_mul(DECODED), 0, Instant::now())
    }

    /// The request is done: from now on its response is held until it is read. This never fails, because the
    /// work is already done.
    pub(super) fn answered(&self, length: Option<u64>, now: Instant) {
        let answer = length.map_or(ANSWER, |length| usize::try_from(length).unwrap_or(usize::MAX));
        let mut held = self.memory.lock();
        if let Some(request) = held.requests.get_mut(&self.number) {
            request.is_answered = true;
        }
        held.settle(self.number, REQUEST.saturating_add(answer));
        held.wait(self.number, Some(now));
    }

    /// Part of the response was read, and more follows.
    pub(super) fn read_on(&self) {
        self.memory.lock().wait(self.number, Some(Instant::now()));
    }

    /// Nothing more of the response exists for now: it waits for an event, and is cancelled only when others
    /// need the memory.
    pub(super) fn rests(&self) {
        let mut held = self.memory.lock();
        held.wait(self.number, Some(Instant::now()));
        if let Some(request) = held.requests.get_mut(&self.number) {
            request.rests = true;
        }
    }

    #[cfg(test)]
    pub(super) fn give_up(&self) {
        self.memory.lock().give_up(self.number);
    }

    /// Whether the response has begun.
    pub(super) fn is_answered(&self) -> bool {
        self.memory.lock().requests.get(&self.number).is_none_or(|request| request.is_answered)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.memory.lock();
        held.wait(self.number, None);
        held.settle(self.number, 0);
        if let Some(request) = held.requests.remove(&self.number) {
            held.leave(request.share);
        }
    }
}

/// [`RequestMemory::default_total`], with the system's files under `root`.
fn default_total(root: &Path) -> usize {
    let limit = group_limit(root).into_iter().chain(machine(root)).min();
    let tenth = limit.and_then(|limit| usize::try_from(limit / 10).ok());
    tenth.unwrap_or(0).max(MIN_DEFAULT)
}

/// The smallest memory limit of the control groups of this process, version 1 or 2. In a container the path
/// may be that of the host, which does not exist inside: the limit is then at the top.
fn group_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least = None;
    for line in groups.lines() {
        // `0::/path` is version 2, `5:memory:/path` version 1.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (top, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let top = root.join(top);
        let own = top.join(path.trim_start_matches('/'));
        // A group has at most the memory of those above it.
        for group in own.ancestors().take_while(|group| group.starts_with(&top)) {
            let limit = fs::read_to_string(group.join(file)).ok();
            let limit = limit.and_then(|limit| limit.trim().parse::<u64>().ok());
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}

/// The memory of the machine.
fn machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Weak;

    use super::*;

    const MIB: usize = 1 << 20;

    fn on(last: u8) -> Arc<Activity> {
        Arc::new(Activity::new(IpAddr::from([192, 0, 2, last]), Weak::new(), false))
    }

    fn app(last: u8) -> Holder {
        Holder::Admitted(AppId([last; 20]))
    }

    /// Takes as much as a new request can have, in steps of 64 KiB.
    fn fill(memory: &Arc<RequestMemory>, last: u8, holder: Holder) -> (Arc<Reservation>, usize) {
        let request = memory.open(&on(last), holder, 64 * 1024 - REQUEST).expect("room");
        while request.grow(64 * 1024, 0, Instant::now()).is_ok() {}
        let bytes = memory.lock().requests[&request.number].bytes;
        (request, bytes)
    }

    fn is_evicted(activity: &Activity) -> bool {
        futures_util::FutureExt::now_or_never(activity.evicted()).is_some()
    }

    #[test]
    fn an_address_gets_a_quarter_at_most_and_half_of_what_is_there_so_that_something_is_left_for_the_next() {
        let memory = RequestMemory::new(64 * MIB);
        let mut held = Vec::new();
        for (last, share) in [(1, 16 * MIB), (2, 14 * MIB), (3, 7 * MIB), (4, 7 * MIB / 2), (5, 7 * MIB / 4)]
        {
            let (request, bytes) = fill(&memory, last, Holder::Stranger);
            assert_eq!(bytes, share, "address {last}");
            held.push(request);
        }
        for last in 6..=12 {
            held.push(memory.open(&on(last), Holder::Stranger, 1024).expect("a new guest always fits"));
        }
        held.clear();
        let left = memory.lock();
        assert!(left.requests.is_empty() && left.shares.is_empty() && left.by_owner.is_empty());
        assert!(left.by_class.iter().all(|bytes| *bytes == 0));
    }

    #[test]
    fn each_kind_has_a_part_that_no_other_can_take_and_an_app_its_share_of_it() {
        let memory = RequestMemory::new(64 * MIB);
        let full = |last| with(&memory, &on(last), 512 * 1024, Instant::now());
        let mut held: Vec<_> = (1..=88).map(full).collect();
        assert!(
            memory.open(&on(89), Holder::Stranger, 1024).is_err(),
            "strangers have all that they can have"
        );
        let (first, bytes) = fill(&memory, 201, app(1));
        assert_eq!(bytes, 6 * MIB, "half of the part of admitted callers");
        assert!(memory.open(&on(202), app(1), MIB).is_err(), "the same app at another address");
        let (second, bytes) = fill(&memory, 203, app(2));
        assert_eq!(bytes, 3 * MIB);
        held.extend([first, second]);
        held.push(memory.open(&on(204), Holder::Known, 1024).expect("an address that is known"));
        let (operator, bytes) = fill(&memory, 205, Holder::Operator);
        assert_eq!(bytes, 4 * MIB, "an operator has no share, but a part of his own");
        let (probe, bytes) = fill(&memory, 206, Holder::Probe);
        assert_eq!(bytes, 2 * MIB);
        held.extend([operator, probe]);
        held.push(memory.open(&on(207), Holder::Probe, 1024).expect("another probe"));
    }

    /// A stranger's request that has received so many bytes of a body and expects more.
    fn with(
        memory: &Arc<RequestMemory>,
        activity: &Arc<Activity>,
        bytes: usize,
        now: Instant,
    ) -> Arc<Reservation> {
        let request = memory.open_at(activity, Holder::Operator, 0, now).expect("room");
        let mut held = memory.lock();
        held.becomes(request.number, Class::Stranger);
        held.settle(request.number, bytes);
        held.wait(request.number, Some(now));
        drop(held);
        request
    }

    #[test]
    fn answers_beyond_the_budget_take_nothing_from_other_kinds() {
        let memory = RequestMemory::new(16 * MIB);
        let request = memory.open(&on(1), Holder::Stranger, 0).expect("room");
        request.answered(Some(500 * MIB as u64), Instant::now());
        assert!(memory.open(&on(2), Holder::Stranger, 0).is_err(), "they count, and are not refused");
        for holder in [Holder::Known, app(1), Holder::Operator, Holder::Probe] {
            memory.open(&on(3), holder, 1024).expect("its own part");
        }
    }

    #[test]
    fn an_answer_takes_the_place_of_its_request() {
        let memory = RequestMemory::new(16 * MIB);
        let request = memory.open(&on(1), Holder::Stranger, 100).expect("room");
        request.receive(MIB).expect("body");
        request.decode(MIB).expect_err("with what is decoded it would be more than its share");
        assert!(request.was_refused());
        request.answered(Some(500), Instant::now());
        assert_eq!(memory.lock().requests[&request.number].bytes, REQUEST + 500);
    }

    /// Three addresses hold everything with bodies that do not arrive; a fourth needs some.
    #[test]
    fn a_body_that_makes_no_progress_gives_its_memory_to_another() {
        let memory = RequestMemory::new(16 * MIB);
        let (attackers, guest) = ([1, 2, 3].map(on), on(4));
        let now = Instant::now();
        let held: Vec<_> =
            (0..44).map(|number| with(&memory, &attackers[number % 3], 256 * 1024, now)).collect();
        assert!(memory.open_at(&guest, Holder::Stranger, 0, now).is_err(), "they have not waited yet");
        let request =
            memory.open_at(&guest, Holder::Stranger, 100_000, now + MIN_WAIT).expect("room is made");
        let given_up: Vec<_> = held.iter().filter(|held| held.was_refused()).collect();
        assert_eq!(given_up.len(), 1, "as many as are needed");
        assert!(given_up.iter().all(|held| held.receive(1).is_err()), "nothing more is received");
        assert!(attackers.iter().all(|activity| !is_evicted(activity)), "their connections stay");
        drop(request);
    }

    #[test]
    fn a_body_that_comes_is_not_given_up_nor_one_that_is_here() {
        let memory = RequestMemory::new(16 * MIB);
        let (comes, is_here, waits) = (on(1), on(1), on(1));
        let open = |activity| memory.open(activity, Holder::Stranger, MIB).expect("room");
        let [comes, is_here, waits] = [&comes, &is_here, &waits].map(open);
        is_here.received();
        let later = Instant::now() + MIN_WAIT;
        comes.grow(1024, PROGRESS, later).expect("room");
        let next =
            memory.open_at(&on(1), Holder::Stranger, MIB, later).expect("in place of the one that waits");
        assert_eq!([&comes, &is_here, &waits].map(|request| request.was_refused()), [false, false, true]);
        assert!(memory.open_at(&on(1), Holder::Stranger, MIB, later).is_err(), "the others stay");
        drop(next);
    }

    #[test]
    fn an_answer_that_nobody_reads_ends_its_connection() {
        let memory = RequestMemory::new(16 * MIB);
        let (reads, does_not) = (on(1), on(2));
        let open = |activity| memory.open(activity, Holder::Stranger, 0).expect("room");
        let (read, unread) = (open(&reads), open(&does_not));
        for request in [&read, &unread] {
            request.received();
            request.answered(None, Instant::now());
        }
        read.rests();
        let mut now = Instant::now();
        let next = memory.open_at(&on(3), Holder::Stranger, 0, now + MAX_UNREAD / 2).expect("room");
        assert!(!is_evicted(&does_not), "not yet");
        now += MAX_UNREAD + SWEEP;
        drop(memory.open_at(&on(3), Holder::Stranger, 0, now).expect("room"));
        assert!(is_evicted(&does_not));
        assert!(!is_evicted(&reads), "we are the ones who have nothing to say");
        now += MIN_WAIT;
        let grow = |last: u8, bytes| memory.open_at(&on(last), Holder::Stranger, bytes, now);
        let held: Vec<_> = (10..13).map_while(|last| grow(last, 3 * MIB).ok()).collect();
        with(&memory, &reads, 0, now);
        memory.lock().settle(read.number, 4 * MIB);
        drop(grow(20, 2 * MIB).expect("in place of a stream that rests"));
        assert!(is_evicted(&reads));
        drop(held);
        drop(next);
    }

    #[test]
    fn a_request_becomes_an_operators_with_all_that_it_holds() {
        let memory = RequestMemory::new(64 * MIB);
        let request = memory.open(&on(1), Holder::Stranger, 0).expect("room");
        assert!(request.receive(9 * MIB).is_err(), "more than a quarter");
        request.belongs_to_operator();
        request.receive(8 * MIB).expect("a candidate of 8 MiB");
        request.decode(8 * MIB).expect("and what is decoded");
        let held = memory.lock();
        assert_eq!(held.by_class[Class::Stranger.index()], 0);
        assert_eq!(held.by_class[Class::Operator.index()], REQUEST + 32 * MIB);
    }

    #[test]
    fn the_default_is_a_tenth_of_the_least_limit() {
        const GIB: u64 = 1 << 30;
        let v2 = "0::/system.slice/kms.service\n";
        let v1 = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n";
        for (groups, files, expected) in [
            (v2, &[("sys/fs/cgroup/system.slice/kms.service/memory.max", "4294967296\n")][..], 4 * GIB / 10),
            (v2, &[("sys/fs/cgroup/system.slice/kms.service/memory.max", "max\n")], 64 * GIB / 10),
            (
                v2,
                &[
                    ("sys/fs/cgroup/system.slice/kms.service/memory.max", "max\n"),
                    ("sys/fs/cgroup/system.slice/memory.max", "2147483648\n"),
                ],
                2 * GIB / 10,
            ),
            ("0::/\n", &[("sys/fs/cgroup/memory.max", "2147483648")], 2 * GIB / 10),
            ("0::/../outside\n", &[("sys/fs/cgroup/memory.max", "2147483648")], 2 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "3221225472")], 3 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "3221225472")], 3 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")], 64 * GIB / 10),
            (v1, &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576")], 64 << 20),
            ("", &[], 64 * GIB / 10),
        ] {
            let root = tempfile::tempdir().expect("a directory");
            let write = |name: &str, text: &str| {
                let file = root.path().join(name);
                fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
                fs::write(file, text).expect("written");
            };
            write("proc/self/cgroup", groups);
            write("proc/meminfo", "MemTotal:       67108864 kB\nMemFree: 1 kB\n");
            for (name, text) in files {
                write(name, text);
            }
            assert_eq!(default_total(root.path()) as u64, expected, "{groups:?} {files:?}");
        }
        let empty = tempfile::tempdir().expect("a directory");
        assert_eq!(default_total(empty.path()), MIN_DEFAULT, "nothing can be read");
    }
}

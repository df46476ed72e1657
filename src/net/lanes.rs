//! Turns at the costly work of requests, in a lane for each domain: a domain whose guests boot all at once delays those of
//! another by its share only. A lane without work leaves its share to the others.
//!
//! Within a lane, turns go round between its parties. Callers who proved that they belong to the domain and callers who
//! only claim it with evidence that is not verified yet alternate, so that false claims take at most half of a lane.

mod claims;
mod order;
mod place;
mod retry;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use kms_attest::identity::DomainName;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::claims::FalseClaims;
use self::order::{Next, Order, Place, Progress};
pub(super) use self::place::Asks;
use super::turns::woken;
use crate::address::bucket;
use crate::api::Caller;
use crate::control::Domains;
use crate::metrics::{LaneState, Metrics, QueueState};

/// What a turn and a request are thought to take before any was measured.
const FIRST_GUESS: Duration = Duration::from_millis(1);
/// The weight of the newest measurement is one part of this.
const SMOOTHING: u32 = 16;

/// Where costly work waits for its turns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Lane {
    /// The work of a domain's callers.
    Domain(DomainName),
    /// The work of callers of whom no domain is known.
    Unproved,
}

impl Lane {
    /// The name in metrics; that of no domain has characters that a domain's cannot have.
    fn label(&self) -> &str {
        match self {
            Self::Domain(name) => name.as_str(),
            Self::Unproved => "(unproved)",
        }
    }
}

/// Why work waits in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Policy has permitted a caller of this lane on the same connection or from the same address.
    Proved,
    /// The caller's evidence says so, which is not verified yet, or it says nothing.
    Claimed,
}

impl Standing {
    fn other(self) -> Self {
        match self {
            Self::Proved => Self::Claimed,
            Self::Claimed => Self::Proved,
        }
    }
}

/// The work was turned away, because too much waits in its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests are waiting at the moment; try again")]
pub(super) struct Shed;

/// Limits how much costly work runs at once, and says whose is next.
#[derive(Debug, Clone)]
pub(super) struct Lanes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    at_once: usize,
    limit: usize,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    order: Order<oneshot::Sender<Told>>,
    false_claims: FalseClaims,
    shed: u64,
    /// How long turns, and how long whole requests, have taken on average.
    turn: Duration,
    request: Duration,
}

#[derive(Debug)]
enum Told {
    Turn(Turn),
    Shed,
}

/// The right to work now. It ends when dropped.
#[derive(Debug)]
struct Turn {
    lanes: Lanes,
    lane: Lane,
    expected: Duration,
    took: Duration,
    /// What the whole request took, if it has ended.
    request_took: Option<Duration>,
    is_over: bool,
}

/// The turns of one request.
#[derive(Debug)]
pub(super) struct Share {
    lanes: Lanes,
    place: Place,
    claim: Option<Claim>,
    /// How many may wait in its lane for it to wait there too.
    limit: usize,
}

/// That a caller belongs to a domain, by evidence that is not verified yet.
#[derive(Debug)]
struct Claim {
    /// Of which domain.
    lane: Lane,
    address: IpAddr,
    caller: Caller,
    domains: Arc<Domains>,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Proved,
    Open,
    False,
}

impl Lanes {
    /// `at_once` turns. At most `limit` requests wait in the only lane, and half as many in each of several.
    pub(super) fn new(at_once: usize, limit: usize, metrics: Arc<Metrics>) -> Self {
        let state = State {
            free: at_once,
            order: Order::default(),
            false_claims: FalseClaims::default(),
            shed: 0,
            turn: FIRST_GUESS,
            request: FIRST_GUESS,
        };
        Self(Arc::new(Shared { at_once, limit, metrics, state: Mutex::new(state) }))
    }

    /// Whether claims of this address to belong to a lane are disregarded, because it proved none of the last.
    fn disregards(&self, address: IpAddr, lane: &Lane) -> bool {
        self.lock().false_claims.holds(bucket(address), lane, Instant::now())
    }

    /// The turns of one request, which has this place because of `claim`, if there is one.
    fn share(&self, place: Place, claim: Option<Claim>) -> Share {
        let limit = self.0.limit.div_ceil(2);
        Share { lanes: self.clone(), place, claim, limit }
    }

    /// Shows how much waits, in all and in each lane.
    pub(super) fn report(&self, name: &'static str) {
        let (queue, lanes) = (Arc::downgrade(&self.0), Arc::downgrade(&self.0));
        self.0.metrics.watch_queue(name, move || {
            let shared = queue.upgrade()?;
            let state = shared.lock();
            Some(QueueState { waiting: state.order.waiting() as u64, limit: None, shed: state.shed })
        });
        self.0.metrics.watch_lanes(move || {
            let shared = lanes.upgrade()?;
            let state = shared.lock();
            let shown = state.order.lanes();
            let shown = shown.map(|(lane, waiting)| LaneState {
                domain: lane.label().to_owned(),
                waiting: waiting as u64,
            });
            Some(shown.collect())
        });
    }

    /// After how many seconds a caller who was turned away should try again, when the queues will be shorter.
    pub(super) fn retry_after(&self) -> u64 {
        let state = self.lock();
        retry::after(state.order.waiting(), state.drains_in(state.order.waiting(), self.0.at_once))
    }

    /// The same for work of one lane, which has a share of the turns only.
    pub(super) fn retry_after_in(&self, lane: &Lane) -> u64 {
        let state = self.lock();
        let waiting = state.order.waiting_in(lane);
        let time = state.drains_in(waiting, self.0.at_once);
        retry::after(waiting, time.saturating_mul(u32::try_from(state.order.busy()).unwrap_or(u32::MAX)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    fn turn(&self, lane: Lane, expected: Duration) -> Turn {
        let (lanes, took) = (self.clone(), Duration::ZERO);
        Turn { lanes, lane, expected, took, request_took: None, is_over: false }
    }

    /// Gives free turns to those who wait.
    fn hand_out(&self, state: &mut State) {
        while state.free > 0 {
            let expected = state.turn;
            let Some(Next { told, lane }) = state.order.next(expected) else { return };
            state.free -= 1;
            let turn = self.turn(lane, expected);
            if let Err(Told::Turn(mut turn)) = told.send(Told::Turn(turn)) {
                // It has just left. Dropping the turn here would wait for the lock that we hold.
                turn.is_over = true;
                state.order.ended(&turn.lane, expected, Duration::ZERO);
                state.free += 1;
            }
        }
    }

    fn settle(&self, place: &Place, claim: &Claim, outcome: Outcome) {
        let address = bucket(claim.address);
        let mut state = self.lock();
        match outcome {
            Outcome::Open => {}
            Outcome::Proved => state.false_claims.proved(address, &claim.lane),
            // It waits there already, and its address is known.
            Outcome::False if place.lane == Lane::Unproved => {}
            Outcome::False => {
                state.false_claims.add(address, &place.lane, Instant::now());
                state.order.move_party(place, &Lane::Unproved);
                self.0.metrics.false_claim();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long this much work takes, if it has all turns.
    fn drains_in(&self, waiting: usize, at_once: usize) -> Duration {
        let at_once = u32::try_from(at_once.max(1)).unwrap_or(u32::MAX);
        self.request.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX)) / at_once
    }
}

fn smoothed(average: Duration, newest: Duration) -> Duration {
    (average * (SMOOTHING - 1) + newest.min(Duration::from_secs(60))) / SMOOTHING
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let lanes = self.lanes.clone();
        let mut state = lanes.lock();
        state.turn = smoothed(state.turn, self.took);
        if let Some(took) = self.request_took {
            state.request = smoothed(state.request, took);
        }
        state.order.ended(&self.lane, self.expected, self.took);
        state.free += 1;
        lanes.hand_out(&mut state);
    }
}

impl Share {
    /// The lane.
    pub(super) fn lane(&self) -> &Lane {
        &self.place.lane
    }

    /// Updates where the work waits: its claim may have turned out false since.
    fn update(&mut self) {
        if let Some(claim) = &self.claim
            && self.place.lane == claim.lane
            && self.lanes.disregards(claim.address, &claim.lane)
        {
            (self.place.lane, self.place.standing) = (Lane::Unproved, Standing::Claimed);
        }
    }

    /// A turn, if one is free now. It does not overtake requests that wait.
    fn turn_at_once(&self) -> Option<Turn> {
        let mut state = self.lanes.lock();
        if state.free == 0 {
            return None;
        }
        // None waits while turns are free.
        state.free -= 1;
        let expected = state.turn;
        state.order.run(&self.place.lane, expected);
        let lane = self.place.lane.clone();
        Some(self.lanes.turn(lane, expected))
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Shed`], which work that has begun never gets.
    fn turn(&self, progress: Progress) -> Pin<Box<dyn Future<Output = Result<Turn, Shed>> + Send + '_>> {
        Box::pin(async move {
            let mut waiting = self.enter(progress)?;
            match (&mut waiting.told).await {
                Ok(Told::Turn(turn)) => Ok(turn),
                Ok(Told::Shed) | Err(_) => Err(Shed),
            }
        })
    }

    fn enter(&self, progress: Progress) -> Result<Waiting<'_>, Shed> {
        let (sender, told) = oneshot::channel();
        let mut state = self.lanes.lock();
        if progress == Progress::New && state.order.waiting_in(&self.place.lane) >= self.limit {
            state.shed += 1;
            self.lanes.0.metrics.shed_in_lane(self.place.lane.label());
            let Some(displaced) = state.order.displace(&self.place) else { return Err(Shed) };
            let _ = displaced.send(Told::Shed);
        }
        let ticket = state.order.enter(&self.place, progress, sender);
        // A turn may have become free since the caller looked.
        self.lanes.hand_out(&mut state);
        Ok(Waiting { share: self, ticket, told })
    }

    /// The request was answered with this status: whether a claim was true shows now.
    pub(super) fn answered(&mut self, status: StatusCode) {
        let Some(claim) = self.claim.take() else { return };
        let outcome = match claim.outcome() {
            // The fault is the caller's, who claimed something and let none of it be verified.
            Outcome::Open if status.is_client_error() && !claim.caller.peer().is_verified() => Outcome::False,
            outcome => outcome,
        };
        self.lanes.settle(&self.place, &claim, outcome);
    }
}

impl Claim {
    fn outcome(&self) -> Outcome {
        let peer = self.caller.peer();
        match peer.admitted_as() {
            Some(app) if self.lane == Lane::Domain(self.domains.of(&app).name.clone()) => Outcome::Proved,
            // Evidence is verified as a whole: what it says of the app holds with it.
            None if peer.is_refused() => Outcome::False,
            // Root keys are asked for by KMSs, whose app may be in any domain.
            Some(_) | None => Outcome::Open,
        }
    }
}

/// Work that waits, until dropped.
#[derive(Debug)]
struct Waiting<'a> {
    share: &'a Share,
    ticket: u64,
    told: oneshot::Receiver<Told>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Self { share: Share { lanes, place, .. }, ticket, told } = self;
        let left = {
            let mut state = lanes.lock();
            let moved = Place { lane: Lane::Unproved, standing: Standing::Claimed, party: place.party };
            state.order.leave(place, *ticket).or_else(|| state.order.leave(&moved, *ticket))
        };
        // It may have been given a turn that it will not use; that goes to the next.
        if left.is_none() {
            drop(told.try_recv());
        }
    }
}

/// Polls `future` only while holding a turn of `share`, so that waiting for something else holds none.
///
/// # Errors
/// [`Shed`]: it was not polled at all.
pub(super) async fn in_lane<F: Future>(share: &mut Share, future: F) -> Result<F::Output, Shed> {
    let mut future = pin!(future);
    let mut work = Unfinished { progress: Progress::New, took: Duration::ZERO, share };
    loop {
        work.share.update();
        let mut turn = match work.share.turn_at_once() {
            Some(turn) => turn,
            // Boxed: most requests find a free turn and need no room for the wait.
            None => {
                let turn = work.share.turn(work.progress).await?;
                // Its claim may have turned out false while it waited.
                work.share.update();
                turn
            }
        };
        work.progress = Progress::Begun;
        let began = Instant::now();
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        turn.took = began.elapsed();
        work.took += turn.took;
        turn.request_took = polled.is_ready().then_some(work.took);
        drop(turn);
        match polled {
            Poll::Ready(output) => {
                work.progress = Progress::New;
                return Ok(output);
            }
            // The future has registered the waker of this task.
            Poll::Pending => woken().await,
        }
    }
}

/// Work that may be dropped before its end: a caller that leaves while its evidence is examined has proved nothing.
struct Unfinished<'a> {
    progress: Progress,
    took: Duration,
    share: &'a mut Share,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.progress == Progress::New {
            return;
        }
        if let Some(claim) = self.share.claim.take() {
            let outcome = match claim.outcome() {
                Outcome::Open if !claim.caller.peer().is_verified() => Outcome::False,
                outcome => outcome,
            };
            self.share.lanes.settle(&self.share.place, &claim, outcome);
        }
    }
}

#[cfg(test)]
mod tests;

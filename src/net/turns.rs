//! Turns at work that costs CPU: as many at once as there are cores. Waiting for I/O needs no turn.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::party::Party;
use crate::metrics::{Metrics, QueueState};

/// Limits how much work runs at once, in total and per party. The work of one party waits in its own queue,
/// so a party with many requests delays one with few by at most one turn.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    of_one: usize,
    parties: Parties,
    waiting: Arc<AtomicUsize>,
}

type Parties = Arc<Mutex<HashMap<Party, Arc<Semaphore>>>>;

/// The turns of one piece of work.
pub(super) struct Share {
    party: Party,
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    parties: Parties,
    waiting: Arc<AtomicUsize>,
}

impl Turns {
    /// `at_once` turns in total, at most `of_one` for one party.
    pub(super) fn new(at_once: usize, of_one: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(at_once)),
            of_one,
            parties: Parties::default(),
            waiting: Arc::default(),
        }
    }

    /// The turns of one piece of work of `party`.
    pub(super) fn share(&self, party: Party) -> Share {
        let mut parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        let own = parties.entry(party).or_insert_with(|| Arc::new(Semaphore::new(self.of_one)));
        let (own, all, parties) = (Arc::clone(own), Arc::clone(&self.all), Arc::clone(&self.parties));
        Share { party, own, all, parties, waiting: Arc::clone(&self.waiting) }
    }

    /// Shows how much work waits for a turn.
    pub(super) fn report_to(&self, metrics: &Metrics, name: &'static str) {
        let waiting = Arc::downgrade(&self.waiting);
        metrics.watch_queue(name, move || {
            let waiting = waiting.upgrade()?.load(Ordering::Relaxed) as u64;
            Some(QueueState { waiting, limit: None, shed: 0 })
        });
    }
}

impl Share {
    /// A turn, if one is free now. It does not overtake requests that wait.
    fn turn_at_once(&self) -> Option<Turn<'_>> {
        let own = self.own.try_acquire().ok()?;
        let all = self.all.try_acquire().ok()?;
        Some(Turn { _own: Some(own), _all: Some(all) })
    }

    /// Waits for a turn, which is returned when dropped.
    fn turn(&self) -> Pin<Box<dyn Future<Output = Turn<'_>> + Send + '_>> {
        // The semaphores are never closed.
        Box::pin(async {
            let _waiting = Waiting::new(&self.waiting);
            Turn { _own: self.own.acquire().await.ok(), _all: self.all.acquire().await.ok() }
        })
    }
}

/// Counts work that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Turn<'a> {
    _own: Option<SemaphorePermit<'a>>,
    _all: Option<SemaphorePermit<'a>>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        // One reference is in the map, one is ours.
        if Arc::strong_count(&self.own) == 2 {
            parties.remove(&self.party);
        }
    }
}

/// Polls `future` only while holding a turn, so that waiting for the network holds none.
pub(super) async fn in_turns<F: Future>(share: &Share, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let turn = match share.turn_at_once() {
            Some(turn) => turn,
            // Boxed: most requests find a free turn and need no room for the wait.
            None => share.turn().await,
        };
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        drop(turn);
        match polled {
            Poll::Ready(output) => return output,
            // The future has registered the waker of this task.
            Poll::Pending => woken().await,
        }
    }
}

/// Resolves when the task is woken next.
pub(super) async fn woken() {
    let mut is_first = true;
    poll_fn(|_| match std::mem::replace(&mut is_first, false) {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(last: u8) -> Party {
        Party::Address([192, 0, 2, last].into())
    }

    #[tokio::test]
    async fn an_address_has_its_share_of_the_turns_and_leaves_the_rest_to_others() {
        let turns = Turns::new(2, 1);
        let (many, few) = (turns.share(party(1)), turns.share(party(2)));
        let held = many.turn().await;
        let mut second = many.turn();
        assert!(poll_fn(|context| Poll::Ready(second.as_mut().poll(context))).await.is_pending());
        let other = few.turn().await;
        drop(held);
        drop(second.await);
        drop(other);
        drop((many, few));
        assert!(turns.parties.lock().expect("lock").is_empty(), "nothing is kept of those who left");
    }

    #[tokio::test]
    async fn one_who_has_all_the_turns_delays_another_by_one() {
        let turns = Turns::new(2, 2);
        let (many, few) = (turns.share(party(1)), turns.share(party(2)));
        let held = [many.turn().await, many.turn().await];
        let mut waiting: Vec<_> = (0..10).map(|_| many.turn()).collect();
        for turn in &mut waiting {
            assert!(poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await.is_pending());
        }
        let mut other = few.turn();
        assert!(poll_fn(|context| Poll::Ready(other.as_mut().poll(context))).await.is_pending());
        let [first, second] = held;
        drop(first);
        assert!(many.turn_at_once().is_none(), "it would overtake requests that wait");
        drop(other.await);
        drop(second);
    }

    #[tokio::test]
    async fn one_who_waits_for_something_else_has_no_turn() {
        let turns = Turns::new(1, 1);
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let share = turns.share(party(1));
        let waits = tokio::spawn(async move { in_turns(&share, receiver).await });
        tokio::task::yield_now().await;
        assert_eq!(in_turns(&turns.share(party(1)), async { 7 }).await, 7);
        sender.send(()).expect("it waits");
        waits.await.expect("no panic").expect("told");
    }
}

//! Two turns at a time, and a short queue: callers that have logged in before go first, and push out others
//! when it is full.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How many passwords are hashed at a time, which bounds the CPU that a flood of them takes.
pub(super) const MAX_RUNNING: usize = 2;
pub(super) const MAX_WAITING: usize = 64;

/// The position in the queue; the smallest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Whether nobody has logged in from the address.
    pub(super) is_stranger: bool,
    /// How many recent failures the address has.
    pub(super) failures: u32,
}

#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// Increases with each arrival.
    sequence: u64,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    place: Place,
    address: IpAddr,
    turn: oneshot::Sender<Turn>,
}

/// The rank, how many of the same address already wait, and the time of arrival.
type Place = (Rank, usize, u64);

/// The right to hash one password; passed on when dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Queue>>);

impl Queue {
    /// Waits for a turn; `None` if others with a better rank have filled the queue.
    pub(super) async fn turn(self: &Arc<Self>, address: IpAddr, rank: Rank) -> Option<Turn> {
        let receiver = {
            let mut state = self.state();
            if state.running < MAX_RUNNING {
                state.running += 1;
                return Some(Turn(Some(Arc::clone(self))));
            }
            // Callers that have left give up their place.
            state.waiting.retain(|waiting| !waiting.turn.is_closed());
            state.sequence += 1;
            let alike = state.waiting.iter().filter(|waiting| waiting.address == address).count();
            let place = (rank, alike, state.sequence);
            if state.waiting.len() >= MAX_WAITING {
                let last = state.waiting.iter().enumerate().max_by_key(|(_, waiting)| waiting.place)?;
                if last.1.place < place {
                    return None;
                }
                let last = last.0;
                state.waiting.swap_remove(last);
            }
            let (turn, receiver) = oneshot::channel();
            state.waiting.push(Waiting { place, address, turn });
            receiver
        };
        receiver.await.ok()
    }

    /// How many passwords wait now.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.iter().filter(|waiting| !waiting.turn.is_closed()).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first in the queue. Without one, the turn becomes free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = self.state();
        match state
            .waiting
            .iter()
            .enumerate()
            .min_by_key(|(_, waiting)| waiting.place)
            .map(|(index, _)| index)
        {
            Some(index) => Some(state.waiting.swap_remove(index).turn),
            None => {
                state.running -= 1;
                None
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        while let Some(next) = queue.next() {
            match next.send(Self(Some(Arc::clone(&queue)))) {
                Ok(()) => return,
                // The caller has left, so the turn goes to the next.
                Err(mut unwanted) => unwanted.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const STRANGER: Rank = Rank { is_stranger: true, failures: 0 };
    const KNOWN: Rank = Rank { is_stranger: false, failures: 0 };

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    async fn waits(queue: &Arc<Queue>, last: u8, rank: Rank) -> JoinHandle<Option<Turn>> {
        let sequence = queue.state().sequence;
        let queue_of_task = Arc::clone(queue);
        let task = tokio::spawn(async move { queue_of_task.turn(address(last), rank).await });
        while !task.is_finished() && queue.state().sequence == sequence {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        task
    }

    async fn turn(task: JoinHandle<Option<Turn>>) -> Option<Turn> {
        timeout(Duration::from_secs(5), task).await.expect("an end").expect("no panic")
    }

    #[tokio::test]
    async fn two_run_and_the_next_best_follows() {
        let queue = Arc::<Queue>::default();
        let (first, second) =
            (queue.turn(address(1), STRANGER).await.expect("one"), queue.turn(address(1), STRANGER).await);
        let flood = waits(&queue, 1, STRANGER).await;
        let more = waits(&queue, 1, STRANGER).await;
        let failing = waits(&queue, 2, Rank { failures: 3, ..STRANGER }).await;
        let elsewhere = waits(&queue, 3, STRANGER).await;
        let known = waits(&queue, 4, KNOWN).await;
        assert_eq!(queue.state().running, MAX_RUNNING);
        drop(first);
        let known = turn(known).await.expect("known addresses first");
        drop(known);
        let flood = turn(flood).await.expect("then who came first of those alike");
        drop(flood);
        let elsewhere = turn(elsewhere).await.expect("another address before the same one again");
        drop(elsewhere);
        drop(turn(more).await.expect("then that one"));
        drop(turn(failing).await.expect("who fails is last"));
        drop(second);
        assert_eq!(queue.state().running, 0);
        assert!(queue.state().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_full_queue_refuses_whoever_is_worst() {
        let queue = Arc::<Queue>::default();
        let running = [queue.turn(address(1), STRANGER).await, queue.turn(address(1), STRANGER).await];
        let mut flood = Vec::new();
        for _ in 0..MAX_WAITING {
            flood.push(waits(&queue, 1, STRANGER).await);
        }
        assert!(turn(waits(&queue, 1, STRANGER).await).await.is_none(), "it is worse than all who wait");
        let operator = waits(&queue, 2, STRANGER).await;
        let pushed_out = flood.pop().expect("the last");
        assert!(turn(pushed_out).await.is_none(), "the last of the flood gives way");
        drop(running);
        assert!(turn(operator).await.is_some());
        for task in flood {
            assert!(turn(task).await.is_some());
        }
        assert_eq!(queue.state().running, 0);
    }

    #[tokio::test]
    async fn who_has_gone_holds_up_nobody() {
        let queue = Arc::<Queue>::default();
        let running = [queue.turn(address(1), STRANGER).await, queue.turn(address(1), STRANGER).await];
        for _ in 0..8 {
            let gone = waits(&queue, 1, KNOWN).await;
            gone.abort();
            assert!(gone.await.is_err());
        }
        let here = waits(&queue, 2, STRANGER).await;
        drop(running);
        assert!(turn(here).await.is_some());
        assert_eq!(queue.state().running, 0);
        assert!(queue.state().waiting.is_empty());
    }
}

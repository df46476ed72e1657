//! How many questions are asked at once, how many wait for their turn, and how many of them may be about the same.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::Subject;

/// What a question is about. Whoever makes the questions about one thing hang does not take the turns of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FairnessKey {
    /// One app, by the hash of its id.
    App([u8; 32]),
    /// Any KMS that asks for keys: what would tell them apart is theirs to choose.
    Kms,
    /// This KMS, without whose self-authorization nobody has keys: no stranger's questions are in its way.
    Own,
    /// The backend itself.
    Backend,
}

impl FairnessKey {
    pub(super) fn of(subject: Subject<'_>) -> Self {
        match subject {
            Subject::App(boot_info) => Self::App(Sha256::digest(&boot_info.app_id).into()),
            Subject::Kms(_) => Self::Kms,
        }
    }
}

/// How much room there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConcurrencyLimits {
    /// Questions at once.
    pub(super) turns: usize,
    /// Questions that wait, beyond those.
    pub(super) waiting: usize,
    /// Of `turns`, what one topic can have.
    pub(super) turns_each: usize,
    /// Of `waiting`, what one topic can have.
    pub(super) waiting_each: usize,
    /// How long each waits at most.
    pub(super) queue_timeout: Duration,
}

/// Turns, and places to wait for one.
#[derive(Debug)]
pub(super) struct Queue {
    room: ConcurrencyLimits,
    places: Semaphore,
    turns: Semaphore,
    /// Topics with a question here, so never more than there are places.
    shares: Mutex<HashMap<FairnessKey, Share>>,
}

/// What one topic has of a queue.
#[derive(Debug)]
struct Share {
    questions: usize,
    turns: Arc<Semaphore>,
}

/// A question's turn; dropping it gives it to the next.
pub(super) struct SlotPermit<'a> {
    _turn: SemaphorePermit<'a>,
    _own: OwnedSemaphorePermit,
    _seat: Slot<'a>,
    _place: SemaphorePermit<'a>,
}

/// A question's place in the share of its topic.
struct Slot<'a> {
    queue: &'a Queue,
    topic: FairnessKey,
    turns: Arc<Semaphore>,
}

/// There are too many questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shed;

impl Queue {
    /// A queue in which nobody waits.
    pub(super) fn new(room: ConcurrencyLimits) -> Self {
        Self {
            room,
            places: Semaphore::new(room.turns + room.waiting),
            turns: Semaphore::new(room.turns),
            shares: Mutex::default(),
        }
    }

    /// A turn, as soon as there is one.
    pub(super) async fn turn(&self, topic: FairnessKey) -> Result<SlotPermit<'_>, Shed> {
        let place = self.places.try_acquire().map_err(|_| Shed)?;
        let seat = self.seat(topic)?;
        // First of the topic's own: what waits for that takes nobody's turn.
        let turns = async {
            let own = Arc::clone(&seat.turns).acquire_owned().await?;
            Ok::<_, AcquireError>((own, self.turns.acquire().await?))
        };
        let turns = tokio::time::timeout(self.room.queue_timeout, turns).await;
        // No semaphore here is ever closed.
        let (own, turn) = turns.map_err(|_| Shed)?.map_err(|_| Shed)?;
        Ok(SlotPermit { _turn: turn, _own: own, _seat: seat, _place: place })
    }

    fn seat(&self, topic: FairnessKey) -> Result<Slot<'_>, Shed> {
        let ConcurrencyLimits { turns_each, waiting_each, .. } = self.room;
        let mut shares = self.shares();
        let new = || Share { questions: 0, turns: Arc::new(Semaphore::new(turns_each)) };
        let share = shares.entry(topic).or_insert_with(new);
        if share.questions >= turns_each + waiting_each {
            return Err(Shed);
        }
        share.questions += 1;
        Ok(Slot { queue: self, topic, turns: Arc::clone(&share.turns) })
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<FairnessKey, Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut shares = self.queue.shares();
        if let Entry::Occupied(mut share) = shares.entry(self.topic) {
            share.get_mut().questions -= 1;
            if share.get().questions == 0 {
                share.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const QUEUE_TIMEOUT: Duration = Duration::from_millis(200);

    const ROOM: ConcurrencyLimits = ConcurrencyLimits {
        turns: 2,
        waiting: 1,
        turns_each: 2,
        waiting_each: 1,
        queue_timeout: QUEUE_TIMEOUT,
    };

    const FIRST: FairnessKey = FairnessKey::App([1; 32]);
    const SECOND: FairnessKey = FairnessKey::App([2; 32]);

    #[tokio::test]
    async fn one_too_many_is_shed_at_once_and_who_waits_too_long_later() {
        let queue = Queue::new(ROOM);
        let first = queue.turn(FIRST).await;
        let second = queue.turn(FIRST).await;
        assert!(first.is_ok() && second.is_ok());
        let started = Instant::now();
        let (third, fourth) = tokio::join!(queue.turn(SECOND), async {
            (queue.turn(FairnessKey::Kms).await.err(), Instant::now())
        });
        assert_eq!(third.err(), Some(Shed));
        assert_eq!(fourth.0, Some(Shed));
        assert!(started.elapsed() >= QUEUE_TIMEOUT && fourth.1.duration_since(started) < QUEUE_TIMEOUT);
        drop(first);
        assert!(queue.turn(SECOND).await.is_ok());
    }

    #[tokio::test]
    async fn a_turn_passes_on() {
        let queue =
            Queue::new(ConcurrencyLimits { turns: 1, queue_timeout: Duration::from_secs(60), ..ROOM });
        let first = queue.turn(FIRST).await.ok();
        let (second, ()) = tokio::join!(queue.turn(SECOND), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn one_topic_has_its_share_and_no_more() {
        let queue = Queue::new(ConcurrencyLimits { turns: 4, waiting: 100, ..ROOM });
        let (first, second) = (queue.turn(FIRST).await, queue.turn(FIRST).await);
        assert!(first.is_ok() && second.is_ok());
        let (third, fourth, others) = tokio::join!(queue.turn(FIRST), queue.turn(FIRST), async {
            (queue.turn(SECOND).await.is_ok(), queue.turn(FairnessKey::Kms).await.is_ok(), Instant::now())
        });
        assert_eq!((third.err(), fourth.err()), (Some(Shed), Some(Shed)), "two turns, and one place to wait");
        assert!(
            others.0 && others.1 && others.2.elapsed() >= QUEUE_TIMEOUT / 2,
            "the others had theirs at once"
        );
        drop(first);
        assert!(queue.turn(FIRST).await.is_ok());
    }

    #[tokio::test]
    async fn nothing_is_kept_about_a_topic_without_questions() {
        let queue = Queue::new(ROOM);
        for number in 0..100 {
            let turn = queue.turn(FairnessKey::App([number; 32])).await;
            assert!(turn.is_ok());
            assert_eq!(queue.shares().len(), 1);
        }
        let turns = (queue.turn(FIRST).await.ok(), queue.turn(FIRST).await.ok());
        // Gives up, or is shed: nothing of it stays either.
        let given_up = tokio::time::timeout(QUEUE_TIMEOUT / 4, queue.turn(SECOND)).await;
        assert!(given_up.is_err());
        assert_eq!(queue.turn(SECOND).await.err(), Some(Shed));
        assert_eq!(queue.shares().len(), 1);
        drop(turns);
        assert!(queue.shares().is_empty());
    }

    #[test]
    fn a_topic_is_an_app_or_all_kms() {
        let one = crate::policy::testing::boot_info();
        let mut other = one.clone();
        other.instance_id = vec![9; 20];
        assert_eq!(FairnessKey::of(Subject::App(&one)), FairnessKey::of(Subject::App(&other)));
        other.app_id = vec![9; 20];
        assert_ne!(FairnessKey::of(Subject::App(&one)), FairnessKey::of(Subject::App(&other)));
        assert_eq!(FairnessKey::of(Subject::Kms(&one)), FairnessKey::of(Subject::Kms(&other)));
    }
}

//! Limits the requests to a backend: how many are in flight, how many wait, and how many are for the same
//! caller.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::decision::Subject;

/// What a request is about. Slow requests for one key leave slots free for all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FairnessKey {
    /// An app, by the hash of its id.
    App([u8; 32]),
    /// All other KMSs together: a KMS chooses every value that could tell it from another one.
    Kms,
    /// This KMS. Without its self-authorization no key is released, so requests about others must not delay
    /// it.
    Own,
    /// The backend itself.
    Backend,
}

impl FairnessKey {
    pub(crate) fn of(subject: Subject<'_>) -> Self {
        match subject {
            Subject::App(boot_info) => Self::App(Sha256::digest(&boot_info.app_id).into()),
            Subject::Kms(_) => Self::Kms,
        }
    }
}

/// Limits of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConcurrencyLimits {
    /// Requests in flight.
    pub(crate) slots: usize,
    /// Requests that wait for a slot.
    pub(crate) queued: usize,
    /// The part of `slots` that one key can use.
    pub(crate) slots_each: usize,
    /// The part of `queued` that one key can use.
    pub(crate) queued_each: usize,
    /// The longest wait for a slot.
    pub(crate) queue_timeout: Duration,
}

/// Slots for requests, and a queue for them.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: ConcurrencyLimits,
    places: Semaphore,
    slots: Semaphore,
    /// The keys that have a request here; never more than there are places.
    shares: Mutex<HashMap<FairnessKey, Share>>,
}

/// The part of a queue that one key uses.
#[derive(Debug)]
struct Share {
    requests: usize,
    slots: Arc<Semaphore>,
}

/// The right to send one request; dropping it frees the slot.
pub(crate) struct SlotPermit<'a> {
    _slot: SemaphorePermit<'a>,
    _own: OwnedSemaphorePermit,
    _member: Member<'a>,
    _place: SemaphorePermit<'a>,
}

/// The place of a request in the share of its key.
struct Member<'a> {
    queue: &'a Queue,
    key: FairnessKey,
    slots: Arc<Semaphore>,
}

/// The request was shed: there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shed;

impl Queue {
    /// An empty queue.
    pub(crate) fn new(limits: ConcurrencyLimits) -> Self {
        Self {
            limits,
            places: Semaphore::new(limits.slots + limits.queued),
            slots: Semaphore::new(limits.slots),
            shares: Mutex::default(),
        }
    }

    /// A slot, as soon as one is free.
    pub(crate) async fn slot(&self, key: FairnessKey) -> Result<SlotPermit<'_>, Shed> {
        let place = self.places.try_acquire().map_err(|_| Shed)?;
        let member = self.member(key)?;
        // The slot of the key's share comes first: a request that waits for it occupies no common slot.
        let slots = async {
            let own = Arc::clone(&member.slots).acquire_owned().await?;
            Ok::<_, AcquireError>((own, self.slots.acquire().await?))
        };
        let slots = tokio::time::timeout(self.limits.queue_timeout, slots).await;
        // These semaphores are never closed.
        let (own, slot) = slots.map_err(|_| Shed)?.map_err(|_| Shed)?;
        Ok(SlotPermit { _slot: slot, _own: own, _member: member, _place: place })
    }

    fn member(&self, key: FairnessKey) -> Result<Member<'_>, Shed> {
        let ConcurrencyLimits { slots_each, queued_each, .. } = self.limits;
        let mut shares = self.shares();
        let new = || Share { requests: 0, slots: Arc::new(Semaphore::new(slots_each)) };
        let share = shares.entry(key).or_insert_with(new);
        if share.requests >= slots_each + queued_each {
            return Err(Shed);
        }
        share.requests += 1;
        Ok(Member { queue: self, key, slots: Arc::clone(&share.slots) })
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<FairnessKey, Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let mut shares = self.queue.shares();
        if let Entry::Occupied(mut share) = shares.entry(self.key) {
            share.get_mut().requests -= 1;
            if share.get().requests == 0 {
                share.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use kms_attest::identity::BootInfo;

    use super::*;

    const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

    const LIMITS: ConcurrencyLimits = ConcurrencyLimits {
        slots: 2,
        queued: 1,
        slots_each: 2,
        queued_each: 1,
        queue_timeout: QUEUE_TIMEOUT,
    };

    const FIRST: FairnessKey = FairnessKey::App([1; 32]);
    const SECOND: FairnessKey = FairnessKey::App([2; 32]);

    #[tokio::test]
    async fn a_request_beyond_the_queue_is_shed_at_once_and_a_waiting_one_after_the_timeout() {
        let queue = Queue::new(LIMITS);
        let first = queue.slot(FIRST).await;
        let second = queue.slot(FIRST).await;
        assert!(first.is_ok() && second.is_ok());
        let started = Instant::now();
        let (third, fourth) = tokio::join!(queue.slot(SECOND), async {
            (queue.slot(FairnessKey::Kms).await.err(), Instant::now())
        });
        assert_eq!(third.err(), Some(Shed));
        assert_eq!(fourth.0, Some(Shed));
        assert!(started.elapsed() >= QUEUE_TIMEOUT && fourth.1.duration_since(started) < QUEUE_TIMEOUT);
        drop(first);
        assert!(queue.slot(SECOND).await.is_ok());
    }

    #[tokio::test]
    async fn a_slot_passes_on() {
        let queue =
            Queue::new(ConcurrencyLimits { slots: 1, queue_timeout: Duration::from_secs(60), ..LIMITS });
        let first = queue.slot(FIRST).await.ok();
        let (second, ()) = tokio::join!(queue.slot(SECOND), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn one_key_has_its_share_and_no_more() {
        let queue = Queue::new(ConcurrencyLimits { slots: 4, queued: 100, ..LIMITS });
        let (first, second) = (queue.slot(FIRST).await, queue.slot(FIRST).await);
        assert!(first.is_ok() && second.is_ok());
        let (third, fourth, others) = tokio::join!(queue.slot(FIRST), queue.slot(FIRST), async {
            (queue.slot(SECOND).await.is_ok(), queue.slot(FairnessKey::Kms).await.is_ok(), Instant::now())
        });
        assert_eq!(
            (third.err(), fourth.err()),
            (Some(Shed), Some(Shed)),
            "two slots, and one place in the queue"
        );
        assert!(
            others.0 && others.1 && others.2.elapsed() >= QUEUE_TIMEOUT / 2,
            "the others had theirs at once"
        );
        drop(first);
        assert!(queue.slot(FIRST).await.is_ok());
    }

    #[tokio::test]
    async fn nothing_is_kept_about_a_key_without_requests() {
        let queue = Queue::new(LIMITS);
        for number in 0..100 {
            let slot = queue.slot(FairnessKey::App([number; 32])).await;
            assert!(slot.is_ok());
            assert_eq!(queue.shares().len(), 1);
        }
        let slots = (queue.slot(FIRST).await.ok(), queue.slot(FIRST).await.ok());
        // Nothing remains of requests that are cancelled or shed.
        let given_up = tokio::time::timeout(QUEUE_TIMEOUT / 4, queue.slot(SECOND)).await;
        assert!(given_up.is_err());
        assert_eq!(queue.slot(SECOND).await.err(), Some(Shed));
        assert_eq!(queue.shares().len(), 1);
        drop(slots);
        assert!(queue.shares().is_empty());
    }

    #[test]
    fn a_key_is_an_app_or_all_kms() {
        let one = BootInfo::example();
        let mut other = one.clone();
        other.instance_id = vec![9; 20];
        assert_eq!(FairnessKey::of(Subject::App(&one)), FairnessKey::of(Subject::App(&other)));
        other.app_id = vec![9; 20];
        assert_ne!(FairnessKey::of(Subject::App(&one)), FairnessKey::of(Subject::App(&other)));
        assert_eq!(FairnessKey::of(Subject::Kms(&one)), FairnessKey::of(Subject::Kms(&other)));
    }
}

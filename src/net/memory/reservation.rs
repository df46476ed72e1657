//! The memory of one request, until its answer was sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use tokio::time::Instant;

use super::class::{Arrival, Class};
use super::{ANSWER, BUFFER, DECODED, Exhausted, PROGRESS, REQUEST, RequestMemory, Signal};

/// The memory of one request, released when dropped.
#[derive(Debug)]
pub(in super::super) struct Reservation {
    pub(super) memory: Arc<RequestMemory>,
    pub(super) number: usize,
    pub(super) arrival: Arrival,
    pub(super) signal: Arc<Signal>,
}

impl Reservation {
    /// Takes what receiving `body` bytes more needs.
    ///
    /// # Errors
    /// [`Exhausted`]; what is already held stays held.
    pub(in super::super) fn receive(&self, body: usize) -> Result<(), Exhausted> {
        self.grow(body.saturating_mul(BUFFER), body, Instant::now())
    }

    /// The body has been received: from now on the caller waits for us.
    pub(in super::super) fn received(&self) {
        if self.arrival == Arrival::Head {
            self.memory.lock().wait(self.number, None);
        }
    }

    /// Whether memory was denied or taken back.
    pub(in super::super) fn was_refused(&self) -> bool {
        self.signal.was_refused.load(Ordering::Relaxed)
    }

    /// Whether the request was cancelled for others. If not, `waker` is woken when it is.
    pub(in super::super) fn is_given_up(&self, waker: &Waker) -> bool {
        self.signal.body.register(waker);
        self.signal.is_given_up.load(Ordering::Relaxed)
    }

    /// The caller has shown an operator's credentials.
    pub(in super::super) fn belongs_to_operator(&self) {
        self.memory.lock().becomes(self.number, Class::Operator);
    }

    pub(super) fn grow(&self, bytes: usize, fresh: usize, now: Instant) -> Result<(), Exhausted> {
        let mut held = self.memory.lock();
        held.take(self.number, bytes, self.memory.total, now)?;
        if let Some(request) = held.requests.get_mut(self.number) {
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
    pub(in super::super) fn decode(&self, body: usize) -> Result<(), Exhausted> {
        self.grow(body.saturating_mul(DECODED), 0, Instant::now())
    }

    /// The request is done: from now on its response is held until it is read. This never fails, because the
    /// work is already done.
    pub(in super::super) fn answered(&self, length: Option<u64>, now: Instant) {
        let answer = length.map_or(ANSWER, |length| usize::try_from(length).unwrap_or(usize::MAX));
        let mut held = self.memory.lock();
        if let Some(request) = held.requests.get_mut(self.number) {
            request.is_answered = true;
        }
        held.settle(self.number, REQUEST.saturating_add(answer));
        held.wait(self.number, Some(now));
    }

    /// Notes that part of the response was read, and more follows.
    pub(in super::super) fn read_on(&self) {
        self.memory.lock().wait(self.number, Some(Instant::now()));
    }

    /// Notes that nothing more of the response exists for now: it waits for an event, and is cancelled only when others
    /// need the memory.
    pub(in super::super) fn rests(&self) {
        let mut held = self.memory.lock();
        held.wait(self.number, Some(Instant::now()));
        if let Some(request) = held.requests.get_mut(self.number) {
            request.rests = true;
        }
    }

    #[cfg(test)]
    pub(in super::super) fn give_up(&self) {
        self.memory.lock().give_up(self.number);
    }

    /// Whether the response has begun.
    pub(in super::super) fn is_answered(&self) -> bool {
        self.memory.lock().requests.get(self.number).is_none_or(|request| request.is_answered)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.memory.lock();
        held.wait(self.number, None);
        held.settle(self.number, 0);
        if let Some(request) = held.requests.try_remove(self.number) {
            held.leave(request.share);
        }
    }
}

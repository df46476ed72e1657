//! How operators read the event log, and report events into it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Caller;
use crate::clock::unix_now;
use crate::error::{Code, Error, Result};
use crate::events::{
    Ask, Events, Index, Live, Message, MessageError, Next, Order, Page, Query, ReportError, Reports,
    Subscription, frame,
};

/// Concurrent queries of the index; further ones wait.
const QUESTIONS: usize = 4;
/// Concurrent streams.
pub const MAX_STREAMS: usize = 1024;
/// How many events a stream reads from the index at a time.
const STEP: usize = 64;

/// The event log for operators.
#[derive(Debug)]
pub struct EventService {
    events: Arc<Events>,
    reports: Arc<Reports>,
    questions: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl EventService {
    /// The service over the events of one log.
    pub fn new(events: Arc<Events>, reports: Arc<Reports>) -> Self {
        let [questions, streams] = [QUESTIONS, MAX_STREAMS].map(|count| Arc::new(Semaphore::new(count)));
        Self { events, reports, questions, streams }
    }

    /// The number of the newest event.
    pub fn newest(&self) -> u64 {
        self.events.live().newest()
    }

    /// The newest events that match, in ascending order.
    ///
    /// # Errors
    /// The index is not available.
    pub async fn page(&self, query: &Query) -> Result<Page> {
        let Query { filter, since, until, cursor, .. } = query.clone();
        let limit = query.limit();
        self.ask(move |index| {
            let (since, until) = (since.unwrap_or(0), until.unwrap_or(u64::MAX));
            let order = Order::Newest;
            index.page(&Ask { filter: &filter, since, until, beyond: cursor, order, limit })
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Index) -> std::result::Result<T, crate::events::IndexError> + Send + 'static,
    ) -> Result<T> {
        let unavailable = "the index of events is not available: the audit log has them; try again later";
        let turn = Arc::clone(&self.questions).acquire_owned().await;
        let events = Arc::clone(&self.events);
        let answer = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            events.ask(question)
        });
        match answer.await {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(error))) => Err(Error::unavailable(unavailable, error)),
            Ok(None) => Err(Error::new(Code::Unavailable, unavailable)),
            Err(error) => Err(Error::internal("internal error", error)),
        }
    }

    /// Records an event that an operator reports; returns its number.
    ///
    /// # Errors
    /// A message that is empty, too long or not UTF-8; too many messages; an audit log that cannot be
    /// written.
    pub async fn report(&self, caller: &Caller, message: &[u8]) -> Result<u64> {
        let message = Message::read(message).map_err(|error| match error {
            MessageError::TooLong => Error::new(Code::TooLarge, error.to_string()),
            MessageError::Empty | MessageError::NotText => Error::invalid(error.to_string()),
        })?;
        let author = caller.author();
        self.reports.of_operator(message, author.by, author.remote).await.map_err(|error| match error {
            ReportError::TooMany => Error::new(Code::TooManyRequests, error.to_string()),
            ReportError::Audit(cause) => {
                Error::unavailable("the audit log does not take the event; try again", cause)
            }
        })
    }

    /// A stream of the events after number `after`, or of future events. It ends after `limit` events.
    ///
    /// # Errors
    /// Too many streams.
    pub fn stream(self: &Arc<Self>, query: Query, after: Option<u64>) -> Result<Stream> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Error::new(Code::Unavailable, "too many streams of events are open; try again later")
        })?;
        let live: &Arc<Live> = self.events.live();
        let subscription = live.subscribe(query.filter, after);
        Ok(Stream { service: Arc::clone(self), subscription, left: query.limit, _permit: permit })
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Stream {
    service: Arc<EventService>,
    subscription: Subscription,
    left: Option<usize>,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    /// Waits for the next events, already encoded; `None` at the end.
    pub async fn next(&mut self) -> Option<Vec<bytes::Bytes>> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            let limit = self.left.map_or(STEP, |left| left.min(STEP));
            let frames = match self.subscription.next(limit) {
                Next::Frames(frames) => frames,
                Next::Behind => self.missed(limit).await,
            };
            if !frames.is_empty() {
                self.left = self.left.map(|left| left.saturating_sub(frames.len()));
                return Some(frames);
            }
            if !self.subscription.changed().await {
                return None;
            }
        }
    }

    /// The events that it has missed. Without an index the stream continues with the newest ones.
    async fn missed(&mut self, limit: usize) -> Vec<bytes::Bytes> {
        let (filter, place) = (self.subscription.filter().clone(), self.subscription.place());
        // Before the question: what is published meanwhile is ready, or missed again.
        let last_unready = self.subscription.last_unready();
        let page = self.service.ask(move |index| {
            let (since, until, order) = (0, u64::MAX, Order::Oldest);
            index.page(&Ask { filter: &filter, since, until, beyond: Some(place), order, limit })
        });
        let page = page.await.unwrap_or_default();
        // At its end the index may have had some that are ready too.
        let sent = page.records.last().map_or(0, |record| record.seq);
        self.subscription.skip_to(page.next.unwrap_or(last_unready.max(sent)));
        page.records.iter().map(frame).collect()
    }
}

/// The reference time for relative times in a query, in milliseconds since 1970.
pub fn now() -> u64 {
    unix_now().saturating_mul(1000)
}

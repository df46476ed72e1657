//! How operators read the event log, and report events into it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Caller;
use crate::clock::unix_now;
use crate::control::Domains;
use crate::error::{Code, Error, Result};
use crate::events::{
    Ask, Events, Gap, Index, Live, Message, MessageError, Next, Order, Page, Query, Reach, ReportError,
    Reports, Stretch, Subscription, frame, waiting,
};

/// Concurrent queries of the index; further ones wait.
const QUERIES: usize = 4;
/// Concurrent reads of the index for streams. They do not wait for queries, nor queries for them.
const CATCH_UPS: usize = 2;
/// Concurrent streams.
pub const MAX_STREAMS: usize = 1024;
/// How many events a stream reads from the index at a time.
const STEP: usize = 64;
/// How often a stream checks for what is not available yet.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How often it is looked whether the inventory counts what was recorded.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a stream waits for a missing index. For one that is being built it waits without a limit.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The event log for operators.
#[derive(Debug)]
pub struct EventService {
    events: Arc<Events>,
    reports: Arc<Reports>,
    domains: Arc<Domains>,
    queries: Arc<Semaphore>,
    catch_ups: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl EventService {
    /// The service over the events of one log, of a KMS with these domains.
    pub fn new(events: Arc<Events>, reports: Arc<Reports>, domains: Arc<Domains>) -> Self {
        let [queries, catch_ups, streams] =
            [QUERIES, CATCH_UPS, MAX_STREAMS].map(|count| Arc::new(Semaphore::new(count)));
        Self { events, reports, domains, queries, catch_ups, streams }
    }

    /// The number of the newest event.
    pub fn newest(&self) -> u64 {
        self.events.live().newest()
    }

    /// The number of the newest record of the log, which the index may not have yet.
    pub fn acknowledged(&self) -> u64 {
        self.events.acknowledged()
    }

    /// The newest events that match, in ascending order, as `render` writes them.
    ///
    /// # Errors
    /// The index is not available.
    pub async fn page<T: Send + 'static>(
        &self,
        query: &Query,
        render: impl FnOnce(Page, Reach) -> T + Send + 'static,
    ) -> Result<T> {
        let Query { filter, since, until, cursor, .. } = query.clone();
        let limit = query.limit();
        self.ask(&self.queries, move |index| {
            let (since, until) = (since.unwrap_or(0), until.unwrap_or(u64::MAX));
            let order = Order::Newest;
            let ask = Ask { filter: &filter, since, until, beyond: cursor, order, limit };
            let (mut page, reach) = index.page_and_reach(&ask)?;
            for record in &mut page.records {
                if let Cow::Owned(shown) = filter.shown(record) {
                    *record = shown;
                }
            }
            Ok(render(page, reach))
        })
        .await
    }

    /// Asks the index, on a thread that may block.
    ///
    /// # Errors
    /// The index is not available.
    pub(super) async fn ask_index<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Index) -> std::result::Result<T, crate::events::IndexError> + Send + 'static,
    ) -> Result<T> {
        self.ask(&self.queries, question).await
    }

    /// Waits, for this long at most, until the inventory counts every record that is acknowledged now. Whether it does then.
    ///
    /// # Errors
    /// The index is not available.
    pub(super) async fn inventory_reaches_now(&self, patience: Duration) -> Result<bool> {
        let (newest, began) = (self.acknowledged(), Instant::now());
        loop {
            let through = self.ask_index(|index| Ok(index.inventory()?.coverage()?.through)).await?;
            if through >= newest || began.elapsed() >= patience {
                return Ok(through >= newest);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        question: impl FnOnce(&Index) -> std::result::Result<T, crate::events::IndexError> + Send + 'static,
    ) -> Result<T> {
        let unavailable = "the index of events is not available: the audit log has them; try again later";
        let turn = Arc::clone(turns).acquire_owned().await;
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
        let domain = caller.scope()?.limit();
        self.reports.of_operator(message, domain, author.by, author.remote).await.map_err(|error| match error
        {
            ReportError::TooMany => Error::new(Code::TooManyRequests, error.to_string()),
            ReportError::Audit(cause) => {
                Error::unavailable("the audit log does not take the event; try again", cause)
            }
        })
    }

    /// A stream of the events that match after number `after`, or of future events. It ends after `limit` events.
    ///
    /// # Errors
    /// Too many streams.
    pub fn stream(self: &Arc<Self>, query: Query, after: Option<u64>) -> Result<Stream> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Error::new(Code::Unavailable, "too many streams of events are open; try again later")
        })?;
        let live: &Arc<Live> = self.events.live();
        let subscription = live.subscribe(query.filter, after);
        let (service, left) = (Arc::clone(self), query.limit);
        Ok(Stream { service, subscription, left, waits: None, _permit: permit })
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Stream {
    service: Arc<EventService>,
    subscription: Subscription,
    left: Option<usize>,
    /// Since when it waits for events that are not available yet.
    waits: Option<Instant>,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    /// Waits for the next events, already encoded; `None` at the end. It also ends once its reader may see less, because there are
    /// more domains.
    pub async fn next(&mut self) -> Option<Vec<Bytes>> {
        let frames = self.next_frames().await?;
        let scope = &self.subscription.filter().scope;
        scope.is_current(self.service.domains.others()).then_some(frames)
    }

    async fn next_frames(&mut self) -> Option<Vec<Bytes>> {
        if let Some(gap) = self.subscription.foreign() {
            return Some(vec![gap.frame()]);
        }
        while self.left != Some(0) {
            let limit = self.left.map_or(STEP, |left| left.min(STEP));
            let frames = match self.subscription.next(limit) {
                Next::Frames(frames) => frames,
                Next::Behind => match self.missed(limit).await {
                    Missed::Frames { gap, frames } => {
                        self.left = self.left.map(|left| left.saturating_sub(frames.len()));
                        let frames: Vec<_> = gap.map(Gap::frame).into_iter().chain(frames).collect();
                        if frames.is_empty() {
                            continue;
                        }
                        return Some(frames);
                    }
                    Missed::NotYet => match self.waits() {
                        Some(told) => return Some(vec![told]),
                        None if self.subscription.is_over() => return None,
                        None => {
                            tokio::time::sleep(ASK_AGAIN).await;
                            continue;
                        }
                    },
                },
            };
            if !frames.is_empty() {
                self.left = self.left.map(|left| left.saturating_sub(frames.len()));
                return Some(frames);
            }
            if !self.subscription.changed().await {
                return None;
            }
        }
        None
    }

    /// What a stream that waits is told, if there is anything to tell.
    fn waits(&mut self) -> Option<Bytes> {
        match self.waits {
            None => {
                self.waits = Some(Instant::now());
                Some(waiting(self.subscription.place()))
            }
            Some(since) if since.elapsed() >= MAX_WAIT && self.service.events.index().is_none() => {
                self.waits = None;
                Some(self.subscription.skip().frame())
            }
            Some(_) => None,
        }
    }

    /// The events that it has missed, from the index.
    async fn missed(&mut self, limit: usize) -> Missed {
        let (filter, place) = (self.subscription.filter().clone(), self.subscription.place());
        let stretch = self.service.ask(&self.service.catch_ups, move |index| {
            let Stretch { records, place, missing } = index.after(&filter, place, limit)?;
            let frames: Vec<_> = records.iter().map(|record| frame(&filter.shown(record))).collect();
            Ok((frames, place, missing))
        });
        match stretch.await {
            Ok((frames, to, missing)) if to > place => {
                self.waits = None;
                self.subscription.skip_to(to);
                let gap = missing.map(|last| Gap { after: place, continues_after: last });
                Missed::Frames { gap, frames }
            }
            Ok(_) | Err(_) => Missed::NotYet,
        }
    }
}

/// What the index has for a stream.
enum Missed {
    Frames { gap: Option<Gap>, frames: Vec<Bytes> },
    NotYet,
}

/// The reference time for relative times in a query, in milliseconds since 1970.
pub fn now() -> u64 {
    unix_now().saturating_mul(1000)
}

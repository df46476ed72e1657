//! Live events: the newest events, already encoded, for any number of streams.
//!
//! A stream holds a number, not a queue: each event is encoded once and shared. A stream that falls behind
//! reads the index.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::query::Filter;
use crate::audit::Record;

/// The most events that are kept, and their total size.
const MAX_EVENTS: usize = 1024;
const MAX_BYTES: usize = 4 << 20;

/// Notifies streams of events newer than their last one.
#[derive(Debug)]
pub struct Live {
    ring: Mutex<Ring>,
    progress: watch::Sender<Progress>,
}

/// The newest event, and whether there will be more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    newest: u64,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Ready>,
    bytes: usize,
}

/// An encoded event.
#[derive(Debug)]
struct Ready {
    record: Record,
    frame: Bytes,
}

impl Default for Live {
    fn default() -> Self {
        let progress = watch::Sender::new(Progress { newest: 0, is_over: false });
        Self { ring: Mutex::default(), progress }
    }
}

/// What a stream receives next.
#[derive(Debug)]
pub enum Next {
    /// These frames, which may be empty; its position has then moved.
    Frames(Vec<Bytes>),
    /// Its next event is no longer here, only in the index.
    Behind,
}

impl Live {
    /// Adds events in ascending order.
    pub(super) fn publish(&self, records: impl IntoIterator<Item = Record>) {
        let mut newest = None;
        {
            let mut ring = self.ring();
            for record in records {
                newest = Some(record.seq);
                let frame = frame(&record);
                ring.bytes += frame.len();
                ring.events.push_back(Ready { record, frame });
                while ring.events.len() > MAX_EVENTS || ring.bytes > MAX_BYTES && ring.events.len() > 1 {
                    let left = ring.events.pop_front().map_or(0, |ready| ready.frame.len());
                    ring.bytes -= left;
                }
            }
        }
        if let Some(newest) = newest {
            self.progress.send_modify(|progress| progress.newest = newest);
        }
    }

    /// Starts the numbering: streams begin after this event.
    pub(super) fn begin(&self, newest: u64) {
        self.progress.send_modify(|progress| progress.newest = progress.newest.max(newest));
    }

    /// The number of the newest event.
    pub fn newest(&self) -> u64 {
        self.progress.borrow().newest
    }

    pub(super) fn end(&self) {
        self.progress.send_modify(|progress| progress.is_over = true);
    }

    /// A stream of the events that match `filter`, after number `after`, or of future events.
    pub fn subscribe(self: &Arc<Self>, filter: Filter, after: Option<u64>) -> Subscription {
        let progress = self.progress.subscribe();
        // A number above the newest is of another log.
        let newest = progress.borrow().newest;
        let place = after.filter(|after| *after <= newest).unwrap_or(newest);
        Subscription { live: Arc::clone(self), progress, filter, place }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream.
#[derive(Debug)]
pub struct Subscription {
    live: Arc<Live>,
    progress: watch::Receiver<Progress>,
    filter: Filter,
    place: u64,
}

impl Subscription {
    /// Waits for new events; `false` if there will be none, because this KMS stops.
    pub async fn changed(&mut self) -> bool {
        let place = self.place;
        let is_due = |progress: &Progress| progress.is_over || progress.newest > place;
        self.progress.wait_for(is_due).await.is_ok_and(|progress| !progress.is_over)
    }

    /// The next frames, at most `limit`.
    pub fn next(&mut self, limit: usize) -> Next {
        let ring = self.live.ring();
        let newest = self.progress.borrow_and_update().newest;
        if self.place >= newest {
            return Next::Frames(Vec::new());
        }
        // Numbers have no gap, unless records are missing from the log.
        let Some(first) = ring.events.front().map(|ready| ready.record.seq) else { return Next::Behind };
        if first > self.place + 1 {
            return Next::Behind;
        }
        let from = ring.events.partition_point(|ready| ready.record.seq <= self.place);
        let mut frames = Vec::new();
        for ready in ring.events.range(from..) {
            if frames.len() >= limit {
                break;
            }
            self.place = ready.record.seq;
            if self.filter.admits(&ready.record) {
                frames.push(ready.frame.clone());
            }
        }
        Next::Frames(frames)
    }

    /// The filter of the stream.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The last event that it has passed.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// The newest event that is no longer here: the index has it.
    pub fn last_unready(&self) -> u64 {
        let first = self.live.ring().events.front().map(|ready| ready.record.seq);
        first.map_or_else(|| self.progress.borrow().newest, |first| first.saturating_sub(1))
    }

    /// Moves to `place`, up to which it has read the index.
    pub fn skip_to(&mut self, place: u64) {
        self.place = self.place.max(place);
    }
}

/// An event as a server-sent event (HTML standard, section 9.2): its id, and its JSON on one line.
pub fn frame(record: &Record) -> Bytes {
    format!("id: {}\ndata: {}\n\n", record.seq, super::json(record)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64, kind: &str) -> Record {
        let line = format!(r#"{{"seq":{seq},"time":"2026-01-01T00:00:00Z","event":"{kind}"}}"#);
        Record::read(line.as_bytes()).unwrap()
    }

    fn frames(next: Next) -> Vec<String> {
        match next {
            Next::Frames(frames) => {
                frames.iter().map(|frame| String::from_utf8(frame.to_vec()).unwrap()).collect()
            }
            Next::Behind => panic!("behind"),
        }
    }

    #[tokio::test]
    async fn a_stream_gets_each_event_once() {
        let live = Arc::new(Live::default());
        live.begin(5);
        let only = Filter { kind: Some("denied".to_owned()), ..Filter::default() };
        let (mut all, mut denied) = (live.subscribe(Filter::default(), None), live.subscribe(only, None));
        assert!(frames(all.next(10)).is_empty());
        live.publish([record(6, "stopped"), record(7, "denied")]);
        assert!(all.changed().await && denied.changed().await);
        assert_eq!(frames(all.next(1)).len(), 1);
        let rest = frames(all.next(10));
        assert!(rest[0].starts_with("id: 7\ndata: {") && rest[0].ends_with("}\n\n"), "{rest:?}");
        assert!(frames(all.next(10)).is_empty());
        assert_eq!(frames(denied.next(10)).len(), 1);
        live.end();
        assert!(!all.changed().await);
    }

    #[test]
    fn a_stream_that_is_behind_is_told_and_nothing_grows() {
        let live = Arc::new(Live::default());
        let mut late = live.subscribe(Filter::default(), Some(0));
        for seq in 1..=5000 {
            live.publish([record(seq, "stopped")]);
        }
        assert_eq!(live.ring().events.len(), MAX_EVENTS);
        assert!(matches!(late.next(10), Next::Behind));
        late.skip_to(3000);
        assert!(matches!(late.next(10), Next::Behind), "the index has more for it");
        late.skip_to(late.last_unready());
        assert_eq!(frames(late.next(5000)).len(), MAX_EVENTS);
        let mut large = record(5001, "reported");
        large.fields.insert("message".to_owned(), "x".repeat(MAX_BYTES).into());
        live.publish([large]);
        assert_eq!(live.ring().events.len(), 1, "one is there however large it is");
    }
}

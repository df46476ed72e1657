//! Live events: the newest events, for any number of streams.
//!
//! A stream holds a number, not a queue: each event is encoded once, for the first stream that asks for it, and
//! shared. A stream that falls behind reads the index.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kms_attest::identity::DomainName;
use tokio::sync::watch;

use super::query::Filter;
use crate::audit::Record;

/// The most events that are kept, and the total size of their lines.
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
    events: VecDeque<Event>,
    /// Total size of their lines. An encoded event is larger by a small factor, and [`MAX_EVENTS`] bounds those too.
    bytes: usize,
}

#[derive(Debug)]
struct Event {
    seq: u64,
    /// Length of its line.
    length: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// The line of the log, until a stream asks for the event.
    Line(Vec<u8>),
    /// Encoded.
    Frame(Frame),
    /// The line is not a record.
    Nothing,
}

/// An encoded event, and the properties that a filter compares.
#[derive(Debug)]
struct Frame {
    kind: String,
    app_id: String,
    source: &'static str,
    domain: Option<DomainName>,
    left: Option<DomainName>,
    bytes: Bytes,
    /// The event, if readers of one domain do not see all of it.
    partly: Option<Box<Record>>,
}

impl Event {
    fn new(seq: u64, line: Vec<u8>) -> Self {
        Self { seq, length: line.len(), content: Content::Line(line) }
    }

    fn frame(&mut self) -> Option<&Frame> {
        if let Content::Line(line) = &self.content {
            self.content = match Record::read(line) {
                None => Content::Nothing,
                Some(record) => Content::Frame(Frame {
                    bytes: frame(&record),
                    app_id: record.app_id().to_owned(),
                    source: record.source(),
                    domain: record.domain(),
                    left: record.left_domain(),
                    partly: record.left_domain().map(|_| Box::new(record.clone())),
                    kind: record.kind,
                }),
            };
        }
        match &self.content {
            Content::Frame(frame) => Some(frame),
            Content::Line(_) | Content::Nothing => None,
        }
    }
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
    /// Adds records by number and line, in ascending order.
    pub(super) fn publish(&self, lines: impl IntoIterator<Item = (u64, Vec<u8>)>) {
        let mut newest = None;
        {
            let mut ring = self.ring();
            for (seq, line) in lines {
                newest = Some(seq);
                ring.bytes += line.len();
                ring.events.push_back(Event::new(seq, line));
                while ring.events.len() > MAX_EVENTS || ring.bytes > MAX_BYTES && ring.events.len() > 1 {
                    let left = ring.events.pop_front().map_or(0, |event| event.length);
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
        let newest = progress.borrow().newest;
        // A number above the newest is of another log.
        let foreign = after.filter(|after| *after > newest);
        let place = after.filter(|after| *after <= newest).unwrap_or(newest);
        Subscription { live: Arc::clone(self), progress, filter, place, foreign }
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
    /// The number after which it was to continue, if it is of another log.
    foreign: Option<u64>,
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
        let mut ring = self.live.ring();
        let newest = self.progress.borrow_and_update().newest;
        if self.place >= newest {
            return Next::Frames(Vec::new());
        }
        // Numbers have no gap, unless records are missing from the log.
        let Some(first) = ring.events.front().map(|event| event.seq) else { return Next::Behind };
        if first > self.place + 1 {
            return Next::Behind;
        }
        let from = ring.events.partition_point(|event| event.seq <= self.place);
        let mut frames = Vec::new();
        for event in ring.events.range_mut(from..) {
            if frames.len() >= limit {
                break;
            }
            self.place = event.seq;
            if let Some(Frame { kind, app_id, source, domain, left, bytes, partly }) = event.frame()
                && self.filter.admits_event(kind, app_id, source, [domain.as_ref(), left.as_ref()])
            {
                frames.push(match partly {
                    None => bytes.clone(),
                    Some(record) => frame(&self.filter.shown(record)),
                });
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
        let first = self.live.ring().events.front().map(|event| event.seq);
        first.map_or_else(|| self.progress.borrow().newest, |first| first.saturating_sub(1))
    }

    /// Moves to `place`, up to which it has read the index.
    pub fn skip_to(&mut self, place: u64) {
        self.place = self.place.max(place);
    }

    /// Moves to the oldest event that is still here, and tells which events it does not get.
    pub fn skip(&mut self) -> Gap {
        let after = self.place;
        self.skip_to(self.last_unready());
        Gap { after, continues_after: self.place }
    }

    /// Tells once that it could not continue where it was to, because the log is another one.
    pub fn foreign(&mut self) -> Option<Gap> {
        let after = self.foreign.take()?;
        Some(Gap { after, continues_after: self.place })
    }

    /// Whether there will be no more events, because this KMS stops.
    pub fn is_over(&self) -> bool {
        self.progress.borrow().is_over
    }
}

/// Events that a stream does not get: those after one number, up to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last event before them.
    pub after: u64,
    /// The last of them.
    pub continues_after: u64,
}

impl Gap {
    /// The gap as a server-sent event of type `gap`. A client that reconnects continues after the gap.
    pub fn frame(self) -> Bytes {
        let Self { after, continues_after } = self;
        let data = format!(r#"{{"after":{after},"continues_after":{continues_after}}}"#);
        format!("event: gap\nid: {continues_after}\ndata: {data}\n\n").into()
    }
}

/// A server-sent event of type `waiting`: what comes after this number is not available yet, and will be sent.
pub fn waiting(after: u64) -> Bytes {
    format!("event: waiting\ndata: {{\"after\":{after}}}\n\n").into()
}

/// An event as a server-sent event (HTML standard, section 9.2): its id, and its JSON on one line.
pub fn frame(record: &Record) -> Bytes {
    format!("id: {}\ndata: {}\n\n", record.seq, super::json(record)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::DomainScope;
    use crate::operator::scope::Others;

    fn record(seq: u64, kind: &str) -> (u64, Vec<u8>) {
        let line = format!(r#"{{"seq":{seq},"time":"2026-01-01T00:00:00Z","event":"{kind}"}}"#);
        (seq, line.into_bytes())
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
        let only = Filter { kind: Some("denied".to_owned()), ..Filter::of(DomainScope::WHOLE_KMS) };
        let (mut all, mut denied) =
            (live.subscribe(Filter::of(DomainScope::WHOLE_KMS), None), live.subscribe(only, None));
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
    fn a_stream_that_continues_another_log_is_told() {
        let live = Arc::new(Live::default());
        live.begin(5);
        let mut stream = live.subscribe(Filter::of(DomainScope::WHOLE_KMS), Some(9));
        let gap = stream.foreign().unwrap();
        assert_eq!(gap.frame(), "event: gap\nid: 5\ndata: {\"after\":9,\"continues_after\":5}\n\n");
        assert_eq!((stream.foreign(), stream.place()), (None, 5));
        assert_eq!(live.subscribe(Filter::of(DomainScope::WHOLE_KMS), Some(5)).foreign(), None);
    }

    #[test]
    fn a_stream_that_is_behind_is_told_and_nothing_grows() {
        let live = Arc::new(Live::default());
        let mut late = live.subscribe(Filter::of(DomainScope::WHOLE_KMS), Some(0));
        for seq in 1..=5000 {
            live.publish([record(seq, "stopped")]);
        }
        assert_eq!(live.ring().events.len(), MAX_EVENTS);
        assert!(matches!(late.next(10), Next::Behind));
        late.skip_to(3000);
        assert!(matches!(late.next(10), Next::Behind), "the index has more for it");
        assert_eq!(late.skip(), Gap { after: 3000, continues_after: 5000 - MAX_EVENTS as u64 });
        assert_eq!(frames(late.next(5000)).len(), MAX_EVENTS);
        let message = format!(r#"reported","message":"{}"#, "x".repeat(MAX_BYTES));
        live.publish([record(5001, &message)]);
        assert_eq!(live.ring().events.len(), 1, "one is there however large it is");
    }

    #[test]
    fn a_stream_gets_the_records_that_match_its_filter_and_nothing_else() {
        let live = Arc::new(Live::default());
        let app = |app: &str| Filter { app_id: Some(app.to_owned()), ..Filter::of(DomainScope::WHOLE_KMS) };
        let mut of_app = live.subscribe(app("aa"), Some(0));
        let (mut of_other, mut all) =
            (live.subscribe(app("bb"), Some(0)), live.subscribe(Filter::of(DomainScope::WHOLE_KMS), Some(0)));
        live.publish([
            record(1, r#"denied","app_id":"aa"#),
            (2, b"no record".to_vec()),
            record(3, "stopped"),
        ]);
        let [one, other, every] =
            [&mut of_app, &mut of_other, &mut all].map(|stream| frames(stream.next(10)));
        assert!(one.len() == 1 && one[0].starts_with("id: 1\n"), "{one:?}");
        assert!(other.is_empty(), "{other:?}");
        assert_eq!(every.iter().map(|frame| &frame[..6]).collect::<Vec<_>>(), ["id: 1\n", "id: 3\n"]);
        assert_eq!(all.place(), 3);
    }

    #[test]
    fn a_move_reaches_streams_of_both_domains_without_the_name_of_the_other_one() {
        let live = Arc::new(Live::default());
        let limited = |name: &str| DomainScope::limited(name.parse().unwrap(), Others::Some);
        let scopes = [limited("prod"), limited("sandbox"), limited("other"), DomainScope::WHOLE_KMS];
        let mut streams = scopes.map(|scope| live.subscribe(Filter::of(scope), Some(0)));
        live.publish([record(1, r#"app_moved","domain":"prod","previous_domain":"sandbox"#)]);
        let got = streams.each_mut().map(|stream| {
            let text = frames(stream.next(10)).concat();
            [text.contains("prod"), text.contains("sandbox")]
        });
        assert_eq!(got, [[true, false], [false, true], [false, false], [true, true]]);
    }
}

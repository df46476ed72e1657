//! The spans of a request while it is served, and the bounded queue in which finished traces wait to be sent.
//!
//! Nothing here waits: what does not fit is dropped and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use tokio::sync::mpsc;

use super::id::Ids;

/// The most spans of one trace, besides the first.
const MAX_SPANS: usize = 64;
/// The most traces that wait to be sent.
pub const MAX_WAITING: usize = 512;

/// A trace that can be sent. Its first span is the root.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Its id.
    pub id: u128,
    /// The id of the root. Not derived from that of the trace, which a caller may have chosen.
    pub root: u64,
    /// The caller's span, of which the root is a child; only of callers who may choose what is sampled.
    pub parent: Option<u64>,
    /// The caller's span, where it is only named.
    pub link: Option<Remote>,
    /// The spans.
    pub spans: Vec<Span>,
}

/// One piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What was done.
    pub name: &'static str,
    /// For whom.
    pub kind: SpanKind,
    /// When it began.
    pub begin: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Whether it failed.
    pub is_failed: bool,
    /// What is known of it: no secrets, no keys, no addresses.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// The kinds of OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Work within this process.
    Internal,
    /// The response to a request.
    Server,
    /// A request to another service.
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// The span of a caller, from its `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// The id of its trace.
    pub trace: u128,
    /// Its id.
    pub span: u64,
    /// Whether the caller records it.
    pub is_sampled: bool,
}

impl Remote {
    /// The span in the headers, if they name one as W3C Trace Context says.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let text = values.next()?.to_str().ok().filter(|_| values.next().is_none())?;
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace = hex(parts.next()?, 32)?;
        let span = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        // Later versions may have more parts; version 255 is invalid.
        let is_valid = version != 0xff && (version != 0 || parts.next().is_none());
        (is_valid && trace != 0 && span != 0).then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

/// A number of exactly so many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Decides which requests are traced, and queues their traces. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Traces whose id has a lower half below this are sampled.
    below: u128,
    ids: Ids,
    queue: mpsc::Sender<Trace>,
    dropped: AtomicU64,
}

/// Who may say by a `traceparent` that a request is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nobody: strangers could force the cost.
    ByNobody,
    /// Operators: known only after their credentials were checked.
    ByOperators,
}

impl Tracer {
    /// Samples this share of requests, between 0 and 1. What it finishes comes out of the receiver.
    pub fn new(ratio: f64) -> (Self, mpsc::Receiver<Trace>) {
        let (queue, finished) = mpsc::channel(MAX_WAITING);
        // Exact for 0 and 1.
        let below = (ratio.clamp(0.0, 1.0) * (u64::MAX as f64 + 1.0)) as u128;
        let shared = Shared { below, ids: Ids::default(), queue, dropped: AtomicU64::new(0) };
        (Self(Arc::new(shared)), finished)
    }

    fn samples(&self, id: u128) -> bool {
        id & u128::from(u64::MAX) < self.0.below
    }

    /// Starts the trace of a request with these headers, if it may be sampled.
    pub fn begin(&self, headers: &HeaderMap, asked: Asked) -> Option<Recording> {
        let id = self.0.ids.next();
        let is_sampled = self.samples(id);
        let remote = Remote::of(headers);
        let may_be_asked = asked == Asked::ByOperators && remote.is_some_and(|remote| remote.is_sampled);
        (is_sampled || may_be_asked).then(|| Recording {
            tracer: self.clone(),
            id,
            is_sampled,
            remote,
            trusted: OnceLock::new(),
            begin: (Instant::now(), SystemTime::now()),
            spans: Mutex::default(),
        })
    }

    /// Traces work that belongs to no request, such as a handshake.
    pub fn single(&self, name: &'static str, kind: SpanKind, took: Duration, is_failed: bool) {
        let id = self.0.ids.next();
        if self.samples(id) {
            let begin = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
            let span = Span { name, kind, begin, took, is_failed, attributes: Vec::new() };
            self.send(Trace { id, root: root_of(id), parent: None, link: None, spans: vec![span] });
        }
    }

    fn send(&self, trace: Trace) {
        if self.0.queue.try_send(trace).is_err() {
            self.drop_traces(1);
        }
    }

    /// Counts traces that could not be sent.
    pub fn drop_traces(&self, count: u64) {
        self.0.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// How many traces were dropped.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// How many traces wait.
    pub fn waiting(&self) -> usize {
        self.0.queue.max_capacity() - self.0.queue.capacity()
    }
}

/// The id of the root of a trace with this id of ours. It is not zero.
fn root_of(id: u128) -> u64 {
    (id >> 64) as u64 | 1
}

/// The trace of a request that is being served.
#[derive(Debug)]
pub struct Recording {
    tracer: Tracer,
    id: u128,
    is_sampled: bool,
    remote: Option<Remote>,
    /// Set when the caller has shown an operator's credentials.
    trusted: OnceLock<()>,
    begin: (Instant, SystemTime),
    spans: Mutex<Vec<Span>>,
}

impl Recording {
    pub(super) fn trust(&self) {
        let _ = self.trusted.set(());
    }

    pub(super) fn add(&self, name: &'static str, kind: SpanKind, took: Duration, is_failed: bool) {
        let (then, at) = self.begin;
        let begin = at + then.elapsed().saturating_sub(took);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() < MAX_SPANS {
            spans.push(Span { name, kind, begin, took, is_failed, attributes: Vec::new() });
        }
    }

    /// Ends the trace with its root, and queues it if it is sampled.
    pub(super) fn finish(
        &self,
        name: &'static str,
        is_failed: bool,
        attributes: Vec<(&'static str, Attribute)>,
    ) {
        let is_trusted = self.trusted.get().is_some();
        let asked = self.remote.filter(|remote| is_trusted && remote.is_sampled);
        if !self.is_sampled && asked.is_none() {
            return;
        }
        let (then, begin) = self.begin;
        let kind = SpanKind::Server;
        let root = Span { name, kind, begin, took: then.elapsed(), is_failed, attributes };
        let mut spans = vec![root];
        spans.append(&mut self.spans.lock().unwrap_or_else(PoisonError::into_inner));
        let (id, parent, link) = match asked {
            Some(Remote { trace, span, .. }) => (trace, Some(span), None),
            None => (self.id, None, self.remote),
        };
        self.tracer.send(Trace { id, root: root_of(self.id), parent, link, spans });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(values: &[&str]) -> HeaderMap {
        let name = http::HeaderName::from_static("traceparent");
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let remote = Remote {
            trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span: 0xb7ad_6b71_6920_3331,
            is_sampled: true,
        };
        assert_eq!(Remote::of(&headers(&[PARENT])), Some(remote));
        let not_sampled = PARENT.replace("-01", "-00");
        assert_eq!(Remote::of(&headers(&[&not_sampled])), Some(Remote { is_sampled: false, ..remote }));
        let later = PARENT.replace("00-0", "01-0") + "-more";
        assert_eq!(Remote::of(&headers(&[&later])), Some(remote));
        for text in [
            "",
            "00",
            &PARENT.replace("00-0", "ff-0"),
            &PARENT.to_uppercase(),
            &(PARENT.to_owned() + "-more"),
            &PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            &PARENT.replace("b7ad6b7169203331", "+7ad6b7169203331"),
            &"0".repeat(8192),
        ] {
            assert_eq!(Remote::of(&headers(&[text])), None, "{text}");
        }
        assert_eq!(Remote::of(&headers(&[PARENT, PARENT])), None);
    }

    #[test]
    fn the_share_of_sampled_requests_is_the_configured_one() {
        for (ratio, expected) in [(0.0, 0..=0), (1.0, 1000..=1000), (0.25, 150..=350)] {
            let (tracer, _finished) = Tracer::new(ratio);
            let begun = (0..1000).filter(|_| tracer.begin(&HeaderMap::new(), Asked::ByNobody).is_some());
            let count = begun.count();
            assert!(expected.contains(&count), "{ratio}: {count}");
        }
    }

    #[test]
    fn only_an_operator_can_ask_for_a_trace_and_be_its_parent() {
        let (tracer, mut finished) = Tracer::new(0.0);
        let headers = headers(&[PARENT]);
        assert!(tracer.begin(&headers, Asked::ByNobody).is_none());
        tracer.begin(&headers, Asked::ByOperators).unwrap().finish("other", false, Vec::new());
        assert!(finished.try_recv().is_err(), "credentials were not shown");
        let recording = tracer.begin(&headers, Asked::ByOperators).unwrap();
        recording.trust();
        recording.finish("Freeze", false, Vec::new());
        let trace = finished.try_recv().unwrap();
        assert_eq!(
            (trace.id, trace.parent),
            (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, Some(0xb7ad_6b71_6920_3331))
        );
        // Where the trace is ours, the caller's span is only named.
        let (tracer, mut finished) = Tracer::new(1.0);
        tracer.begin(&headers, Asked::ByNobody).unwrap().finish("GetMeta", false, Vec::new());
        let trace = finished.try_recv().unwrap();
        assert!(
            trace.parent.is_none()
                && trace.link.is_some()
                && trace.id != 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c
        );
    }

    #[test]
    fn spans_and_traces_beyond_the_limits_are_dropped_and_counted() {
        let (tracer, mut finished) = Tracer::new(1.0);
        let recording = tracer.begin(&HeaderMap::new(), Asked::ByNobody).unwrap();
        for _ in 0..1000 {
            recording.add("policy", SpanKind::Internal, Duration::ZERO, false);
        }
        recording.finish("GetAppKey", true, Vec::new());
        assert_eq!(finished.try_recv().unwrap().spans.len(), 1 + MAX_SPANS);
        for _ in 0..MAX_WAITING + 10 {
            tracer.single("handshake", SpanKind::Internal, Duration::ZERO, false);
        }
        assert_eq!((tracer.waiting(), tracer.dropped()), (MAX_WAITING, 10));
    }
}

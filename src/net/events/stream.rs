//! A stream of events as server-sent events. Nothing is buffered for a caller that does not read: its
//! connection is closed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method as Verb, header};
use tokio::sync::mpsc::{self, Sender};
use tokio::time::timeout;

use super::super::prpc;
use super::super::slots::Running;
use crate::api::Caller;
use crate::api::events::{EventService, Stream};
use crate::error::{Error, Result};
use crate::events::last_event_id;

/// A comment is sent when nothing has happened for this long, so that proxies keep the connection and we
/// notice a caller that has left.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a caller may read nothing.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Pieces that are queued for one caller.
const QUEUE: usize = 2;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub(super) fn open(service: &Arc<EventService>, request: Request) -> Result<Response> {
    let caller = prpc::caller(request.extensions())?.clone();
    let query = super::read(request.uri().query(), caller.scope()?)?;
    if query.since.is_some() || query.until.is_some() || query.cursor.is_some() || query.format.is_some() {
        return Err(Error::invalid(
            "a stream takes type, app_id, source, domain and limit; Last-Event-ID continues one",
        ));
    }
    let after = request.headers().get(LAST_EVENT_ID).map(|id| last_event_id(id.as_bytes())).transpose();
    let after = after.map_err(|error| Error::invalid(error.to_string()))?;
    let body = match *request.method() {
        Verb::HEAD => Body::empty(),
        _ => {
            let stream = service.stream(query, after)?;
            let running = request.extensions().get::<Arc<Running>>().map(Arc::clone);
            let (pieces, taken) = mpsc::channel(QUEUE);
            tokio::spawn(pump(stream, pieces, running, MAX_PAUSE, Some(caller)));
            Body::from_stream(futures_util::stream::unfold(taken, async |mut taken| {
                taken.recv().await.map(|piece: Bytes| (Ok::<_, Infallible>(piece), taken))
            }))
        }
    };
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Tells a buffering reverse proxy to forward the response at once.
    answer.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(answer)
}

/// Forwards pieces until the stream ends, the caller leaves, or the caller's credential is no longer valid.
async fn pump(
    mut stream: Stream,
    pieces: Sender<Bytes>,
    running: Option<Arc<Running>>,
    max_pause: Duration,
    caller: Option<Caller>,
) {
    let is_live = || caller.as_ref().is_none_or(Caller::is_live);
    let ended = async {
        match &caller {
            Some(caller) => caller.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(ended);
    loop {
        let next = tokio::select! {
            next = timeout(KEEP_ALIVE, stream.next()) => next,
            () = pieces.closed() => return,
            () = &mut ended => return,
        };
        let frames = match next {
            Ok(None) => return,
            Ok(Some(frames)) => frames,
            Err(_) => vec![Bytes::from_static(b":\n\n")],
        };
        for frame in frames {
            if !is_live() {
                return;
            }
            match timeout(max_pause, pieces.send(frame)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::debug!("a stream of events was closed: its caller reads too slowly");
                    if let Some(running) = running {
                        running.end_connection();
                    }
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::audit::{Audit, Event};
    use crate::control::Domains;
    use crate::events::{Events, Query, Reports, Settings};
    use crate::operator::DomainScope;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_caller_that_reads_nothing_is_dropped_and_nothing_is_kept_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let audit = Arc::new(Audit::open(&path("audit.jsonl")).unwrap());
        let settings =
            Settings { log: path("audit.jsonl"), index: Some(path("events.redb")), keep: 1_000_000 };
        let events = Arc::new(Events::follow(settings, &audit).unwrap());
        let reports = Arc::new(Reports::new(Arc::clone(&audit)));
        let service = Arc::new(EventService::new(events, reports, Domains::default_only()));
        let streams = [(), ()]
            .map(|()| service.stream(Query::read("", 0, DomainScope::WHOLE_KMS).unwrap(), Some(0)).unwrap());
        for events in 0..20 {
            let _ = audit.record(Event::Suppressed { events, source: None }).await.unwrap();
        }
        let [silent, reading] = streams;
        let (pieces, mut taken) = mpsc::channel(QUEUE);
        let began = Instant::now();
        pump(silent, pieces, None, Duration::from_millis(100), None).await;
        assert!(began.elapsed() >= Duration::from_millis(100));
        let mut left = 0;
        while taken.recv().await.is_some() {
            left += 1;
        }
        assert_eq!(left, QUEUE);
        let (pieces, mut taken) = mpsc::channel(QUEUE);
        tokio::spawn(pump(reading, pieces, None, Duration::from_secs(60), None));
        for seq in 1..=20 {
            let frame = taken.recv().await.unwrap();
            assert!(frame.starts_with(format!("id: {seq}\n").as_bytes()), "{frame:?}");
        }
    }
}

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

use super::super::activity::Running;
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
    let query = super::read(request.uri().query())?;
    if query.since.is_some() || query.until.is_some() || query.cursor.is_some() || query.format.is_some() {
        return Err(Error::invalid(
            "a stream takes type, app_id, source and limit; Last-Event-ID continues one",
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
            tokio::spawn(pump(stream, pieces, running));
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

/// Forwards pieces until the stream ends or the caller leaves.
async fn pump(mut stream: Stream, pieces: Sender<Bytes>, running: Option<Arc<Running>>) {
    loop {
        let next = tokio::select! {
            next = timeout(KEEP_ALIVE, stream.next()) => next,
            () = pieces.closed() => return,
        };
        let frames = match next {
            Ok(None) => return,
            Ok(Some(frames)) => frames,
            Err(_) => vec![Bytes::from_static(b":\n\n")],
        };
        for frame in frames {
            match timeout(MAX_PAUSE, pieces.send(frame)).await {
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

//! Bodies: those of requests are bounded in size, time and memory, and read to their end before the response.

use std::error::Error as StdError;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, Sleep, sleep};
use zeroize::Zeroize as _;

use super::memory::{Exhausted, Reservation};
use super::slots::Running;
use crate::error::{Code, Error};

/// How long a caller may take to send a body.
const TIME_LIMIT: Duration = Duration::from_secs(30);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How many bytes of a body that is too large are read and discarded.
const MAX_OVERSIZE_DRAIN: usize = 16 * 1024 * 1024;
/// The same for the rest of a body that the response did not need.
const MAX_DRAIN: usize = 1024 * 1024;
/// How long the rest of a body is read.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// From this length on, the memory for decoding is reserved.
const LARGE: usize = 16 * 1024;

type BoxError = Box<dyn StdError + Send + Sync>;

/// A body that could not be read, with the part that was.
#[derive(Debug)]
pub(super) struct ReadError {
    /// The first bytes of the body.
    pub(super) begin: Bytes,
    /// What to tell the caller.
    pub(super) cause: Error,
}

/// A body with a secret. Its bytes are overwritten when it is dropped, unless the connection still holds the buffer that they
/// arrived in.
#[derive(Debug)]
pub(super) struct Wiped(pub(super) Bytes);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        if let Ok(mut own) = std::mem::take(&mut self.0).try_into_mut() {
            own.as_mut().zeroize();
        }
    }
}

/// Reads the whole body, at most `limit` bytes.
///
/// # Errors
/// [`Code::TooLarge`] over the limit, [`Code::Unavailable`] without memory for it, [`Code::InvalidRequest`]
/// when the connection breaks or the time is over.
pub(super) async fn read<B>(body: B, limit: usize) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let mut body = pin!(body);
    let mut all = BytesMut::new();
    let mut only: Option<Bytes> = None;
    let outcome = tokio::time::timeout(TIME_LIMIT, async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&*error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            let seen = only.as_ref().map_or(all.len(), Bytes::len);
            if seen + data.len() > limit {
                return Err(Error::new(Code::TooLarge, "failed to read data: payload too large"));
            }
            match only.take() {
                None if all.is_empty() => only = Some(data),
                first => {
                    if let Some(first) = first {
                        all.extend_from_slice(&first);
                    }
                    all.extend_from_slice(&data);
                }
            }
        }
        Ok(())
    })
    .await
    .unwrap_or_else(|_| Err(Error::invalid(TOO_SLOW)));
    let begin = only.unwrap_or_else(|| all.freeze());
    match outcome {
        Ok(()) => Ok(begin),
        Err(cause) => Err(ReadError { begin, cause }),
    }
}

/// A body paused for [`MAX_PAUSE`].
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{TOO_SLOW}")]
struct Paused;

const TOO_SLOW: &str = "failed to read data: the body took too long";

/// The error for a caller whose body ended with `error`.
pub(super) fn broken(error: &(dyn StdError + 'static)) -> Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(exhausted) = error.downcast_ref::<Exhausted>() {
            return Error::new(Code::Unavailable, exhausted.to_string());
        }
        if let Some(paused) = error.downcast_ref::<Paused>() {
            return Error::invalid(paused.to_string());
        }
        cause = error.source();
    }
    Error::invalid("failed to read data: the body ended early")
}

/// The body of a request. Its bytes are counted as they arrive, and the rest of a body that is dropped early
/// is kept for [`Rest::drain`].
pub(super) struct RequestBody<B: Body> {
    body: Option<B>,
    reservation: Arc<Reservation>,
    request: Weak<Running>,
    read: usize,
    max_pause: Duration,
    /// Ends a pause that is too long; `Some` while we wait for data.
    pause: Option<Pin<Box<Sleep>>>,
    rest: Weak<Mutex<Option<Left<B>>>>,
}

/// A body that was dropped before its end.
struct Left<B> {
    body: B,
    read: usize,
}

/// Where a request body leaves its rest.
pub(super) struct Rest<B>(Arc<Mutex<Option<Left<B>>>>);

impl<B: Body<Data = Bytes> + Unpin> RequestBody<B> {
    /// The body of a request, counted in `reservation`.
    pub(super) fn new(body: B, reservation: Arc<Reservation>, request: &Arc<Running>) -> (Self, Rest<B>) {
        if body.is_end_stream() {
            request.received();
            reservation.received();
        }
        let rest = Arc::new(Mutex::new(None));
        let (request, left) = (Arc::downgrade(request), Arc::downgrade(&rest));
        let body = Some(body);
        (
            Self { body, reservation, request, read: 0, max_pause: MAX_PAUSE, pause: None, rest: left },
            Rest(rest),
        )
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if this.reservation.is_given_up(context.waker()) {
            return Poll::Ready(Some(Err(Exhausted.into())));
        }
        let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
            let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(this.max_pause)));
            ready!(pause.as_mut().poll(context));
            this.pause = None;
            // A stream may pause once its response has begun.
            return match this.reservation.is_answered() {
                true => Poll::Pending,
                false => Poll::Ready(Some(Err(Paused.into()))),
            };
        };
        this.pause = None;
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                this.body = None;
                return Poll::Ready(Some(Err(error.into())));
            }
            None => {
                this.body = None;
                if let Some(request) = this.request.upgrade() {
                    request.received();
                }
                if !this.reservation.is_answered() {
                    this.reservation.received();
                }
                let decoded = if this.read >= LARGE { this.reservation.decode(this.read) } else { Ok(()) };
                return Poll::Ready(decoded.err().map(|exhausted| Err(exhausted.into())));
            }
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        this.read = this.read.saturating_add(length);
        Poll::Ready(Some(match this.reservation.receive(length) {
            Ok(()) => Ok(frame),
            Err(exhausted) => Err(exhausted.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        // The end of a large body comes after its decoding was reserved.
        self.body.as_ref().is_none_or(|body| self.read < LARGE && body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body> Drop for RequestBody<B> {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        if let Some(rest) = self.rest.upgrade() {
            *rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Left { body, read: self.read });
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Rest<B> {
    /// The rest of a request whose body was not read at all.
    pub(super) fn of(body: B) -> Self {
        Self(Arc::new(Mutex::new(Some(Left { body, read: 0 }))))
    }

    /// Discards a body of which nothing was read, because its sender waits to be told to send it
    /// (`Expect: 100-continue`).
    pub(super) fn forget_unread(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take_if(|left| left.read == 0);
    }

    /// Reads the rest of the body and discards it: in HTTP/2 a response before the end of the body resets the
    /// stream, and a caller that is still sending would lose the response. Gives up on a large or slow rest.
    pub(super) async fn drain(self) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(left) = left {
            // Boxed, because most requests leave no rest and would still carry a future of this size.
            Box::pin(left.drain()).await;
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Left<B> {
    async fn drain(self) {
        let Self { mut body, read } = self;
        let limit = if read == 0 { MAX_DRAIN } else { MAX_OVERSIZE_DRAIN };
        if body.size_hint().lower() > limit as u64 {
            return;
        }
        let drain = async {
            let mut drained = 0;
            while let Some(Ok(frame)) = body.frame().await {
                drained += frame.data_ref().map_or(0, Bytes::len);
                if drained > limit {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
    }
}

/// The body of a response, whose memory is counted until it is sent.
pub(super) struct HeldBody {
    body: axum::body::Body,
    reservation: Arc<Reservation>,
    /// Whether the next part does not exist yet, so that the delay is ours.
    is_ours: bool,
}

impl HeldBody {
    /// Counts the response `body` in place of its request, from `now` on.
    pub(super) fn new(body: axum::body::Body, reservation: Arc<Reservation>, now: Instant) -> Self {
        reservation.answered(body.size_hint().exact(), now);
        Self { body, reservation, is_ours: false }
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(context);
        match polled {
            Poll::Pending if !this.is_ours => this.reservation.rests(),
            Poll::Ready(Some(_)) if !this.body.is_end_stream() => this.reservation.read_on(),
            Poll::Pending | Poll::Ready(_) => {}
        }
        this.is_ours = polled.is_pending();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http_body_util::{Full, StreamBody};

    use super::super::memory::{Holder, RequestMemory};
    use super::super::slots::{Activity, Use};
    use super::*;

    #[tokio::test]
    async fn the_limit_itself_is_accepted_and_one_byte_more_is_not() {
        assert_eq!(read(Full::new(Bytes::from_static(b"1234")), 4).await.expect("fits").len(), 4);
        let error = read(Full::new(Bytes::from_static(b"12345")), 4).await.expect_err("too large");
        assert_eq!(error.cause.code(), Code::TooLarge);
    }

    #[tokio::test]
    async fn frames_are_joined_in_order() {
        let frames = [&b"ab"[..], b"cd", b"ef"]
            .map(|part| Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(part))));
        let body = StreamBody::new(tokio_stream_of(frames));
        assert_eq!(&read(body, 16).await.expect("fits")[..], b"abcdef");
    }

    fn running() -> Arc<Running> {
        let activity = Activity::new(IpAddr::from([192, 0, 2, 1]), Weak::new(), false);
        Arc::new(Arc::new(activity).begin(Use::Method))
    }

    fn reservation(total: usize) -> Arc<Reservation> {
        let activity = Activity::new(IpAddr::from([192, 0, 2, 1]), Weak::new(), false);
        // `total` is chosen so that an operator may have this much.
        RequestMemory::new(total * 16 / 9).open(&Arc::new(activity), Holder::Operator, 0).expect("room")
    }

    fn parts(count: usize) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        let part = || Ok(Frame::data(Bytes::from_static(&[0; 1024])));
        StreamBody::new(tokio_stream_of((0..count).map(|_| part()).collect::<Vec<_>>()))
    }

    #[tokio::test]
    async fn a_body_beyond_the_budget_is_unavailable_for_now_as_it_comes_and_as_it_is_decoded() {
        for (count, code) in
            [(8, None), (15, None), (16, Some(Code::Unavailable)), (40, Some(Code::Unavailable))]
        {
            // 4 KiB are the request's. A body of 16 KiB fits, but not with what is decoded from it.
            let (body, rest) = RequestBody::new(parts(count), reservation((4 + 32) * 1024), &running());
            let outcome = read(axum::body::Body::new(body), 1 << 20).await;
            assert_eq!(outcome.err().map(|error| error.cause.code()), code, "{count} KiB");
            assert_eq!(rest.0.lock().expect("lock").is_some(), count == 40, "{count} KiB: what is left");
            rest.drain().await;
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up_after_a_pause_or_when_others_need_its_memory() {
        let begun = || {
            let begin = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"{")))]);
            let never = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
            StreamBody::new(futures_util::StreamExt::chain(begin, never))
        };
        let held = reservation(1 << 20);
        let (mut body, _rest) = RequestBody::new(begun(), Arc::clone(&held), &running());
        body.max_pause = Duration::from_millis(50);
        let error = read(axum::body::Body::new(body), 1 << 20).await.expect_err("nothing more comes");
        assert_eq!((error.cause.code(), error.cause.message()), (Code::InvalidRequest, TOO_SLOW));

        let (body, rest) = RequestBody::new(begun(), Arc::clone(&held), &running());
        let reading = tokio::spawn(read(axum::body::Body::new(body), 1 << 20));
        tokio::task::yield_now().await;
        held.give_up();
        let error = reading.await.expect("no panic").expect_err("others need it");
        assert_eq!(error.cause.code(), Code::Unavailable);
        assert!(held.was_refused());
        assert!(rest.0.lock().expect("lock").is_some(), "what still comes is thrown away");

        let (mut body, _rest) = RequestBody::new(begun(), reservation(1 << 20), &running());
        body.max_pause = Duration::from_millis(1);
        body.reservation.answered(None, Instant::now());
        let all = read(axum::body::Body::new(body), 1 << 20);
        let waits = tokio::time::timeout(Duration::from_millis(100), all).await;
        assert!(waits.is_err(), "a stream whose answer has begun may rest");
    }

    #[tokio::test]
    async fn what_nobody_reads_is_drained_and_an_endless_or_silent_rest_given_up() {
        let (body, rest) = RequestBody::new(parts(3), reservation(1 << 20), &running());
        drop(body);
        tokio::time::timeout(DRAIN_TIME / 2, rest.drain()).await.expect("at once");
        let announced = Full::new(Bytes::from(vec![0; MAX_DRAIN + 1]));
        let (body, rest) = RequestBody::new(announced, reservation(1 << 20), &running());
        drop(body);
        tokio::time::timeout(DRAIN_TIME / 2, rest.drain()).await.expect("at once");
        let silent = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>());
        let (body, rest) = RequestBody::new(silent, reservation(1 << 20), &running());
        drop(body);
        tokio::time::timeout(DRAIN_TIME * 2, rest.drain()).await.expect("given up");
    }

    fn tokio_stream_of<T: Unpin>(
        items: impl IntoIterator<Item = T>,
    ) -> impl futures_core::Stream<Item = T> + Unpin {
        let mut items = items.into_iter().collect::<std::collections::VecDeque<_>>();
        Box::pin(futures_util::stream::poll_fn(move |_| std::task::Poll::Ready(items.pop_front())))
    }
}

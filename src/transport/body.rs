//! Request bodies, bounded in size and time.

use std::{pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;

use crate::error::{Code, Error};

/// How long a caller may take to send a body.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How much of an oversize body is read and thrown away, so that the caller gets to see the answer.
pub(super) const DRAIN_BYTES: usize = 16 * 1024 * 1024;
/// And for how long.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A body that could not be read, with what was read of it.
#[derive(Debug)]
pub(super) struct ReadError {
    /// The beginning of the body.
    pub(super) begin: Bytes,
    /// What to tell the caller.
    pub(super) cause: Error,
}

/// The whole body, at most `limit` bytes of it.
///
/// # Errors
/// [`Code::TooLarge`] over the limit, [`Code::InvalidRequest`] when the connection breaks or the time is over.
pub(super) async fn read<B: Body<Data = Bytes>>(body: B, limit: usize) -> Result<Bytes, ReadError> {
    let mut body = pin!(body);
    let mut all = BytesMut::new();
    let mut only: Option<Bytes> = None;
    let outcome = tokio::time::timeout(TIME_LIMIT, async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Error::invalid("failed to read data: the body ended early"))?;
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
    .unwrap_or_else(|_| Err(Error::invalid("failed to read data: the body took too long")));
    let begin = only.unwrap_or_else(|| all.freeze());
    match outcome {
        Ok(()) => Ok(begin),
        Err(cause) => {
            let mut drained = begin.len();
            let drain = async {
                while let Some(Ok(frame)) = body.frame().await {
                    drained += frame.data_ref().map_or(0, Bytes::len);
                    if drained > DRAIN_BYTES {
                        break;
                    }
                }
            };
            // An answer before the end of the body resets the stream in HTTP/2; a slow sender only loses that nicety.
            let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
            Err(ReadError { begin, cause })
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

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

    fn tokio_stream_of<T: Unpin>(
        items: impl IntoIterator<Item = T>,
    ) -> impl futures_core::Stream<Item = T> + Unpin {
        let mut items = items.into_iter().collect::<std::collections::VecDeque<_>>();
        Box::pin(futures_util::stream::poll_fn(move |_| std::task::Poll::Ready(items.pop_front())))
    }
}

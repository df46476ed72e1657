//! A TLS connection to the database that reads so many bytes of an answer and no more: the library keeps whole messages in memory,
//! and the database says how long they are. It also keeps parameters that the database sets, as many as it likes, until the
//! connection ends; so one that has read much is replaced.
//!
//! Without TLS, which is used on this machine only unless the configuration gives it up, the library reads the socket itself, so nothing is
//! limited there.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// The most bytes between two requests of this node, more than all reports or the largest document have.
const MAX_ANSWER: usize = 32 << 20;

/// How many bytes a connection reads before it is replaced.
const MAX_READ: usize = 128 << 20;

/// How many bytes a connection has read.
#[derive(Debug, Clone, Default)]
pub(super) struct Received(Arc<AtomicUsize>);

impl Received {
    /// Whether the connection is to be replaced.
    pub(super) fn is_enough(&self) -> bool {
        self.0.load(Ordering::Relaxed) > MAX_READ
    }
}

/// Makes connections that are limited, and counts what they read.
#[derive(Clone)]
pub(super) struct LimitedTls<T>(pub(super) T, pub(super) Received);

impl<S, T: MakeTlsConnect<S>> MakeTlsConnect<S> for LimitedTls<T>
where
    T::Stream: Send + 'static,
    <T::TlsConnect as TlsConnect<S>>::Future: Send + 'static,
{
    type Stream = Limited<T::Stream>;
    type TlsConnect = LimitedTls<T::TlsConnect>;
    type Error = T::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        let received = self.1.clone();
        self.0.make_tls_connect(domain).map(|tls| LimitedTls(tls, received))
    }
}

impl<S, T: TlsConnect<S>> TlsConnect<S> for LimitedTls<T>
where
    T::Future: Send + 'static,
{
    type Stream = Limited<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let Self(tls, received) = self;
        let connected = tls.connect(stream);
        Box::pin(async move { connected.await.map(|inner| Limited::new(inner, received)) })
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Limited<S> {
    inner: S,
    left: usize,
    received: Received,
}

impl<S> Limited<S> {
    fn new(inner: S, received: Received) -> Self {
        Self { inner, left: MAX_ANSWER, received }
    }
}

impl<S: TlsStream + Unpin> TlsStream for Limited<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        self.received.0.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(match self.left.checked_sub(read) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(io::Error::new(io::ErrorKind::FileTooLarge, "the database sends too much")),
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.left = MAX_ANSWER;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_answer_has_an_end_and_each_request_allows_another_one() {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let received = Received::default();
        let mut limited = Limited::new(here, received.clone());
        let database = tokio::spawn(async move {
            for _ in 0..5 {
                there.read_exact(&mut [0; 1]).await?;
                there.write_all(&vec![7; MAX_ANSWER]).await?;
            }
            there.write_all(&[7]).await
        });
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..5 {
            assert!(!received.is_enough());
            limited.write_all(b"?").await.unwrap();
            let mut read = 0;
            while read < MAX_ANSWER {
                read += limited.read(&mut buffer[..(MAX_ANSWER - read).min(1 << 16)]).await.unwrap();
            }
        }
        assert!(received.is_enough());
        assert_eq!(limited.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        database.await.unwrap().unwrap();
    }
}

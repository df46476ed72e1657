//! The smallest HTTP/1.1 server for both sockets, with the faults that tests need.

use std::convert::Infallible;
use std::future::{self, Future};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

const BODY_LIMIT: usize = 1 << 20;

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Bytes,
}

/// The reaction to a request.
pub(crate) enum Reply {
    Answer(http::Response<Bytes>),
    /// The connection closes without a response.
    Disconnect,
    /// The connection stays open without a response.
    Silence,
    /// 200 with a body that never ends.
    Endless,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        let mut response = http::Response::new(body.into());
        *response.status_mut() =
            http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        Self::Answer(response)
    }
}

pub(crate) trait Handler: Send + Sync + 'static {
    fn answer(&self, request: Request) -> impl Future<Output = Reply> + Send;
}

pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Accepts until dropped; dropping closes all connections.
pub(crate) async fn serve<H: Handler>(listener: Listener, handler: Arc<H>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                let handler = Arc::clone(&handler);
                connections.spawn(async move { connection(stream, handler).await });
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                let handler = Arc::clone(&handler);
                connections.spawn(async move { connection(stream, handler).await });
            }),
        };
        if accepted.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn connection<H: Handler>(stream: impl AsyncRead + AsyncWrite + Unpin, handler: Arc<H>) {
    let service = service_fn(|request: http::Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move {
            let (parts, body) = request.into_parts();
            let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(io::Error::other)?.to_bytes();
            let request = Request {
                method: parts.method.to_string(),
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                body,
            };
            match handler.answer(request).await {
                Reply::Answer(response) => Ok(response.map(|body| Either::Left(Full::new(body)))),
                Reply::Endless => Ok(http::Response::new(Either::Right(EndlessBody))),
                Reply::Disconnect => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
                Reply::Silence => future::pending().await,
            }
        }
    });
    // A client that disconnects is not an error here.
    let _ =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

struct EndlessBody;

impl Body for EndlessBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const BLOCK: &[u8] = &[b'x'; 1 << 16];
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(BLOCK)))))
    }
}
